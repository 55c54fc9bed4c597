"""Folders of arrays: written part by part, built once, checked, and mapped from the disk.

    <folder>/
      NAME.bin      one array of one dimension, as its bytes
      meta.json     the type, length and SHA-256 of each array, and facts about them all; written last

The cached text, its tokens and the row index are such folders, named by a digest of what they are made of.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from ctx_jax.io.build_once import build_once
from ctx_jax.io.errors import InputError, MissingFileError
from ctx_jax.io.files import file_digest

BUFFER = 1 << 20  # bytes

Log = Callable[[str], object]


class ArrayFolder(NamedTuple):
    """The arrays of a folder, mapped and read-only, their digests, and the facts they were written with."""

    arrays: dict[str, np.ndarray]
    digests: dict[str, str]
    facts: dict[str, Any]


class ArrayWriter(NamedTuple):
    """Appends to the arrays of a new folder. `facts` are written with them."""

    kinds: Mapping[str, DTypeLike]
    files: Mapping[str, BinaryIO]
    facts: dict[str, Any]

    def append(self, name: str, values: "np.ndarray | int | bytes") -> None:
        """Append numbers, one number, or bytes as they are, to the array `name`."""
        if not isinstance(values, bytes):
            values = np.ascontiguousarray(values, self.kinds[name]).tobytes()
        self.files[name].write(values)


def folder_name(name: str, identity: object) -> str:
    """`name` with a digest of `identity`, which JSON must hold: "wiki_train-5a1c0f..."."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '_', name)[:40]}-{digest[:16]}"


def build_arrays(
    target: Path, kinds: Mapping[str, DTypeLike], write: Callable[[ArrayWriter], None], *, again: str, log: Log
) -> bool:
    """Have `write` fill the folder `target` with the arrays `kinds` (name -> type), unless an intact one is there;
    whether one was.

    Several processes may ask at once: one builds, the others wait. The files of a folder that is there are hashed, at
    about 1 GB/s; a damaged one is named to `log`, with what is done `again`.
    """

    def build(folder: Path) -> None:
        facts: dict[str, Any] = {}
        paths = {name: folder / f"{name}.bin" for name in kinds}
        with ExitStack() as stack:
            files = {name: stack.enter_context(path.open("wb", buffering=BUFFER)) for name, path in paths.items()}
            write(ArrayWriter(kinds, files, facts))
        arrays = {
            name: [np.dtype(kind).str, paths[name].stat().st_size // np.dtype(kind).itemsize, file_digest(paths[name])]
            for name, kind in kinds.items()
        }
        (folder / "meta.json").write_text(json.dumps({"arrays": arrays, "facts": facts}, indent=1))

    return build_once(target, lambda folder: open_arrays(folder, hashed=True), build, again=again, log=log)


def open_arrays(folder: Path, *, hashed: bool = False) -> ArrayFolder:
    """Map the arrays of a folder. Raises MissingFileError or InputError for a file that is not there or has another
    size or, with `hashed`, another content than was written."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        facts = dict(meta["facts"])
        shapes = {name: (np.dtype(kind), int(count), digest) for name, (kind, count, digest) in meta["arrays"].items()}
    except FileNotFoundError as error:
        raise MissingFileError(f"nothing was cached in {folder}: meta.json is not there") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / 'meta.json'} is damaged ({error}): delete {folder}") from error
    arrays = {}
    for name, (kind, count, digest) in shapes.items():
        path = folder / f"{name}.bin"
        if not path.exists():
            raise MissingFileError(f"{path} is not there: delete {folder}")
        if (found := path.stat().st_size) != kind.itemsize * count:
            raise InputError(f"{path} has {found} bytes, {kind.itemsize * count} were written: delete {folder}")
        if hashed and file_digest(path) != digest:
            raise InputError(f"{path} does not hold what was written: delete {folder}")
        # As a plain array: a slice of a memmap takes five times as long. An empty file cannot be mapped.
        arrays[name] = (np.memmap(path, kind, mode="r") if count else np.zeros(0, kind)).view(np.ndarray)
    return ArrayFolder(arrays, {name: digest for name, (_, _, digest) in shapes.items()}, facts)
