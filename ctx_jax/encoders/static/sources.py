"""The bytes of a table's file: plain, gzip, xz, or a member of a zip archive. The content decides, not the name."""

import gzip
import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ctx_jax.io.errors import InputError
from ctx_jax.io.progress import Progress

PREFIX = 1 << 22  # bytes by which a format is recognised; also the longest line of a text file
_CHUNK = 1 << 20
_MEMBERS, _GLANCE = 100, 1 << 16  # of an archive so many members are looked into, so many bytes each
_DAMAGE = (
    EOFError, IndexError, OSError, RuntimeError, ValueError,
    lzma.LZMAError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


class Readable(Protocol):
    """What is read from."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True)
class Source:
    """An open file, decompressed while it is read."""

    name: str
    """As error messages name it: the path, of a zip archive with its member."""
    size: int | None
    """Bytes, decompressed; None where that is not known before the end."""
    prefix: bytes
    """The first bytes, `PREFIX` of them."""
    stream: Readable

    def chunks(self) -> Iterator[bytes]:
        """All bytes, once, the prefix included. InputError for a damaged archive."""
        total = None if self.size is None else self.size / 1e6
        progress = Progress(f"reading {self.name}", "MB", total)
        chunk = self.prefix
        while chunk:
            yield chunk
            progress.add(len(chunk) / 1e6)
            chunk = _read(self.stream, _CHUNK, self.name)


@contextmanager
def opened(path: Path, is_table: Callable[[Source], bool]) -> Iterator[Source | None]:
    """The source of a file, of the only member of a zip archive, or of the member that a path such as
    `glove.zip/glove.txt` names. None where there is no such file.

    InputError for a damaged archive, for a member that is not there, and for an archive of several members of which
    one `is_table`: the error lists them.
    """
    file = next((place for place in (path, *path.parents) if place.is_file()), None)
    member = "" if file is None or file == path else path.relative_to(file).as_posix()
    with ExitStack() as stack:
        if file is None:
            yield None
            return
        raw = stack.enter_context(file.open("rb"))
        magic = raw.read(6)
        raw.seek(0)
        if magic[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
            yield _member(stack, file, member, is_table)
        elif member:
            yield None
        elif magic[:2] == b"\x1f\x8b":
            yield _source(stack.enter_context(gzip.GzipFile(fileobj=raw)), str(path), None)
        elif magic == b"\xfd7zXZ\x00":
            yield _source(stack.enter_context(lzma.LZMAFile(raw)), str(path), None)
        else:
            yield _source(raw, str(path), file.stat().st_size)


def _member(stack: ExitStack, path: Path, member: str, is_table: Callable[[Source], bool]) -> Source | None:
    with _naming_damage(str(path)):
        archive = stack.enter_context(zipfile.ZipFile(path))
        files = {entry.filename: entry for entry in archive.infolist() if not entry.is_dir()}
    entries = {name: entry for name, entry in files.items() if "/." not in f"/{name}"}  # macOS adds a "._x" to each "x"
    names = list(entries)[:_MEMBERS]
    listed = ", ".join(names)

    def source(name: str, prefix: int = PREFIX) -> Source:
        with _naming_damage(f"{path}/{name}"):
            stream = stack.enter_context(archive.open(entries[name]))
        return _source(stream, f"{path}/{name}", entries[name].file_size, prefix)

    if member:
        if member not in entries:
            raise InputError(f"{path} has no member {member}: it has {listed}")
        return source(member)
    if len(entries) > 1:
        if any(is_table(source(name, _GLANCE)) for name in names):
            raise InputError(f"{path} holds several files, name one of them as {path}/{names[0]}: {listed}")
        return None
    return source(names[0]) if names else None


def _source(stream: Readable, name: str, size: int | None, prefix: int = PREFIX) -> Source:
    return Source(name, size, _read(stream, prefix, name), stream)


def _read(stream: Readable, size: int, name: str) -> bytes:
    with _naming_damage(name):
        return stream.read(size)


@contextmanager
def _naming_damage(name: str) -> Iterator[None]:
    """InputError for what the standard library raises for damaged, encrypted or unusual archives."""
    try:
        yield
    except _DAMAGE as error:
        raise InputError(f"{name} is damaged or cannot be read ({error}): copy it again, or unpack it") from error
