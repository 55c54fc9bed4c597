"""Read and write Hugging Face folders: `config.json`, safetensors, tokenizer files.

BERT (MiniLM included), RoBERTa, XLM-R, DistilBERT, ModernBERT, GPT-2 and GPT, with or without heads. The tables are in
`huggingface_names` and `huggingface_keys`.
"""

import json
import re
import warnings
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctx_jax.checkpoints.run_files import ORIGIN
from ctx_jax.encoders.base import Family, Imported
from ctx_jax.encoders.transformer.huggingface_config import (
    architecture_of,
    architecture_of_config,
    config_from_model,
    head_from_config,
    model_from_config,
    naming,
    special_ids,
    tokenizer_settings,
)
from ctx_jax.encoders.transformer.huggingface_names import NAMES, Architecture, Entry, Names, canonical, expand
from ctx_jax.encoders.transformer.huggingface_tensors import WHOLE, read_tensors, write_tensors
from ctx_jax.encoders.transformer.model import Transformer
from ctx_jax.heads import Head, Pooler, SequenceHead, VocabularyHead
from ctx_jax.io.errors import InputError, MissingFileError
from ctx_jax.io.files import atomic_folder, atomic_write, read_json
from ctx_jax.tokenizers.subwords import Subwords
from ctx_jax.typing import Params

VOCABULARY_HEADS = ("masked_lm", "causal_lm")


class Pretrained(NamedTuple):
    """What a Hugging Face folder holds."""

    model: Transformer
    params: Params
    heads: dict[str, Head]  # "masked_lm" or, of GPT and GPT-2, "causal_lm"; "pooler"; "next_sentence"
    config: dict[str, Any]  # the parsed config.json


def read(folder: str | PathLike[str]) -> Pretrained:
    """The model, its parameters and the heads of a Hugging Face folder; half-precision files become float32.

    Tensor names may have a prefix (`bert.`) and old norm names (`gamma`, `beta`). The names of the tensors tell
    which heads there are.

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
    names, tensors = NAMES[architecture_of_config(config)], read_tensors(folder)
    with naming(folder):
        tensors = _canonical_tensors(names, tensors)
        modules = _head_modules(names, vocabulary_head, tensors)
        trees = _params_from_tensors(model, modules, tensors, names)
    heads = {name: Head(module, trees.pop(name, {})) for name, module in modules.items()}
    return Pretrained(model, trees, heads, config)


def _canonical_tensors(names: Names, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    result: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        short = canonical(names, name)
        if re.fullmatch(names.ignored, short):
            continue
        if short in result:
            raise InputError(f"two tensors are named {short}, one of them as {name}: remove one")
        result[short] = tensor
    return result


def _head_modules(names: Names, vocabulary_head: VocabularyHead, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """name -> module of the heads of a file, recognised by the names of its tensors."""
    found = [
        head for head, prefixes in names.head_prefixes.items() if any(name.startswith(prefixes) for name in tensors)
    ]
    if "causal_lm" in names.head_prefixes and not vocabulary_head.has_params:
        found = ["causal_lm"]  # GPT's tied head is the token embedding, which a file of the base model has too
    if "next_sentence" in found and "pooler" not in found:
        found.append("pooler")  # the error then lists its tensors as missing
    modules = {"pooler": Pooler(), "next_sentence": SequenceHead()}
    return {name: modules.get(name, vocabulary_head) for name in found}


def _params_from_tensors(
    model: Transformer, heads: Mapping[str, Any], tensors: Mapping[str, np.ndarray], names: Names
) -> dict[str, Any]:
    """The encoder's parameters, and under the name of each of `heads` (name -> module) that head's parameters.

    `tensors` have canonical names. Raises InputError listing every missing, unexpected and misshapen tensor, and for
    copies of tied tensors that differ from the original.
    """
    shapes = _shapes(model, heads)
    entries = {entry.name: entry for entry in expand(names.body + names.heads, model.depth, {*shapes})}
    given = _without_copies(heads, tensors, names)
    problems = [f"missing {name}" for name in entries if name not in given]
    problems += [f"unexpected {name} {list(given[name].shape)}" for name in sorted(given.keys() - entries.keys())]
    for name in entries.keys() & given.keys():
        needed = _file_shape(entries[name], shapes)
        if given[name].shape != needed:
            problems.append(f"misshapen {name}: the config needs {list(needed)}, it is {list(given[name].shape)}")
        elif given[name].dtype.kind not in "fV":
            problems.append(f"mistyped {name}: floating point is needed, it is {given[name].dtype}")
    if problems:
        raise InputError("the tensors do not fit config.json:\n  " + "\n  ".join(problems))
    params: dict[str, Any] = {}
    for name, entry in entries.items():
        tensor = given[name].astype(np.float32)
        parts = np.split(tensor.T if entry.transposed else tensor, len(entry.paths), axis=-1)
        for path, part in zip(entry.paths, parts, strict=True):
            *outer, last = path.split("/")
            node = params
            for step in outer:
                node = node.setdefault(step, {})
            node[last] = jnp.asarray(part)
    return params


def _without_copies(heads: Mapping[str, Any], tensors: Mapping[str, np.ndarray], names: Names) -> dict[str, np.ndarray]:
    """The tensors without the copies of tied tensors that some files hold; a copy must equal its original."""
    given = dict(tensors)
    tied = all(heads[name].tied for name in VOCABULARY_HEADS if name in heads)
    pairs = [(names.embedding, names.tied_copy)] if tied else []
    if names.bias_copy:
        first, second = names.bias_copy
        if tied:
            pairs.append((first, second))
        elif second in given:
            # For untied decoders transformers adds the second bias and never reads the first.
            given[first] = given.pop(second)
    for first, second in pairs:
        if second not in given:
            continue
        copy = given.pop(second)
        if first not in given:
            given[first] = copy
        elif not np.array_equal(given[first], copy):
            raise InputError(f"config.json ties {second} to {first}, but they differ; set tie_word_embeddings")
    return given


def _shapes(model: Transformer, heads: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """path -> shape of the encoder's parameters and of the heads', whose paths start with the head's name."""

    def init(key: jax.Array) -> dict[str, Any]:
        params = model.init(key)
        for name, head in heads.items():
            sizes = {"vocabulary": model.vocabulary} if name in VOCABULARY_HEADS else {}
            params[name] = head.init(key, width=model.width, **sizes)
        return params

    return {path: leaf.shape for path, leaf in _flat(jax.eval_shape(init, jax.random.key(0))).items()}


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _file_shape(entry: Entry, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    *inputs, outputs = shapes[entry.paths[0]]
    joined = (*inputs, outputs * len(entry.paths))
    return joined[::-1] if entry.transposed else joined


def _tensors_from_params(
    model: Transformer, params: Params, architecture: Architecture, heads: Mapping[str, Head]
) -> dict[str, np.ndarray]:
    """The tensors of a file under transformers' names, with the prefix if there is a head other than the pooler.

    Tied tensors are written once. Raises InputError for parameters that do not fit the model or its heads, and for
    parameters that the file format has no tensor for.
    """
    names = NAMES[architecture]
    flat = _flat({**params, **{name: head.params for name, head in heads.items()}})
    shapes = _shapes(model, {name: head.module for name, head in heads.items()})
    wrong = sorted(
        path for path in flat.keys() | shapes.keys() if path not in flat or np.shape(flat[path]) != shapes.get(path)
    )
    if wrong:
        raise InputError(f"the parameters do not fit the model at {wrong}")
    body, above = (expand(part, model.depth, {*flat}) for part in (names.body, names.heads))
    unsupported = sorted(flat.keys() - {path for entry in body + above for path in entry.paths})
    if unsupported:
        raise InputError(f"a file of {architecture} has no place for {unsupported}")
    prefix = names.prefix if heads.keys() - {"pooler"} else ""
    tensors = {}
    for entry in body + above:
        tensor = np.concatenate([np.asarray(flat[path], np.float32) for path in entry.paths], axis=-1)
        name = entry.name if entry in above else prefix + entry.name
        tensors[name] = tensor.T if entry.transposed else tensor
    tied = all(heads[name].module.tied for name in VOCABULARY_HEADS if name in heads)
    if names.bias_copy and not tied and names.bias_copy[0] in tensors:
        tensors[names.bias_copy[1]] = tensors[names.bias_copy[0]]
    return tensors


def write(
    folder: str | PathLike[str],
    model: Transformer,
    params: Params,
    *,
    heads: Mapping[str, Head] | None = None,
    architecture: Architecture | None = None,
    subwords: Subwords | None = None,
) -> None:
    """Write a folder that transformers loads with no missing or unexpected tensor; after an error there is no folder.

    heads         by name, as `read` gives them
    architecture  None: the one whose files fit the model
    subwords      the tokenizer, written beside the model; config.json names its special tokens by id

    Two losses cause a warning. The pooler is left out if there is a vocabulary head but no next-sentence head, since
    transformers has no class with these; and config.json may have fewer dropout rates than the model.

    Raises InputError for a model or heads that no file of the architecture can express, ExistingFileError for a folder
    that is not empty.
    """
    architecture, heads = architecture or architecture_of(model), dict(heads or {})
    if heads.keys() & {*VOCABULARY_HEADS} and "pooler" in heads and "next_sentence" not in heads:
        warnings.warn(
            f"the pooler is left out: no class of {architecture} has it beside a vocabulary head", stacklevel=2
        )
        del heads["pooler"]
    classes = NAMES[architecture].classes
    if frozenset(heads) not in classes:
        supported = [sorted(names) for names in classes]
        raise InputError(f"no class of {architecture} has the heads {sorted(heads)}; they can be one of {supported}")
    vocabulary_head = next((heads[name].module for name in VOCABULARY_HEADS if name in heads), None)
    config = {
        **(special_ids(subwords) if subwords else {}),
        **config_from_model(model, architecture, head=vocabulary_head),
        "architectures": [classes[frozenset(heads)]],
        "dtype": "float32",
    }
    tensors = _tensors_from_params(model, params, architecture, heads)
    with atomic_folder(Path(folder)) as partial:
        write_tensors(partial / WHOLE, tensors)
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if subwords:
            subwords.save(partial, tokenizer_settings(model))


def recorded_architecture(folder: str | PathLike[str]) -> Architecture | None:
    """The model_type of a Hugging Face folder, or of the import that a run started from; None for other runs."""
    for name in (ORIGIN, "config.json"):
        entries = read_json(Path(folder) / name) if (Path(folder) / name).is_file() else {}
        if "model_type" in entries:
            return architecture_of_config(entries)
    return None


def record_architecture(run_dir: str | PathLike[str], architecture: Architecture | None) -> None:
    """Record in a run's directory which architecture it started from. It cannot be read from the model where two
    architectures are equal in shape (XLM-R and RoBERTa)."""
    path = Path(run_dir) / ORIGIN
    if architecture is None:
        path.unlink(missing_ok=True)
    else:
        atomic_write(path, json.dumps({"model_type": architecture}) + "\n")


def read_folder(folder: Path) -> Imported | None:
    """The encoder of a Hugging Face folder, its tokenizer included; None for a path of another kind."""
    if not (folder / "config.json").is_file() or "model_type" not in read_json(folder / "config.json"):
        return None
    found = read(folder)
    return Imported(found.model, found.params, found.model.inputs(folder), found.heads)


def write_folder(
    folder: Path, model: Transformer, params: Params, heads: Mapping[str, Head], processor: Any, run_dir: Path
) -> None:
    """A run's encoder, heads and tokenizer, as `write` writes them."""
    architecture = recorded_architecture(run_dir)
    write(folder, model, params, heads=heads, architecture=architecture, subwords=processor.subwords)


FAMILY = Family(Transformer, "config.json with a model_type (Hugging Face)", read_folder, "huggingface", write_folder)
