"""The tensors of a Hugging Face folder: one `model.safetensors`, or the shards that its index names."""

from pathlib import Path

import numpy as np

from ctx_jax.io.errors import InputError, MissingFileError, brief, listed
from ctx_jax.io.files import read_json
from ctx_jax.io.safetensors_files import file_shapes, file_tensors

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def tensor_shapes(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The type as the file names it, and the shape, of every tensor of the folder; no values are read. Raises as
    `read_tensors` of files that are missing or whose headers are damaged."""
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
    for path in tensor_files(folder):
        shapes |= file_shapes(path)
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
        return dict(file_tensors(folder / WHOLE))
    weight_map = _index(folder)
    tensors: dict[str, np.ndarray] = {}
    for name in sorted({*weight_map.values()}):
        for tensor, values in file_tensors(folder / name):
            if tensor in tensors:
                raise InputError(f"{folder / name}: holds {brief(tensor)}, which another shard holds too: remove one")
            tensors[tensor] = values
    if tensors.keys() != weight_map.keys():
        absent, extra = sorted(weight_map.keys() - tensors.keys()), sorted(tensors.keys() - weight_map.keys())
        raise InputError(
            f"{folder / INDEX}: its shards lack {listed(absent)} and hold {listed(extra)} that it does not name"
        )
    return tensors


def shard_names(folder: Path) -> list[str]:
    """The files that the folder's index names, there or not; InputError for an index that cannot be followed."""
    return sorted({*_weight_map(folder).values()})


def _index(folder: Path) -> dict[str, str]:
    """The file of every tensor, of files that are there."""
    held = sorted(path.name for path in folder.iterdir())
    if not (folder / INDEX).is_file():
        raise MissingFileError(
            f"{folder}: needs {WHOLE} or {INDEX}, holds {listed(held)}; pickled weights are not read"
        )
    weight_map = _weight_map(folder)
    missing = [name for name in sorted({*weight_map.values()}) if name not in held]
    if missing:
        raise MissingFileError(
            f"{folder / INDEX}: names files that are not there: {listed(missing)}; download them too"
        )
    return weight_map


def _weight_map(folder: Path) -> dict[str, str]:
    """The file of every tensor, as the index says."""
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise InputError(f"{folder / INDEX}: needs weight_map, an object of tensor names and file names")
    files = sorted(set(weight_map.values()))
    if outside := [name for name in files if Path(name).name != name]:
        raise InputError(f"{folder / INDEX}: names files outside its folder: {listed(outside)}")
    if others := [name for name in files if not name.endswith(".safetensors")]:
        raise InputError(f"{folder / INDEX}: names files that are no safetensors: {listed(others)}")
    return weight_map
