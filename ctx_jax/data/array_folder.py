"""Folders of arrays on disk: written in appends, built once by one process, verified by digest, memory-mapped.

    <folder>/
      NAME.bin      the raw bytes of a one-dimensional array
      meta.json     the dtype, length and SHA-256 of each array, other metadata (`facts`), its own digest; written last

The cached text, its tokens and the row index are such folders, named by a digest of their sources and settings.
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
from ctx_jax.io.sealed_json import read_sealed, sealed_text
from ctx_jax.typing import Log

BUFFER = 1 << 20  # bytes


class ArrayFolder(NamedTuple):
    """The arrays of a folder (memory-mapped, read-only), their digests, and the metadata written with them."""

    arrays: dict[str, np.ndarray]
    digests: dict[str, str]
    facts: dict[str, Any]


class ArrayWriter(NamedTuple):
    """Appends to the arrays of a new folder. `facts` is written to its `meta.json`."""

    kinds: Mapping[str, DTypeLike]
    files: Mapping[str, BinaryIO]
    facts: dict[str, Any]

    def append(self, name: str, values: "np.ndarray | int | bytes") -> None:
        """Append an array, a number or raw bytes to the array `name`."""
        if not isinstance(values, bytes):
            values = np.ascontiguousarray(values, self.kinds[name]).tobytes()
        self.files[name].write(values)


def folder_name(name: str, identity: object) -> str:
    """`name` with a digest of `identity`, which must be JSON-serializable: "wiki_train-5a1c0f..."."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '_', name)[:40]}-{digest[:16]}"


def build_arrays(
    target: Path, kinds: Mapping[str, DTypeLike], write: Callable[[ArrayWriter], None], *, again: str, log: Log
) -> bool:
    """Build the folder `target` of the arrays `kinds` (name -> dtype) with `write`, unless an intact one exists.

    Returns whether one existed. Several processes may call this at once: one builds, the others wait. An existing
    folder is verified by hashing its files, at about 1 GB/s. If it is damaged, `log` gets a line that names the file
    and says what is done `again`, and the folder is rebuilt.
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
        (folder / "meta.json").write_text(sealed_text({"arrays": arrays, "facts": facts}))

    return build_once(target, lambda folder: open_arrays(folder, hashed=True), build, again=again, log=log)


def open_arrays(folder: Path, *, hashed: bool = False) -> ArrayFolder:
    """Map the arrays of a folder. Raises MissingFileError for a missing file, and InputError for a file whose size (or
    with `hashed`, content) differs from what was written."""
    try:
        meta = read_sealed(folder / "meta.json")
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
        # Viewed as a plain array, since slicing a memmap takes five times as long. An empty file cannot be mapped.
        arrays[name] = (np.memmap(path, kind, mode="r") if count else np.zeros(0, kind)).view(np.ndarray)
    return ArrayFolder(arrays, {name: digest for name, (_, _, digest) in shapes.items()}, facts)
