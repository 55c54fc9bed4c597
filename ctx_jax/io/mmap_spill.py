"""Arrays put away on disk and mapped, so that the system may take their memory back at any time."""

import tempfile
import weakref
from io import FileIO
from pathlib import Path

import numpy as np

from ctx_jax.io.files import naming_full_disk

FIRST = 1 << 24  # bytes of the first file; each next one is twice as large, since every one costs a file descriptor
_ALIGNED = 64  # bytes


class Scratch:
    """Scratch files: they have no name, and go with the process."""

    def __init__(self, folder: Path | None) -> None:
        """`folder`: where the files lie; None: where temporary files do."""
        self._folder = folder
        self._file: FileIO | None = None
        self._space = np.empty(0, np.uint8)
        self._used = 0

    def spill(self, array: np.ndarray) -> np.ndarray:
        """Put an array on disk: the same array from now on, mapped, read-only."""
        start = -(-self._used // _ALIGNED) * _ALIGNED
        with naming_full_disk(self._folder or Path(tempfile.gettempdir())):
            if self._file is None or start + array.nbytes > len(self._space):
                start, self._file = 0, self._open(max(FIRST, 2 * len(self._space), array.nbytes))
            self._used = start + array.nbytes
            # Written and not copied into the mapping, whose pages would then be this process's own.
            self._file.seek(start)
            left = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
            while len(left):
                left = left[self._file.write(left) :]
        return self._space[start : self._used].view(array.dtype).reshape(array.shape)

    def _open(self, size: int) -> FileIO:
        if self._file is not None:
            self._file.close()  # its mapping stays
        # Without a buffer, whose rest would be written again when a full disk's file is closed.
        file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 (closed with the scratch space)
        weakref.finalize(self, file.close)
        file.truncate(size)
        self._space = np.memmap(file, np.uint8, mode="r", shape=(size,))
        return file
