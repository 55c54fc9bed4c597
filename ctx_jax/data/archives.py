"""The text files of a data set, which lies as a folder or as a tar archive, plain or compressed."""

import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from ctx_jax.data.text_files import decode, read_lines
from ctx_jax.io.errors import InputError, MissingFileError

LARGEST = 2**28
"""Bytes of a file of an archive, 256 MiB: room for a data set, not for an archive that unpacks to gigabytes."""


def read_members(path: str | Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, list[str]]]:
    """(name, lines) of the files of a folder or tar archive whose name is `wanted`.

    A name is the file's path within the folder or the archive, with "/". Files of a folder come sorted, those of an
    archive in its order; a `path` that is neither is itself the only file. Nothing is unpacked onto the disk.

    Raises:
        MissingFileError: `path` is not there.
        InputError: no file is wanted; a damaged archive; an empty file or one that is not UTF-8.
    """
    path = Path(path)
    if not path.exists():
        raise MissingFileError(f"{path} does not exist")
    found = False
    for name, lines in _all_members(path, wanted):
        found = True
        yield name, lines
    if not found:
        raise InputError(f"{path} holds none of the files of this data set: name its folder or its tar archive")


def _all_members(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, list[str]]]:
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file() and wanted(name := file.relative_to(path).as_posix()):
                yield name, list(read_lines(file, "strict"))
    elif ".tar" in path.suffixes or path.suffix in (".tgz", ".txz"):
        yield from _archive(path, wanted)
    elif wanted(path.name):
        yield path.name, list(read_lines(path, "strict"))


def _archive(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, list[str]]]:
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if not member.isfile() or not wanted(member.name):
                    continue
                if member.size > LARGEST:
                    raise InputError(f"{path}: {member.name} has {member.size} bytes, over {LARGEST}")
                file = archive.extractfile(member)
                assert file is not None, "a regular file"
                yield member.name, _lines(file.read(), f"{path}: {member.name}")
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        raise InputError(f"{path}: damaged archive ({error}); fetch the file again") from error


def _lines(data: bytes, where: str) -> list[str]:
    if not data:
        raise InputError(f"{where} is empty: leave it out or fetch it again")
    return decode(data, "strict", where).removesuffix("\n").split("\n")
