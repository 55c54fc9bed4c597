"""Read and write Hugging Face folders: `config.json`, safetensors, tokenizer files.

BERT (MiniLM included), RoBERTa, XLM-R, GPT-2 and many more, with or without heads. `layouts` lists them.
"""

import json
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from ctx_jax.encoders.base import Imported
from ctx_jax.encoders.transformer.huggingface.config import (
    architecture_of_config,
    head_from_config,
    key_of,
    model_from_config,
    naming,
)
from ctx_jax.encoders.transformer.huggingface.export import (
    architecture_of,
    config_from_model,
    special_ids,
    tokenizer_settings,
)
from ctx_jax.encoders.transformer.huggingface.facts import is_huggingface
from ctx_jax.encoders.transformer.huggingface.labels import (
    label_entries,
    labelling_of,
    named_labels,
    prediction_head,
)
from ctx_jax.encoders.transformer.huggingface.layouts import LAYOUTS
from ctx_jax.encoders.transformer.huggingface.names import TOKENS, Architecture
from ctx_jax.encoders.transformer.huggingface.params import (
    canonical_tensors,
    head_modules,
    layers_held,
    module_key,
    params_from_tensors,
    tensors_from_params,
)
from ctx_jax.encoders.transformer.huggingface.tensors import WHOLE, read_tensors
from ctx_jax.encoders.transformer.model import Transformer
from ctx_jax.encoders.transformer.sentence_folders import (
    MODULES,
    shorter,
    tokenizer_length,
    transformer_folder,
    with_modules,
    write_modules,
)
from ctx_jax.heads import ClassificationHead, Head, Labelling, SentenceModules, VocabularyHead
from ctx_jax.io.errors import InputError, MissingFileError, listed
from ctx_jax.io.files import atomic_folder, read_json
from ctx_jax.io.safetensors_files import write_tensors
from ctx_jax.tokenizers.subwords import Subwords
from ctx_jax.typing import Params

_LOGGER = logging.getLogger("ctx_jax")


class Pretrained(NamedTuple):
    """What a Hugging Face folder holds."""

    model: Transformer
    params: Params
    heads: dict[str, Head]
    """"masked_lm" or, of GPT and GPT-2, "causal_lm"; "pooler", "next_sentence", "sentence_order" (ALBERT),
    "replaced_token" (ELECTRA's discriminator); "classifier", "qa_outputs", "score"."""
    config: dict[str, Any]  # the parsed config.json


def read(folder: str | PathLike[str]) -> Pretrained:
    """The model, its parameters and the heads of a Hugging Face folder; half-precision files become float32.

    Tensor names may have a prefix (`bert.`) and old norm names (`gamma`, `beta`). The names of the tensors tell
    which heads there are. A linear head ("classifier", "qa_outputs", GPT-2's "score") is a `SequenceHead` for the
    vectors that its class takes: of a BERT with a pooler the pooled one, of a GPT-2 the last token's, else each
    token's.
    RoBERTa's, DistilBERT's and ELECTRA's heads for sequences are `ClassificationHead`s for the first token,
    ModernBERT's for sequences or tokens. `labels` says what their labels are of. Tensors of heads of other
    kinds are left out, and one line of the log says so.

    Raises MissingFileError, InputError: config.json or the tensors are missing, damaged, or do not fit; one error lists
    every missing, unexpected and misshapen tensor.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise MissingFileError(f"{folder}: needs config.json")
    config = read_json(folder / "config.json")
    with naming(folder):
        model = model_from_config(config)
        vocabulary_head = head_from_config(config, model)
    architecture = architecture_of_config(config)
    names, tensors = LAYOUTS[architecture].names, read_tensors(folder)
    with naming(folder):
        tensors = canonical_tensors(names, tensors)
        tensors |= LAYOUTS[architecture].completed(config, tensors)
        if (held := layers_held(names, tensors)) < model.depth:
            key = key_of(architecture, "depth")
            raise InputError(f"{key} of config.json is {model.depth}, the tensors are those of {held} layers")
        modules, others = head_modules(names, vocabulary_head, tensors, model.activation)
        trees = params_from_tensors(
            model, modules, {name: tensor for name, tensor in tensors.items() if name not in {*others}}, names
        )
        modules = named_labels(config, modules)
    if others:
        _LOGGER.warning("%s: left out the tensors of heads that cannot be read: %s", folder, listed(others))
    heads = {name: Head(module, trees.pop(name, {})) for name, module in modules.items()}
    return Pretrained(model, trees, heads, config)


def write(
    folder: str | PathLike[str],
    model: Transformer,
    params: Params,
    *,
    heads: Mapping[str, Head] | None = None,
    architecture: Architecture | None = None,
    labelling: Labelling | None = None,
    subwords: Subwords | None = None,
    beside: Callable[[Path], None] | None = None,
) -> None:
    """Write a folder that transformers loads with no missing or unexpected tensor; after an error there is no folder.

    heads         by name, as `read` gives them
    architecture  None: the one whose files fit the model
    labelling     what "classifier" or "score" predicts; None: not known, and no problem_type is written
    subwords      the tokenizer, written beside the model; config.json names its special tokens by id
    beside        writes further files into the folder

    Two losses cause a warning. The pooler is left out where transformers has no class with it and the other heads, such
    as a vocabulary head alone; and config.json may have fewer dropout rates than the model.

    Raises InputError for a model or heads that no file of the architecture can express, ExistingFileError for a folder
    that is not empty.
    """
    architecture = architecture or architecture_of(model)
    heads, class_name = _class_of(architecture, dict(heads or {}), labelling)
    config = {
        **(special_ids(subwords) if subwords else {}),
        **config_from_model(model, architecture, head=_vocabulary_head(heads)),
        "architectures": [class_name],
        "dtype": "float32",
        **label_entries(heads, labelling),
    }
    if "score" in heads and config.get("pad_token_id") is None and subwords:
        config["pad_token_id"] = subwords.pad_id  # by which transformers finds the last token
    tensors = tensors_from_params(model, params, architecture, heads)
    with atomic_folder(Path(folder)) as partial:
        write_tensors(partial / WHOLE, tensors)
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if subwords:
            subwords.save(partial, tokenizer_settings(model, labelling.length if labelling else None))
        if beside:
            beside(partial)


def _class_of(
    architecture: Architecture, heads: dict[str, Head], labelling: Labelling | None
) -> tuple[dict[str, Head], str]:
    """The heads that are written, and transformers' class that has exactly these."""
    classes = LAYOUTS[architecture].names.classes
    if len(heads) > 1 and "causal_lm" in heads and not heads["causal_lm"].module.has_params:
        del heads["causal_lm"]  # it is the token embedding, which the classes with other heads have too
    of_tokens = labelling is not None and labelling.pooling is None
    if of_tokens:
        heads.pop("pooler", None)  # which files of old versions have beside labels of tokens
    keys = _class_keys(heads)
    if keys | {TOKENS} in classes:
        if labelling is None:
            raise InputError(f"files of {architecture} hold one head for labels of texts or of tokens: give labelling")
        keys |= {TOKENS} if of_tokens else set()
    if keys not in classes and keys - {"pooler"} in classes:
        others = sorted(heads.keys() - {"pooler"})
        warnings.warn(f"the pooler is left out: no class of {architecture} has it beside {others}", stacklevel=3)
        del heads["pooler"]
        keys = _class_keys(heads)
    if keys not in classes:
        supported = [sorted(names) for names in classes]
        raise InputError(f"no class of {architecture} has the heads {sorted(keys)}; they can be one of {supported}")
    return heads, classes[keys]


def _class_keys(heads: Mapping[str, Head]) -> frozenset[str]:
    return frozenset(module_key(name, head.module) for name, head in heads.items())


def _vocabulary_head(heads: Mapping[str, Head]) -> VocabularyHead | None:
    """The head that config.json describes, which of ModernBERT may be that of labels."""
    for head in heads.values():
        if isinstance(head.module, VocabularyHead):
            return head.module
        if isinstance(head.module, ClassificationHead) and head.module.norm_epsilon is not None:
            return prediction_head(head.module)
    return None


def read_folder(folder: Path) -> Imported | None:
    """The encoder of a Hugging Face or sentence-transformers folder, its tokenizer included; None for a path of another
    kind."""
    if (folder / MODULES).is_file():
        body = transformer_folder(folder)
        if not (body / "config.json").is_file():
            raise MissingFileError(f"{body / 'config.json'} is missing: {folder / MODULES} names its module")
        return with_modules(folder, _read_body(body))
    if not is_huggingface(folder):
        return None
    return _read_body(folder)


def _read_body(folder: Path) -> Imported:
    found = read(folder)
    architecture = architecture_of_config(found.config)
    with naming(folder):
        labelling = labelling_of(found.config, architecture, {name: head.module for name, head in found.heads.items()})
    inputs, longest = found.model.inputs(folder), found.model.longest
    if labelling is not None:
        labelling = replace(labelling, length=shorter(_cut_at(folder), longest))
    if labelling is not None and labelling.pooling == "last":
        labelling = replace(labelling, skips_end=found.config.get("pad_token_id") in inputs.subwords.after)
    return Imported(found.model, found.params, inputs, found.heads, None, architecture, labelling)


def _cut_at(folder: Path) -> int | None:
    """The length at which the folder's tokenizer cuts; what is no length does not keep the model from being read."""
    try:
        return tokenizer_length(folder)
    except InputError as error:
        _LOGGER.info("%s: texts are cut where the model's positions end", error)
        return None


def _architecture(encoder: Imported) -> Architecture:
    """That of the files it came from, else the one that fits the model."""
    known = (name for name in LAYOUTS if name == encoder.architecture)
    return next(known, None) or architecture_of(encoder.model)


def write_folder(folder: Path, encoder: Imported, run_dir: Path) -> None:
    """A run's encoder, heads and tokenizer, as `write` writes them. A warning names heads that have no place there."""
    processor: Any = encoder.processor
    architecture = _architecture(encoder)
    known = {key for keys in LAYOUTS[architecture].names.classes for key in keys}
    heads = {name: head for name, head in encoder.heads.items() if module_key(name, head.module) in known}
    if left := sorted(encoder.heads.keys() - heads.keys()):
        warnings.warn(f"a Hugging Face folder has no place for the heads left out: {', '.join(left)}", stacklevel=2)
    write(
        folder,
        encoder.model,
        encoder.params,
        heads=heads,
        architecture=architecture,
        labelling=encoder.labelling,
        subwords=processor.subwords,
    )


def write_sentence_folder(folder: Path, encoder: Imported, run_dir: Path) -> None:
    """A run's encoder and tokenizer with the modules that make one vector a text, for sentence-transformers.

    A run without modules gets the mean. A warning names heads that have no place in such a folder. InputError for
    vectors of another layer than the last, or of a mix, which the folder cannot say.
    """
    sentence, processor = encoder.sentence or SentenceModules(), encoder.processor
    layers = () if sentence.layers == "last" else (f"layers {sentence.layers}",)
    if beyond := (*layers, *sentence.unsupported):
        raise InputError(
            f"a sentence-transformers folder pools the last layer, and the run's vectors of texts are those of "
            f"{', '.join(beyond)}: train with layers last and another pooling than attention, or export the encoder as "
            "huggingface"
        )
    kept = (*sentence.modules, "pooler")
    if left := [name for name, head in encoder.heads.items() if name not in kept and head.params]:
        warnings.warn(f"a sentence-transformers folder holds no heads, left out: {', '.join(left)}", stacklevel=2)
    subwords = processor.subwords  # type: ignore[attr-defined]
    longest = encoder.model.longest

    def modules(partial: Path) -> None:
        write_modules(partial, sentence, encoder.heads, width=encoder.model.width, longest=longest)

    heads = {name: head for name, head in encoder.heads.items() if name == "pooler"}
    architecture = _architecture(encoder)
    write(
        folder,
        encoder.model,
        encoder.params,
        heads=heads,
        architecture=architecture,
        subwords=subwords,
        beside=modules,
    )
