"""Zstandard files: `compression.zstd` of Python 3.14, before it the package `zstandard`."""

import io
import sys
from pathlib import Path
from typing import Any, BinaryIO, cast

from ctx_jax.io.errors import MissingPackageError

_CHUNK = 1 << 18  # bytes


class ZstdDamage(Exception):
    """A file that does not hold whole Zstandard frames."""


def open_zstd(path: str | Path | BinaryIO, mode: str = "rb") -> BinaryIO:
    """The unpacked bytes of a path or an open file. MissingPackageError; ZstdDamage when the damage is reached."""
    if mode != "rb":
        raise ValueError(f"open_zstd reads bytes, got mode {mode!r}")
    file = cast(BinaryIO, path) if hasattr(path, "read") else Path(cast(str, path)).open("rb")  # noqa: SIM115
    return cast(BinaryIO, io.BufferedReader(_ZstdFile(file, *_package()), _CHUNK))


def _package() -> tuple[Any, type[Exception]]:
    """What makes a decompressor of one frame, and the error of damage."""
    if sys.version_info >= (3, 14):
        from compression.zstd import ZstdDecompressor, ZstdError

        return ZstdDecompressor, ZstdError
    try:
        import zstandard
    except ImportError as error:
        raise MissingPackageError("a .zst file needs the package zstandard: pip install 'ctx-jax[zstd]'") from error
    return lambda: zstandard.ZstdDecompressor().decompressobj(), zstandard.ZstdError


class _ZstdFile(io.RawIOBase):
    """All frames of a file, one after the other. The packages' own readers stop after the first frame, or take a file
    that ends within one for whole."""

    def __init__(self, file: BinaryIO, decompressor: Any, error: type[Exception]) -> None:
        self._file, self._decompressor, self._error = file, decompressor, error
        self._frame: Any = None
        self._unpacked = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._unpacked:
            packed = self._frame.unused_data if self._frame is not None and self._frame.eof else b""
            packed = packed or self._file.read(_CHUNK)
            if not packed:
                if self._frame is not None and not self._frame.eof:
                    raise ZstdDamage("it ends within a frame")
                return 0
            if self._frame is None or self._frame.eof:
                self._frame = self._decompressor()
            try:
                self._unpacked = memoryview(self._frame.decompress(packed))
            except self._error as error:
                raise ZstdDamage(str(error)) from error
        size = min(len(buffer), len(self._unpacked))
        buffer[:size], self._unpacked = self._unpacked[:size], self._unpacked[size:]
        return size

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
