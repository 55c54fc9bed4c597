"""A safetensors file: its header's length, its offsets and its size are checked before anything of it is used.

Every error names the file. Pickles (`pytorch_model.bin`) are not read: they can run code.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save, save_file

from ctx_jax.io.errors import InputError, brief

MOST_TENSORS = 100_000
# What numpy has, bfloat16 by ml_dtypes; the reader of safetensors gives these.
_NUMPY = {"BOOL", "U8", "I8", "U16", "I16", "F16", "BF16", "U32", "I32", "F32", "U64", "I64", "F64", "C64"}
_FLOAT8 = {"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2}


def file_shapes(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The type as the file names it, and the shape, of every tensor; no values are read. Raises as `file_tensors` of a
    damaged header."""
    with _checked(path):
        return {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in _header(path).items()}


def file_tensors(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(name, values) of every tensor, in the file's type (bfloat16 and float8 by ml_dtypes).

    InputError for a file that is missing, damaged or cut short, and for types that numpy and ml_dtypes lack.
    """
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
    save_file(_float32(tensors), path, metadata={"format": "pt"})


def tensor_bytes(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of a small safetensors file of float32 tensors."""
    return save(_float32(tensors))


def _float32(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    # safetensors writes the memory of a transposed view in its old order.
    return {name: np.asarray(tensor, dtype=np.float32, order="C") for name, tensor in tensors.items()}
