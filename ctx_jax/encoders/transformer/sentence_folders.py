"""Read and write what a sentence-transformers folder has beside its Transformer.

    modules.json                         the modules in order: Transformer, Pooling, then Dense and Normalize
    config_sentence_transformers.json    prompts, dimensions that are kept, how vectors are compared
    sentence_bert_config.json            in the Transformer's folder ("" or "0_Transformer"): length, lower-casing
    1_Pooling/, 2_Dense/ ...             config.json, model.safetensors

The reference is sentence-transformers 6.2. What a module says that is not computed here is refused by key.
"""

import json
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

from ctx_jax.encoders.base import Imported
from ctx_jax.encoders.transformer.sentence_modules import (
    checked_keys,
    flag,
    positive,
    read_dense,
    read_normalize,
    read_pooling,
    write_dense,
    write_pooling,
)
from ctx_jax.heads import Head, SentenceModules
from ctx_jax.heads.sentence import NORMALIZE
from ctx_jax.io.errors import InputError, brief
from ctx_jax.io.files import read_json, read_json_list
from ctx_jax.tokenizers.subwords import CONFIG as TOKENIZER_CONFIG
from ctx_jax.tokenizers.subwords import FILE as TOKENIZER

MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"

# The file of the Transformer module, by the names that old versions gave it; the first that says anything counts.
_BODY = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
BODY_SETTINGS = tuple(f"sentence_{name}_config.json" for name in _BODY)

_SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
_HOMES = {
    "Transformer": "base.modules.transformer",
    "Pooling": "sentence_transformer.modules.pooling",
    "Dense": "base.modules.dense",
    "Normalize": "base.modules.normalize",
}
TYPES = {
    f"sentence_transformers.{place}": name
    for name, home in _HOMES.items()
    for place in (
        f"models.{name}",
        f"models.{name}.{name}",
        f"sentence_transformer.modules.{name}",
        f"{home}.{name}",
    )
}
"""The classes that modules.json may name, in the spelling of old and new versions."""

_TEXT_ONLY = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
# Keys of the Transformer module, with the values that change nothing; None may stand for each.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "transformer_task": ("feature-extraction",),
    "modality_config": (_TEXT_ONLY,),
    "module_output_name": ("token_embeddings",),
    "processing_kwargs": ({},),
    "unpad_inputs": (True, False),
    "query_length": (),
    "document_length": (),
    "query_expansion": (),
    "tokenizer_name_or_path": (),
    **{
        f"{what}_{kind}": ({},) for what in ("model", "tokenizer", "processor", "config") for kind in ("args", "kwargs")
    },
}
_LARGE = 10**9  # transformers writes 10^30 for "any length"


class _Module(NamedTuple):
    kind: str
    path: str


def transformer_folder(folder: Path) -> Path:
    """The folder of the Transformer in a sentence-transformers folder; `folder` itself without a modules.json."""
    return folder / _modules(folder)[0].path if (folder / MODULES).is_file() else folder


def module_paths(folder: Path) -> list[str]:
    """The folders of the modules of a sentence-transformers folder, the Transformer's first; "" is `folder` itself."""
    return [module.path for module in _modules(folder)]


def with_modules(folder: Path, imported: Imported) -> Imported:
    """The encoder of `transformer_folder(folder)`, with the folder's modules and lower-casing."""
    modules = _modules(folder)
    body = folder / modules[0].path
    lowercase, length = _body_settings(body, imported.processor.longest)
    pooling, include_prompt = read_pooling(folder / modules[1].path, imported.model.width)
    width, names, heads = imported.model.width * len(pooling), [], dict(imported.heads)
    for module in modules[2:]:
        if module.kind == "Normalize":
            read_normalize(folder / module.path)
            names.append(NORMALIZE)
            continue
        dense = read_dense(folder / module.path, width)
        if module.path in heads or module.path == NORMALIZE:
            raise InputError(f"{folder / MODULES}: path {brief(module.path)} is taken: give each module its own folder")
        heads[module.path], width = dense.head, dense.outputs
        names.append(module.path)
    processor: Any = imported.processor.lower_cased() if lowercase else imported.processor  # type: ignore[attr-defined]
    whole = processor.of_texts()
    special = whole.sizes(whole.split([""], "tokens"))[0]
    if length is not None and length <= special:
        raise InputError(f"{body}: texts are cut to {length} tokens, of which {special} are special ones")
    sentence = SentenceModules(pooling, include_prompt, tuple(names), length=length, **_settings(folder / SETTINGS))
    return imported._replace(processor=processor, heads=heads, sentence=sentence)


def _modules(folder: Path) -> list[_Module]:
    path = folder / MODULES
    modules, names = [], set()
    for place, entry in enumerate(read_json_list(path)):
        if not isinstance(entry, Mapping):
            raise InputError(f"{path}: entry {place} must be an object, got {brief(entry)}")
        checked_keys(path, entry, ("idx", "name", "path", "type", "kwargs"))
        kind, where, name = entry.get("type"), entry.get("path"), entry.get("name")
        if not isinstance(kind, str) or kind not in TYPES:
            known = ", ".join(_HOMES)
            raise InputError(
                f"{path}: type of entry {place} is {brief(kind)}; these can be computed: {known} of "
                "sentence_transformers. For the encoder alone, load the Transformer's folder without modules.json"
            )
        if not isinstance(where, str) or not _is_inside(where):
            raise InputError(f"{path}: path of entry {place} must be a folder in this one, got {brief(where)}")
        if not isinstance(name, str) or name in names:
            raise InputError(f"{path}: name of entry {place} must be a name of its own, got {brief(name)}")
        if entry.get("kwargs"):
            raise InputError(f"{path}: kwargs of entry {place} is {brief(entry['kwargs'])}, only none can be expressed")
        names.add(name)
        modules.append(_Module(TYPES[kind], where))
    kinds = [module.kind for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or not {"Transformer", "Pooling"}.isdisjoint(kinds[2:]):
        raise InputError(f"{path}: needs Transformer, Pooling, then Dense and Normalize; has {', '.join(kinds[:20])}")
    if any(module.path in ("", ".") for module in modules[1:]):
        raise InputError(f"{path}: only the Transformer may have its files in the folder itself: give each a path")
    return modules


def _is_inside(path: str) -> bool:
    """Whether it can be the path of a folder below another one."""
    windows = PureWindowsPath(path)
    return path.isprintable() and len(path.encode()) < 200 and not windows.anchor and ".." not in windows.parts


def _settings(path: Path) -> dict[str, Any]:
    """Fields of `SentenceModules` from config_sentence_transformers.json. Keys that sentence-transformers does not read
    are left alone."""
    config = read_json(path) if path.is_file() else {}
    if (kind := config.get("model_type", "SentenceTransformer")) != "SentenceTransformer":
        raise InputError(f"{path}: model_type is {brief(kind)}, only 'SentenceTransformer' can be expressed")
    prompts = config.get("prompts", {})
    texts = prompts.values() if isinstance(prompts, Mapping) else [0]
    if not all(text is None or isinstance(text, str) for text in texts):
        raise InputError(f"{path}: prompts must be an object of names and texts, got {brief(prompts)}")
    prompts = {"query": None, "document": None, **prompts}
    default = config.get("default_prompt_name")
    if default is not None and (not isinstance(default, str) or default not in prompts):
        raise InputError(f"{path}: default_prompt_name must be one of prompts, got {brief(default)}")
    similarity = config.get("similarity_fn_name")
    if similarity is not None and (not isinstance(similarity, str) or similarity not in _SIMILARITIES):
        raise InputError(f"{path}: similarity_fn_name must be one of {_SIMILARITIES}, got {brief(similarity)}")
    kept = config.get("truncate_dim")
    return {
        "dimensions": None if kept is None else positive(path, config, "truncate_dim"),
        "prompts": {name: text or "" for name, text in prompts.items()},
        "default_prompt": default,
        "similarity": similarity,
    }


def _body_settings(body: Path, longest: int | None) -> tuple[bool, int | None]:
    """Whether text is lower-cased, and the longest text in tokens: None where it is that of the positions."""
    path, config = body / BODY_SETTINGS[0], {}
    for name in BODY_SETTINGS:
        if (body / name).is_file() and (config := read_json(body / name)):
            path = body / name
            break
    checked_keys(path, config, ("max_seq_length", "do_lower_case", *_NEUTRAL))
    for key, neutral in _NEUTRAL.items():
        value = config.get(key)
        if isinstance(value, Mapping) and key.endswith("args"):  # sentence-transformers drops this entry from each
            value = {name: entry for name, entry in value.items() if name != "trust_remote_code"}
        if value is not None and not any(type(value) is type(each) and value == each for each in neutral):
            raise InputError(f"{path}: {key} is {brief(value)}, which cannot be expressed: leave it out")
    given = config.get("max_seq_length") is not None
    length = positive(path, config, "max_seq_length") if given else tokenizer_length(body)
    _check_side(body)
    return flag(path, config, "do_lower_case", False), shorter(length, longest)


def shorter(length: int | None, longest: int | None) -> int | None:
    """A length at which texts are cut, if the model, whose positions hold `longest` tokens (None: any), takes more."""
    return None if length is None or (longest is not None and length >= longest) else length


def tokenizer_length(folder: Path) -> int | None:
    """The tokens at which transformers cuts a text, as the folder's tokenizer_config.json says; None: any number.
    InputError for what is no number."""
    path = folder / TOKENIZER_CONFIG
    config = read_json(path) if path.is_file() else {}
    key = "model_max_length" if "model_max_length" in config else "max_len"
    if config.get(key) is None or (type(config[key]) in (int, float) and config[key] > _LARGE):
        return None
    return positive(path, config, key)


def _check_side(body: Path) -> None:
    """InputError for a tokenizer that cuts texts at their beginning."""
    config = read_json(body / TOKENIZER_CONFIG) if (body / TOKENIZER_CONFIG).is_file() else {}
    side = config.get("truncation_side")
    if side is None and "truncation_side" not in config and (body / TOKENIZER).is_file():
        truncation = read_json(body / TOKENIZER).get("truncation")
        direction = truncation.get("direction", "Right") if isinstance(truncation, Mapping) else "Right"
        if direction != "Right":
            raise InputError(f"{body / TOKENIZER}: direction of truncation is {brief(direction)}, only 'Right' is read")
    elif side != "right" and "truncation_side" in config:
        raise InputError(f"{body / TOKENIZER_CONFIG}: truncation_side is {brief(side)}, only 'right' can be expressed")


def write_modules(
    folder: Path, sentence: SentenceModules, heads: Mapping[str, Head], *, width: int, longest: int
) -> None:
    """Write the files beside a Transformer's in `folder`; `longest` is the longest text that its positions hold."""
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")]
    write_pooling(folder / "1_Pooling", sentence.pooling, include_prompt=sentence.include_prompt, width=width)
    for name in sentence.modules:
        kind = "Normalize" if name == NORMALIZE else "Dense"
        modules.append((kind, f"{len(modules)}_{kind}"))
        if kind == "Dense":
            write_dense(folder / modules[-1][1], heads[name])
    entries = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (kind, path) in enumerate(modules)
    ]
    _write(folder / MODULES, entries)
    settings = {
        "prompts": dict(sentence.prompts),
        "default_prompt_name": sentence.default_prompt,
        "similarity_fn_name": sentence.similarity,
    }
    _write(folder / SETTINGS, settings | ({"truncate_dim": sentence.dimensions} if sentence.dimensions else {}))
    _write(folder / BODY_SETTINGS[0], {"max_seq_length": sentence.length or longest, "do_lower_case": False})


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
