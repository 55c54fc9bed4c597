"""What the files of a Hugging Face folder say, also where `read` refuses them; no tensor is read."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from ctx_jax.encoders.facts import Facts, tensor_facts
from ctx_jax.encoders.transformer.huggingface_config import (
    architecture_of_config,
    head_from_config,
    model_from_config,
    naming,
)
from ctx_jax.encoders.transformer.huggingface_keys import decided_keys
from ctx_jax.encoders.transformer.huggingface_names import NAMES
from ctx_jax.encoders.transformer.huggingface_params import canonical_tensors, head_modules
from ctx_jax.encoders.transformer.huggingface_tensors import INDEX, WHOLE, tensor_files, tensor_shapes
from ctx_jax.encoders.transformer.model import Transformer
from ctx_jax.io.errors import InputError, brief
from ctx_jax.io.files import read_json
from ctx_jax.tokenizers import subword_files

MODULES = "modules.json"
"""The modules of a sentence-transformers folder."""
_CONFIGS = ("config.json", MODULES, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def facts(folder: Path) -> Facts | None:
    """The facts of a folder that has a `config.json` and looks like one of Hugging Face; None for another path."""
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
        "modules": lambda: _modules(folder),
        "tensors": lambda: tensor_facts(tensor_shapes(folder)),
        "left_out": lambda: _left_out(folder, config()),
        "keys": lambda: _keys(folder, config()),
        "files": lambda: _files(folder),
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
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error!s:.200}): copy the file again") from error
    if not isinstance(modules, list) or not all(isinstance(module, dict) and "type" in module for module in modules):
        raise InputError(f"{path} must list modules, each an object with a type, got {brief(modules)}")
    return [str(module["type"]) for module in modules]


def _left_out(folder: Path, config: dict[str, Any]) -> list[str]:
    """The names of the tensors of heads that are not read."""
    with naming(folder):
        names = NAMES[architecture_of_config(config)]
        head = head_from_config(config, model_from_config(config))
        shapes: Any = {
            name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, (_, shape) in tensor_shapes(folder).items()
        }
        return head_modules(names, head, canonical_tensors(names, shapes))[1]


def _keys(folder: Path, config: dict[str, Any]) -> dict[str, list[str]]:
    with naming(folder):
        return decided_keys(architecture_of_config(config), config)


def _files(folder: Path) -> list[str]:
    """Of the files that are read those that are there."""
    paths = [folder / name for name in (*_CONFIGS, WHOLE, INDEX)]
    for find in (lambda: tensor_files(folder), lambda: _vocabulary(folder)):
        try:
            paths += find()
        except (InputError, FileNotFoundError):
            continue  # it is told where the tensors and the tokenizer are
    return sorted({path.name for path in paths if path.is_file()})


def _vocabulary(folder: Path) -> list[Path]:
    file = subword_files.locate(folder).file
    return [file, folder / "merges.txt"] if file.name == "vocab.json" else [file]
