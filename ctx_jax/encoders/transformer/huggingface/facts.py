"""What the files of a Hugging Face folder say, also where `read` refuses them; no tensor is read."""

from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from ctx_jax.encoders.facts import Facts, tensor_facts
from ctx_jax.encoders.transformer.huggingface.config import (
    architecture_of_config,
    head_from_config,
    model_from_config,
    naming,
)
from ctx_jax.encoders.transformer.huggingface.layouts import LAYOUTS, decided_keys
from ctx_jax.encoders.transformer.huggingface.params import canonical_tensors, head_modules
from ctx_jax.encoders.transformer.huggingface.tensors import INDEX, WHOLE, tensor_files, tensor_shapes
from ctx_jax.encoders.transformer.model import Transformer
from ctx_jax.encoders.transformer.sentence_folders import MODULES, SETTINGS, transformer_folder
from ctx_jax.io.errors import CtxJaxError, InputError, brief
from ctx_jax.io.files import read_json, read_json_list
from ctx_jax.tokenizers import subword_files

_CONFIGS = ("config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def facts(path: Path) -> Facts | None:
    """The facts of a folder that has a `config.json` and looks like one of Hugging Face, or is one of
    sentence-transformers; None for another path."""
    try:
        folder = transformer_folder(path)
    except CtxJaxError:  # "modules" says it
        folder = path
    if not is_huggingface(folder):
        return None

    @cache
    def config() -> dict[str, Any]:
        return read_json(folder / "config.json")

    def model() -> Transformer:
        with naming(folder):
            return model_from_config(config())

    return {
        "format": lambda: "huggingface",
        "model_type": lambda: config().get("model_type"),
        "model": model,
        "tokenizer": lambda: _tokenizer(folder),
        "modules": lambda: _modules(path),
        "tensors": lambda: tensor_facts(tensor_shapes(folder)),
        "left_out": lambda: _left_out(folder, config()),
        "keys": lambda: _keys(folder, config()),
        "files": lambda: _files(path, folder),
    }


def is_huggingface(folder: Path) -> bool:
    """Whether it has a `config.json` that names a `model_type`, that is damaged, or that has tensors beside it."""
    path = folder / "config.json"
    if not path.is_file():
        return False
    try:
        return any((folder / name).is_file() for name in (WHOLE, INDEX)) or "model_type" in read_json(path)
    except InputError:
        return True


def _tokenizer(folder: Path) -> dict[str, Any]:
    found = subword_files.locate(folder)
    return {"class": found.class_name, "file": found.file.name}


def _modules(folder: Path) -> list[str]:
    """The types in modules.json; [] without one."""
    path = folder / MODULES
    if not path.is_file():
        return []
    modules = read_json_list(path)
    if not all(isinstance(module, dict) and "type" in module for module in modules):
        raise InputError(f"{path} must list modules, each an object with a type, got {brief(modules)}")
    return [str(module["type"]) for module in modules]


def _left_out(folder: Path, config: dict[str, Any]) -> list[str]:
    """The names of the tensors of heads that are not read."""
    with naming(folder):
        names = LAYOUTS[architecture_of_config(config)].names
        model = model_from_config(config)
        head = head_from_config(config, model)
        shapes: Any = {
            name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, (_, shape) in tensor_shapes(folder).items()
        }
        return head_modules(names, head, canonical_tensors(names, shapes), model.activation)[1]


def _keys(folder: Path, config: dict[str, Any]) -> dict[str, list[str]]:
    with naming(folder):
        return decided_keys(architecture_of_config(config), config)


def _files(path: Path, folder: Path) -> list[str]:
    """Of the files that are read those that are there, as seen from `path`."""
    paths = [folder / name for name in (*_CONFIGS, WHOLE, INDEX)]
    if (path / MODULES).is_file():
        paths += [
            path / MODULES,
            path / SETTINGS,
            folder / "sentence_bert_config.json",
            *path.glob("[0-9]*/config.json"),
        ]
    for find in (lambda: tensor_files(folder), lambda: _vocabulary(folder)):
        try:
            paths += find()
        except (InputError, FileNotFoundError):
            continue  # it is told where the tensors and the tokenizer are
    return sorted({file.relative_to(path).as_posix() for file in paths if file.is_file()})


def _vocabulary(folder: Path) -> list[Path]:
    file = subword_files.locate(folder).file
    return [file, folder / "merges.txt"] if file.name == "vocab.json" else [file]
