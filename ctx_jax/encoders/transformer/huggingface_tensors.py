"""The tensors of a Hugging Face folder: one `model.safetensors`, or the shards that its index names.

A file is checked (its header's length, its offsets, its size) before anything of it is used, and every error names the
file. Pickles (`pytorch_model.bin`) are not read: they can run code.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ctx_jax.io.errors import InputError, MissingFileError, brief, listed
from ctx_jax.io.files import read_json

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


MOST_TENSORS = 100_000
# What numpy has, bfloat16 by ml_dtypes; the reader of safetensors gives these.
_NUMPY = {"BOOL", "U8", "I8", "U16", "I16", "F16", "BF16", "U32", "I32", "F32", "U64", "I64", "F64", "C64"}
_FLOAT8 = {"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2}


def tensor_shapes(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The type as the file names it, and the shape, of every tensor of the folder; no values are read. Raises as
    `read_tensors` of files that are missing or whose headers are damaged."""
    shapes = {}
    for path in tensor_files(folder):
        with _checked(path):
            for name, entry in _header(path).items():
                shapes[name] = entry["dtype"], tuple(entry["shape"])
    return shapes


def tensor_files(folder: Path) -> list[Path]:
    """The files that hold the folder's tensors; raises as `read_tensors` for an index that cannot be followed."""
    return (
        [folder / WHOLE]
        if (folder / WHOLE).is_file()
        else [folder / name for name in sorted({*_index(folder).values()})]
    )


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor of the folder under its name in the file, in the file's type (bfloat16 and float8 by ml_dtypes).

    Raises MissingFileError for a folder without safetensors files and for an index that names a missing one, InputError
    for damaged files, for types that numpy and ml_dtypes lack, and for an index that does not fit its shards.
    """
    if (folder / WHOLE).is_file():
        return dict(_tensors(folder / WHOLE))
    weight_map = _index(folder)
    tensors: dict[str, np.ndarray] = {}
    for name in sorted({*weight_map.values()}):
        for tensor, values in _tensors(folder / name):
            if tensor in tensors:
                raise InputError(f"{folder / name}: holds {brief(tensor)}, which another shard holds too: remove one")
            tensors[tensor] = values
    if tensors.keys() != weight_map.keys():
        absent, extra = sorted(weight_map.keys() - tensors.keys()), sorted(tensors.keys() - weight_map.keys())
        raise InputError(
            f"{folder / INDEX}: its shards lack {listed(absent)} and hold {listed(extra)} that it does not name"
        )
    return tensors


def _index(folder: Path) -> dict[str, str]:
    """The file of every tensor, of files that are there."""
    held = sorted(path.name for path in folder.iterdir())
    if not (folder / INDEX).is_file():
        raise MissingFileError(
            f"{folder}: needs {WHOLE} or {INDEX}, holds {listed(held)}; pickled weights are not read"
        )
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise InputError(f"{folder / INDEX}: needs weight_map, an object of tensor names and file names")
    files = sorted(set(weight_map.values()))
    outside = [name for name in files if Path(name).name != name]
    if outside:
        raise InputError(f"{folder / INDEX}: names files outside its folder: {listed(outside)}")
    missing = [name for name in files if name not in held]
    if missing:
        raise MissingFileError(
            f"{folder / INDEX}: names files that are not there: {listed(missing)}; download them too"
        )
    return weight_map


def _tensors(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    with _checked(path) as file:
        for name, entry in _header(path).items():
            dtype = entry["dtype"]
            if dtype in _NUMPY:
                yield name, file.get_tensor(name)
            elif dtype in _FLOAT8:
                yield name, _float8(path, entry)
            else:
                known = sorted(_NUMPY | _FLOAT8.keys())
                raise InputError(f"{path}: tensor {brief(name)} is of type {brief(dtype)}; these are read: {known}")


@contextmanager
def _checked(path: Path) -> Iterator[Any]:
    """A file whose header, offsets and size safetensors has checked; its errors as InputErrors that name the file."""
    try:
        with safe_open(path, framework="np") as file:
            if (count := len(file.keys())) > MOST_TENSORS:
                raise InputError(f"{path}: holds {count} tensors, no model that is read has over {MOST_TENSORS}")
            yield file
    except SafetensorError as error:
        reason = str(error)[:500]
        raise InputError(f"{path}: damaged or cut short ({reason}); copy the file again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error})") from error


def _header(path: Path) -> dict[str, Any]:
    """name -> {"dtype", "shape", "data_offsets"} of a file that safetensors has checked."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    return {name: entry for name, entry in header.items() if name != "__metadata__"}


def _float8(path: Path, entry: Mapping[str, Any]) -> np.ndarray:
    """The values of a tensor of a type that the reader of safetensors does not give as an array."""
    start, end = entry["data_offsets"]
    with path.open("rb") as file:
        first = 8 + int.from_bytes(file.read(8), "little")
        file.seek(first + start)
        return np.frombuffer(file.read(end - start), _FLOAT8[entry["dtype"]]).reshape(entry["shape"])


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """One safetensors file of float32 tensors, marked as transformers expects it."""
    # save_file writes the memory of a transposed view in its old order.
    dense = {name: np.ascontiguousarray(tensor, dtype=np.float32) for name, tensor in tensors.items()}
    save_file(dense, path, metadata={"format": "pt"})
