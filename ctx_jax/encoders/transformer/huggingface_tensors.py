"""The tensors of a Hugging Face folder: one `model.safetensors`, or the shards that its index names.

A file is checked (its header's length, its offsets, its size) before anything of it is used, and every error names the
file. Pickles (`pytorch_model.bin`) are not read: they can run code.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ctx_jax.io.errors import InputError, MissingFileError
from ctx_jax.io.files import read_json

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor of the folder under its name in the file, in the file's type (bfloat16 by ml_dtypes).

    Raises MissingFileError for a folder without safetensors files and for an index that names a missing one, InputError
    for damaged files and for an index that does not fit its shards.
    """
    if (folder / WHOLE).is_file():
        return dict(_tensors(folder / WHOLE))
    if not (folder / INDEX).is_file():
        held = sorted(path.name for path in folder.iterdir())
        raise MissingFileError(f"{folder}: needs {WHOLE} or {INDEX}, holds {held}; pickled weights are not read")
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise InputError(f"{folder / INDEX}: needs weight_map, an object of tensor names and file names")
    files = sorted(set(weight_map.values()))
    outside = [name for name in files if Path(name).name != name]
    if outside:
        raise InputError(f"{folder / INDEX}: names files outside its folder: {outside}")
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise MissingFileError(f"{folder / INDEX}: names files that are not there: {missing}; download them too")
    tensors: dict[str, np.ndarray] = {}
    for name in files:
        tensors |= _tensors(folder / name)
    if tensors.keys() != weight_map.keys():
        absent, extra = sorted(weight_map.keys() - tensors.keys()), sorted(tensors.keys() - weight_map.keys())
        raise InputError(f"{folder / INDEX}: its shards lack {absent} and hold {extra} that it does not name")
    return tensors


def _tensors(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    try:
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                yield name, file.get_tensor(name)
    except SafetensorError as error:
        raise InputError(f"{path}: damaged or cut short ({error}); copy the file again") from error


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """One safetensors file of float32 tensors, marked as transformers expects it."""
    # save_file writes the memory of a transposed view in its old order.
    dense = {name: np.ascontiguousarray(tensor, dtype=np.float32) for name, tensor in tensors.items()}
    save_file(dense, path, metadata={"format": "pt"})
