"""The modules that follow a Transformer in a sentence-transformers folder: Pooling, Dense, Normalize."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from ctx_jax.encoders.transformer.huggingface.tensors import WHOLE, read_tensors
from ctx_jax.heads import DenseHead, Head
from ctx_jax.heads.sentence import PoolingMode
from ctx_jax.io.errors import InputError, MissingFileError, brief, listed
from ctx_jax.io.files import read_json
from ctx_jax.io.safetensors_files import write_tensors

CONFIG = "config.json"
_VECTOR = "sentence_embedding"  # sentence-transformers' name of a text's vector

# By our name of a mode, the flag of versions before 5.5, in the order in which these put several modes.
_FLAGS: dict[PoolingMode, str] = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
_CLASSES = {
    "tanh": "activation.Tanh",
    "relu": "activation.ReLU",
    "gelu": "activation.GELU",
    "sigmoid": "activation.Sigmoid",
    "silu": "activation.SiLU",
    "identity": "linear.Identity",
}
ACTIVATIONS = {
    f"torch.nn.{place}": own
    for own, home in _CLASSES.items()
    for place in (f"modules.{home}", f"modules.{home.split('.')[1]}", home.split(".")[1])
}
"""By the class that a Dense module names, ours; torch's defaults of the class's arguments are meant."""


class Dense(NamedTuple):
    head: Head
    outputs: int


def read_pooling(folder: Path, width: int) -> tuple[tuple[PoolingMode, ...], bool]:
    """The modes in order, and whether a prompt's tokens are pooled; `width` is that of the Transformer."""
    path, config = _config(folder)
    names = ("embedding_dimension", "word_embedding_dimension")
    checked_keys(path, config, (*names, "pooling_mode", "include_prompt", *_FLAGS.values()))
    held = [name for name in names if name in config]
    if not held:
        raise InputError(f"{path}: needs embedding_dimension")
    for name in held:
        if positive(path, config, name) != width:
            raise InputError(f"{path}: {name} is {config[name]}, the Transformer's width {width}")
    flags = tuple(mode for mode, name in _FLAGS.items() if flag(path, config, name, False))
    modes = config.get("pooling_mode", flags or ("mean",))
    modes = (modes,) if isinstance(modes, str) else modes
    known = get_args(PoolingMode)
    if not isinstance(modes, list | tuple) or not modes or not all(isinstance(m, str) and m in known for m in modes):
        raise InputError(f"{path}: pooling_mode must be one or several of {', '.join(known)}, got {brief(modes)}")
    if len(modes) > len(known):
        raise InputError(f"{path}: pooling_mode lists {len(modes)} modes, there are {len(known)}")
    return tuple(modes), flag(path, config, "include_prompt", True)


def read_normalize(folder: Path) -> None:
    """InputError for a Normalize module of anything but a text's vector; its folder may be missing."""
    if (folder / CONFIG).is_file():
        path, config = _config(folder)
        checked_keys(path, config, ("module_input_name", "module_output_name"))
        _check_vector(path, config)


def read_dense(folder: Path, inputs: int) -> Dense:
    """The Dense module of a folder, which takes vectors of `inputs` numbers."""
    path, config = _config(folder)
    sizes = ("in_features", "out_features")
    checked_keys(
        path, config, (*sizes, "bias", "activation_function", "module_input_name", "module_output_name", "use_residual")
    )
    _check_vector(path, config)
    given, outputs = (positive(path, config, key) for key in sizes)
    if given != inputs:
        raise InputError(f"{path}: in_features is {given}, the module before it gives vectors of {inputs} numbers")
    bias, residual = flag(path, config, "bias", True), flag(path, config, "use_residual", False)
    name = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    if not isinstance(name, str) or name not in ACTIVATIONS:
        known = sorted(set(ACTIVATIONS.values()))
        raise InputError(f"{path}: activation_function is {brief(name)}; these of torch.nn can be expressed: {known}")
    needed: dict[str, tuple[int, ...]] = {"linear.weight": (outputs, inputs)}
    if bias:
        needed["linear.bias"] = (outputs,)
    if residual and inputs != outputs:
        needed["residual.weight"] = (outputs, inputs)
    tensors = read_tensors(folder)
    if (found := {tensor: array.shape for tensor, array in tensors.items()}) != needed:
        got = listed(f"{tensor} {shape}" for tensor, shape in found.items())
        want = listed(f"{tensor} {shape}" for tensor, shape in needed.items())
        raise InputError(f"{folder / WHOLE}: needs {want}, has {got}")
    if wrong := [tensor for tensor, array in tensors.items() if array.dtype.kind not in "fV"]:
        raise InputError(f"{folder / WHOLE}: {wrong[0]} holds {tensors[wrong[0]].dtype}, needed are floats")
    arrays = {tensor: np.asarray(array, np.float32) for tensor, array in tensors.items()}
    params = {"kernel": arrays["linear.weight"].T}
    if bias:
        params["bias"] = arrays["linear.bias"]
    if "residual.weight" in arrays:
        params["residual"] = arrays["residual.weight"].T
    return Dense(Head(DenseHead(ACTIVATIONS[name], residual), params), outputs)  # type: ignore[arg-type]


def write_pooling(folder: Path, modes: tuple[PoolingMode, ...], *, include_prompt: bool, width: int) -> None:
    """Write a Pooling module in the keys that old and new versions read, where these can say it."""
    config: dict[str, Any] = {"word_embedding_dimension": width, "include_prompt": include_prompt}
    config |= {name: mode in modes for mode, name in _FLAGS.items()}
    if modes != tuple(mode for mode in _FLAGS if mode in modes):
        config["pooling_mode"] = list(modes)  # an order that the flags cannot say
    _write(folder, config)


def write_dense(folder: Path, head: Head) -> None:
    """Write a Dense module."""
    params = {name: np.asarray(array) for name, array in head.params.items()}
    tensors = {"linear.weight": params["kernel"].T}
    if "bias" in params:
        tensors["linear.bias"] = params["bias"]
    if "residual" in params:
        tensors["residual.weight"] = params["residual"].T
    activation = next(name for name, own in ACTIVATIONS.items() if own == head.module.activation)
    inputs, outputs = params["kernel"].shape
    config = {"in_features": inputs, "out_features": outputs, "bias": "bias" in params}
    config |= {"activation_function": activation} | ({"use_residual": True} if head.module.residual else {})
    _write(folder, config)
    write_tensors(folder / WHOLE, tensors)


def checked_keys(path: Path, config: Mapping[str, Any], known: Collection[str]) -> None:
    """InputError for a key that is not among `known`."""
    if unknown := [key for key in config if key not in known]:
        raise InputError(f"{path}: the keys {listed(unknown)} cannot be expressed; known are {sorted(known)}")


def flag(path: Path, config: Mapping[str, Any], key: str, default: bool) -> bool:
    """An optional key that must be true or false."""
    if type(value := config.get(key, default)) is not bool:
        raise InputError(f"{path}: {key} needs a bool, got {brief(value)}")
    return value


def positive(path: Path, config: Mapping[str, Any], key: str) -> int:
    """A key that must be a positive integer."""
    if type(value := config.get(key)) is not int or not 0 < value < 2**31:
        raise InputError(f"{path}: {key} needs a positive integer below 2^31, got {brief(value)}")
    return value


def _config(folder: Path) -> tuple[Path, dict[str, Any]]:
    path = folder / CONFIG
    if not path.is_file():
        raise MissingFileError(f"{path} is missing: modules.json names its module")
    return path, read_json(path)


def _check_vector(path: Path, config: Mapping[str, Any]) -> None:
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (_VECTOR, None) or (key in config and config[key] is None and "input" in key):
            raise InputError(f"{path}: {key} is {brief(config[key])}, only {_VECTOR!r} can be expressed")


def _write(folder: Path, config: Mapping[str, Any]) -> None:
    folder.mkdir()
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
