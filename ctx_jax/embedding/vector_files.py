"""Vectors of a text's lines as one file, in the format that its suffix names.

    .hdf5, .h5   words or tokens: a dataset "0", "1", ... a line, [L, T, D] or [T, D], and "sentence_to_index", as
                 AllenNLP's `elmo` command writes them; sentences: "vectors", [N, D] or [L, N, D], and the same index
    .npz         "vectors", [M, D] or [L, M, D], and "offsets", int64 [N + 1]: those of line i are
                 vectors[..., offsets[i]:offsets[i + 1], :]; sentences: "vectors" alone, [N, D] or [L, N, D]
    .parquet     a row a line: "text", and "vectors" as nested lists with the shape of a line's array

"sentence_to_index" is one string, a JSON object {line: its number as a string}; the last of equal lines counts.

Letters: L layers, N lines, M their words or tokens, T those of one line, D width.
"""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from ctx_jax.embedding.text_parts import Part, TextParts
from ctx_jax.io.errors import InputError, MissingPackageError
from ctx_jax.typing import Log

LARGEST_INDEX = 1 << 28  # characters: the index is one string, which is made and read in memory
INDEX = "sentence_to_index"

Write = Callable[[Path, TextParts, bool, Log], None]
"""(file, parts, whether a line has one vector, log)."""


def writer(path: Path) -> Write:
    """What writes files with the suffix of `path`. InputError if nothing does; MissingPackageError."""
    known = {".hdf5": write_hdf5, ".h5": write_hdf5, ".npz": write_npz, ".parquet": write_parquet}
    if path.suffix not in known:
        raise InputError(f"{path}: vectors are written as {', '.join(known)}; give one of these suffixes")
    if path.suffix == ".parquet":
        _pyarrow()
    return known[path.suffix]


def write_hdf5(path: Path, parts: TextParts, whole: bool, log: Log) -> None:
    """Write HDF5 as the top of this file says."""
    index: dict[str, str] | None = {}
    characters = number = 0
    with path.open("w+b", buffering=0) as raw, h5py.File(checked := _CheckedFile(raw), "w") as file:
        whole_set = file.create_dataset("vectors", parts.shape, parts.dtype) if whole else None
        for part in parts:
            if whole_set is not None:
                whole_set[..., number : number + len(part.texts), :] = part.vectors
            for line, (text, vectors) in enumerate(zip(part.texts, part.lines(), strict=True), start=number):
                if whole_set is None:
                    file.create_dataset(str(line), data=vectors)
                    checked.check()
                characters += len(text)
                if index is not None and characters <= LARGEST_INDEX:
                    index[text.strip()] = str(line)
                elif index is not None:
                    index = None
                    log(f"{INDEX} is left out: the text has more than {LARGEST_INDEX:,} characters")
            number += len(part.texts)
            checked.check()
        if index is not None:
            file.create_dataset(INDEX, (1,), h5py.string_dtype())[0] = json.dumps(index)
        file.flush()
        checked.check()


class _CheckedFile:
    """A file for h5py that keeps the first error of the disk for `check`, and then takes and drops what is written.

    h5py cannot raise from where HDF5 writes what it has cached: a full disk would print hundreds of tracebacks, and end
    the process by a segmentation fault when the file is closed.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self._error: OSError | None = None

    def check(self) -> None:
        """Raise the first error of the disk."""
        if self._error is not None:
            raise self._error

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view) and self._error is None:
            try:
                done += self._file.write(view[done:])
            except OSError as error:
                self._error = error
        return len(view)

    def truncate(self, size: int) -> int:
        try:
            return self._file.truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size

    def flush(self) -> None:
        pass  # nothing is buffered

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)


def write_npz(path: Path, parts: TextParts, whole: bool, log: Log) -> None:
    """Write .npz as the top of this file says."""
    layers = parts.shape[0] if len(parts.shape) == 3 else None
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("vectors.npy", "w", force_zip64=True) as file:
            _begin_array(file, parts.shape, parts.dtype)
            for layer in [...] if layers is None else range(layers):
                for part in parts:
                    file.write(np.ascontiguousarray(part.vectors[layer]).reshape(-1).view(np.uint8).data)
        if not whole:
            with archive.open("offsets.npy", "w", force_zip64=True) as file:
                _begin_array(file, (sum(len(part.texts) for part in parts) + 1,), np.dtype(np.int64))
                file.write(np.zeros(1, np.int64).tobytes())
                first = 0
                for part in parts:
                    file.write((part.offsets[1:] + first).tobytes())
                    first += int(part.offsets[-1])


def _begin_array(file: Any, shape: tuple[int, ...], dtype: np.dtype) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def write_parquet(path: Path, parts: TextParts, whole: bool, log: Log) -> None:
    """Write Parquet as the top of this file says; a part is a row group."""
    pa, pq = _pyarrow()
    with path.open("wb") as file:
        _write_tables(file, (_table(pa, part, whole) for part in parts), pq)


def _write_tables(file: BinaryIO, tables: Any, pq: Any) -> None:
    first = next(tables)
    with pq.ParquetWriter(file, first.schema) as into:
        into.write_table(first)
        for table in tables:
            into.write_table(table)


def _table(pa: Any, part: Part, whole: bool) -> Any:
    """The rows of a part. The innermost lists have D numbers each, the outermost of several layers L lists."""
    width, counts = part.vectors.shape[-1], np.diff(part.offsets)
    several = part.vectors.ndim == 3
    if several:  # line by line, the layers of each one after the other
        numbers = np.concatenate([vectors.reshape(-1) for vectors in part.lines()])
        counts = np.repeat(counts, len(part.vectors))
    else:
        numbers = part.vectors.reshape(-1)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(numbers), width)
    if not whole:
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        lists = pa.ListArray.from_arrays(pa.array(offsets), lists)
    if several:
        lists = pa.FixedSizeListArray.from_arrays(lists, len(part.vectors))
    return pa.table({"text": pa.array(part.texts, pa.string()), "vectors": lists})


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingPackageError("Parquet needs the package pyarrow: pip install 'ctx-jax[parquet]'") from error
    return pyarrow, pyarrow.parquet
