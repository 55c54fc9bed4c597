"""A mix of layers on disk: a small JSON or safetensors file, or a run that learned one.

    mix.json            {"weights": [0.5, -1.0, 0.25], "gamma": 1.5}
    mix.safetensors     float32 tensors "weights" [L] and "gamma" []

Letters: L layers.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ctx_jax.embedding.load import CheckpointStep, is_run, load
from ctx_jax.embedding.mixing import Mixing
from ctx_jax.io.errors import InputError, InputTypeError, MissingFileError, brief
from ctx_jax.io.files import atomic_binary_file, atomic_write, read_json
from ctx_jax.io.safetensors_files import file_tensors, tensor_bytes

_NAMES = ("weights", "gamma")


def save_mix(path: str | Path, mixing: Mapping[str, Any]) -> None:
    """Write a mix as JSON (`.json`) or safetensors (`.safetensors`), by the suffix; an existing file is replaced whole.

        save_mix("mix.json", encoder.heads["mix"].params)

    `load_mix` gives the same float32 numbers. InputError for another suffix, and for what is no mix: other names than
    "weights" [L] and "gamma" [], NaN, infinity.
    """
    path = Path(path)
    weights, gamma = _checked("the mix", mixing)
    match path.suffix:
        case ".json":
            content = {"weights": weights.tolist(), "gamma": gamma.tolist()}
            atomic_write(path, json.dumps(content, indent=2) + "\n")
        case ".safetensors":
            with atomic_binary_file(path) as file:
                file.write(tensor_bytes({"weights": weights, "gamma": gamma}))
        case suffix:
            raise InputError(f"{path}: a mix is written as .json or .safetensors, got {suffix or 'no suffix'}")


def load_mix(path: str | Path, *, step: CheckpointStep | None = None) -> Mixing:
    """The mix of a file of `save_mix`, or the learned one of a run of `classify`, `tag` or `pairs`.

        for vectors in encoder.encode(sentences, layers="mix", mix=ctx_jax.load_mix("mix.json")):
            ...

    `step` is for a run: "best" (also None), "latest" or a number.

    Raises MissingFileError; InputError, naming the file and the key, for a damaged file, a key that is missing or
    unknown, another shape or type, NaN or infinity, and for a run without a mix or whose mix normalises its layers.
    """
    path = Path(path)
    if is_run(path):
        heads = load(path, step="best" if step is None else step).heads
        if "mix" not in heads:
            raise InputError(
                f"{path} is a run without a learned mix; its heads are {', '.join(sorted(heads)) or 'none'}"
            )
        if heads["mix"].module.row_norm:
            raise InputError(
                f"{path} learned a mix of normalised layers (mix_norm), which its numbers alone do not give: take "
                'heads["mix"].params of the loaded run, and ctx_jax.mix(..., layer_norm="row")'
            )
        return _mixing(str(path), heads["mix"].params)
    if step is not None:
        raise InputError(f"step is for a run, and {path} is none: leave step={step!r} out")
    if path.is_dir():
        raise InputError(f"{path} is a folder, but no run; give a run of classify, tag or pairs, or a file of save_mix")
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist: give a file of save_mix, or a run of classify, tag or pairs")
    match path.suffix:
        case ".json":
            return _mixing(str(path), _numbers(path))
        case ".safetensors":
            return _mixing(str(path), dict(file_tensors(path)))
        case suffix:
            raise InputError(f"{path}: a mix is a file .json or .safetensors, got {suffix or 'no suffix'}")


def _numbers(path: Path) -> dict[str, Any]:
    """The numbers of a JSON file as float32 arrays; what is no number is left for `_checked` to refuse."""
    content = read_json(path)
    for name in content.keys() & {*_NAMES}:
        value = content[name]
        items = value if name == "weights" and isinstance(value, list) else [value]
        for item in items:
            if type(item) not in (int, float):
                needed = "a list of numbers" if name == "weights" else "a number"
                raise InputError(f"{path}: {name} must be {needed}, got {brief(item)}")
        content[name] = _float32(value)
    return content


def _float32(value: Any) -> np.ndarray:
    """Numbers as float32, infinite where they are beyond it."""
    with np.errstate(over="ignore"):
        try:
            return np.asarray(value, np.float64).astype(np.float32)
        except OverflowError:  # an integer beyond float64
            return np.full(np.shape(value), np.inf, np.float32)


def _mixing(where: str, mixing: Mapping[str, Any]) -> Mixing:
    weights, gamma = _checked(where, mixing)
    return {"weights": jnp.asarray(weights), "gamma": jnp.asarray(gamma)}


def _checked(where: str, mixing: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Weights [L] and gamma [] as finite float32."""
    if not isinstance(mixing, Mapping):
        raise InputTypeError(f"{where} must be {{'weights': [L], 'gamma': []}}, got a {type(mixing).__name__}")
    for name in mixing:
        if name not in _NAMES:
            raise InputError(f"{where}: {brief(name)} is no key of a mix, which has {' and '.join(_NAMES)} alone")
    for name in _NAMES:
        if name not in mixing:
            raise InputError(f"{where}: {name} is missing: a mix has {' and '.join(_NAMES)}")
    arrays = []
    for name, dimensions in zip(_NAMES, (1, 0), strict=True):
        array = np.asarray(mixing[name])
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise InputError(f"{where}: {name} must be floating-point numbers, got {array.dtype}")
        if array.ndim != dimensions or not array.size:
            needed = "[L], a number for each of one or more layers" if dimensions else "[], one number"
            raise InputError(f"{where}: {name} must be of shape {needed}; got shape {array.shape}")
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise InputError(f"{where}: {name} holds NaN or infinity, or a number beyond float32")
        arrays.append(array)
    return arrays[0], arrays[1]
