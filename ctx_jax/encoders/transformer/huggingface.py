"""Hugging Face folders, both ways: `config.json`, safetensors, tokenizer files.

BERT (MiniLM's too), RoBERTa, XLM-R, DistilBERT, ModernBERT, GPT-2 and GPT; headless or with the vocabulary head. The
tables stand in `huggingface_names` and `huggingface_configs`.
"""

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ctx_jax.checkpoints.run_files import ORIGIN
from ctx_jax.encoders.transformer.huggingface_config import (
    architecture_of,
    architecture_of_config,
    config_from_model,
    model_from_config,
    special_ids,
    tokenizer_settings,
)
from ctx_jax.encoders.transformer.huggingface_names import Architecture, Entry, Names, bare, expand, names_of
from ctx_jax.encoders.transformer.huggingface_tensors import WHOLE, read_tensors, write_tensors
from ctx_jax.encoders.transformer.model import Transformer, init
from ctx_jax.io.errors import InputError, MissingFileError
from ctx_jax.io.files import atomic_folder, atomic_write, read_json
from ctx_jax.io.flags import without_flags
from ctx_jax.tokenizers.subwords import Subwords


def read(folder: str | PathLike[str]) -> tuple[Transformer, dict[str, Any], dict[str, Any]]:
    """(model, params, the parsed config.json) of a Hugging Face folder; half-precision files become float32.

    Prefixes (`bert.`) and old norm names (`gamma`, `beta`) are taken as they come. Which heads the model has is read
    from the tensors.

    Raises FileNotFoundError, ValueError: config.json or the tensors are missing, damaged, or do not fit; every
    missing, unexpected and misshapen tensor is listed in one error.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise MissingFileError(f"{folder}: needs config.json")
    config = read_json(folder / "config.json")
    with _of(folder):
        names = names_of(architecture_of_config(config))
    tensors = _bare_tensors(folder, names, read_tensors(folder))
    with _of(folder):
        model = _model(names, config, tensors)
    return model, params_from_tensors(model, tensors, names, str(folder)), config


@contextmanager
def _of(folder: Path) -> Iterator[None]:
    """An error about a config.json says which one, and names no flags, which it has not."""
    try:
        yield
    except ValueError as error:
        raise InputError(f"{folder}: {without_flags(str(error))}") from error


def _bare_tensors(folder: Path, names: Names, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    result: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        short = bare(names, name)
        if re.fullmatch(names.ignored, short):
            continue
        if short in result:
            raise InputError(f"{folder}: two tensors are {short} by their names, one of them {name}; drop one")
        result[short] = tensor
    return result


def _model(names: Names, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Transformer:
    tied = bool(config.get("tie_word_embeddings", True))
    # GPT's head is the tied embedding alone, so that a headless file has it too.
    free = tied and len(names.heads) == 1
    return model_from_config(
        config,
        head=free or any(name.startswith(names.head_marks) for name in tensors),
        pooler=any(name.startswith("pooler.") for name in tensors),
        next_sentence=any(name.startswith("cls.seq_relationship.") for name in tensors),
    )


def params_from_tensors(
    model: Transformer, tensors: Mapping[str, np.ndarray], names: Names, place: str
) -> dict[str, Any]:
    """The parameters of `model` from tensors under their bare names.

    Raises ValueError listing every missing, unexpected and misshapen tensor, and second copies of tied tensors that
    differ from the first; `place` says where in the message.
    """
    shapes = _shapes(model)
    entries = {entry.name: entry for entry in expand(names.body + names.heads, model.layers, {*shapes})}
    given = dict(_without_copies(model, tensors, names, place))
    faults = [f"missing {name}" for name in entries if name not in given]
    faults += [f"unexpected {name} {list(given[name].shape)}" for name in sorted(given.keys() - entries.keys())]
    for name in entries.keys() & given.keys():
        needed = _file_shape(entries[name], shapes)
        if given[name].shape != needed:
            faults.append(f"misshapen {name}: the config needs {list(needed)}, it is {list(given[name].shape)}")
        elif given[name].dtype.kind not in "fV":
            faults.append(f"mistyped {name}: floating point is needed, it is {given[name].dtype}")
    if faults:
        raise InputError(f"{place}: the tensors do not fit config.json:\n  " + "\n  ".join(faults))
    params: dict[str, Any] = {}
    for name, entry in entries.items():
        whole = given[name].astype(np.float32)
        for path, part in zip(entry.paths, _split(entry, whole), strict=True):
            *outer, last = path.split("/")
            node = params
            for step in outer:
                node = node.setdefault(step, {})
            node[last] = jnp.asarray(part)
    return params


def _without_copies(
    model: Transformer, tensors: Mapping[str, np.ndarray], names: Names, place: str
) -> Mapping[str, np.ndarray]:
    """The tensors without second copies of tied ones, which some files hold; they must equal the first."""
    given = dict(tensors)
    pairs = [(names.embedding, names.tied_copy)] if model.tied else []
    if names.bias_copy:
        first, second = names.bias_copy
        if model.tied:
            pairs.append((first, second))
        elif second in given:
            # Untied, transformers adds the second and never reads the first.
            given[first] = given.pop(second)
    for first, second in pairs:
        if second not in given:
            continue
        copy = given.pop(second)
        if first not in given:
            given[first] = copy
        elif not np.array_equal(given[first], copy):
            raise InputError(f"{place}: config.json ties {second} to {first}, but they differ; set tie_word_embeddings")
    return given


def _shapes(model: Transformer) -> dict[str, tuple[int, ...]]:
    tree = jax.eval_shape(partial(init, model), jax.random.key(0))
    return {path: leaf.shape for path, leaf in _flat(tree).items()}


def _flat(tree: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in tree.items():
        result |= _flat(value, f"{before}{name}/") if isinstance(value, Mapping) else {f"{before}{name}": value}
    return result


def _file_shape(entry: Entry, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    *inputs, outputs = shapes[entry.paths[0]]
    joined = (*inputs, outputs * len(entry.paths))
    return joined[::-1] if entry.transposed else joined


def _split(entry: Entry, whole: np.ndarray) -> list[np.ndarray]:
    return np.split(whole.T if entry.transposed else whole, len(entry.paths), axis=-1)


def _join(entry: Entry, params: Mapping[str, Any]) -> np.ndarray:
    whole = np.concatenate([np.asarray(params[path], np.float32) for path in entry.paths], axis=-1)
    return whole.T if entry.transposed else whole


def tensors_from_params(
    model: Transformer, params: Mapping[str, Any], architecture: Architecture
) -> dict[str, np.ndarray]:
    """The tensors of a file, under the names transformers gives them there: prefixed where the model has a head.

    Tied tensors stand once. Raises ValueError for parameters that do not fit the model or that the file cannot hold.
    """
    names, flat, shapes = names_of(architecture), _flat(params), _shapes(model)
    wrong = sorted(
        path for path in flat.keys() | shapes.keys() if path not in flat or np.shape(flat[path]) != shapes.get(path)
    )
    if wrong:
        raise InputError(f"the parameters do not fit the model at {wrong}")
    body, heads = (expand(part, model.layers, {*flat}) for part in (names.body, names.heads))
    homeless = sorted(flat.keys() - {path for entry in body + heads for path in entry.paths})
    if homeless:
        raise InputError(f"a file of {architecture} has no place for {homeless}")
    prefix = names.prefix if model.head != "none" or model.next_sentence else ""
    tensors = {prefix + entry.name: _join(entry, flat) for entry in body}
    tensors |= {entry.name: _join(entry, flat) for entry in heads}
    if names.bias_copy and not model.tied and names.bias_copy[0] in tensors:
        tensors[names.bias_copy[1]] = tensors[names.bias_copy[0]]
    return tensors


def write(
    folder: str | PathLike[str],
    model: Transformer,
    params: Mapping[str, Any],
    *,
    architecture: Architecture | None = None,
    subwords: Subwords | None = None,
) -> None:
    """Write a folder that transformers loads with nothing missing and nothing new.

    architecture  absent: the one whose files fit the model
    subwords      its tokenizer, written beside it; config.json names its special tokens by id

    The folder appears whole or not at all.
    transformers has no class with a vocabulary head and a pooler but without the next-sentence head: there the pooler
    is left out and a warning says so; so does one where config.json has fewer dropout rates than the model. Raises
    ValueError for a model no file of the architecture can express, FileExistsError for a folder that is not empty.
    """
    architecture = architecture or architecture_of(model)
    if model.head != "none" and model.pooler and not model.next_sentence:
        warnings.warn(
            f"the pooler is left out: no class of {architecture} has it beside a vocabulary head", stacklevel=2
        )
        model = replace(model, pooler=False)
        params = {name: value for name, value in params.items() if name != "pooler"}
    entries = {**(special_ids(subwords) if subwords else {}), **config_from_model(model, architecture)}
    entries |= {"architectures": [_class(model, architecture)], "dtype": "float32"}
    tensors = tensors_from_params(model, params, architecture)
    with atomic_folder(Path(folder)) as partial:
        write_tensors(partial / WHOLE, tensors)
        (partial / "config.json").write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
        if subwords:
            subwords.save(partial, tokenizer_settings(model))


def _class(model: Transformer, architecture: Architecture) -> str:
    classes = names_of(architecture).classes
    if not model.next_sentence:
        return classes["base" if model.head == "none" else "head"]
    kind = "pretraining" if model.head != "none" else "next_sentence"
    if kind not in classes:
        raise InputError(
            f"no class of {architecture} has a next-sentence head: leave pooler and next_sentence out of the model and "
            "its parameters"
        )
    return classes[kind]


def kept_architecture(folder: str | PathLike[str]) -> Architecture | None:
    """The model_type of a Hugging Face folder, or of the import that a run began with; None for a run of its own."""
    for name in (ORIGIN, "config.json"):
        entries = read_json(Path(folder) / name) if (Path(folder) / name).is_file() else {}
        if "model_type" in entries:
            return architecture_of_config(entries)
    return None


def keep_architecture(run_dir: str | PathLike[str], architecture: Architecture | None) -> None:
    """Note in a run's directory what it began with: XLM-R's shape is RoBERTa's, and only its files say which it is."""
    path = Path(run_dir) / ORIGIN
    if architecture is None:
        path.unlink(missing_ok=True)
    else:
        atomic_write(path, json.dumps({"model_type": architecture}) + "\n")
