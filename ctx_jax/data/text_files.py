"""Text files, plain or compressed, as lines: read as a stream, and every kind of damage named by file and line."""

import glob
import gzip
import lzma
import os
import sys
import zlib
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from ctx_jax.data.zstd import ZstdDamage, open_zstd
from ctx_jax.io.errors import InputError, MissingFileError
from ctx_jax.tokenizers.words import LineRule, Rule, split_sentences, split_words

Errors = Literal["strict", "replace"]

COMPRESSED: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open, ".zst": open_zstd}
STANDARD_INPUT = "-"
LONGEST_LINE = 2**27
"""Bytes of a line, 128 MiB: room for a corpus on one line (text8), not for an archive that unpacks to gigabytes."""
_REPLACING = "with errors set to replace, which puts U+FFFD there"


@dataclass(frozen=True)
class Reading:
    """How lines become sentences of words."""

    rule: Rule = "whitespace"
    sentences: LineRule = "line"
    errors: Errors = "strict"

    def read(self, line: str) -> Iterator[list[str]]:
        """Sentences of one line; a blank line gives one empty list, the mark of a new document."""
        for sentence in [line] if self.sentences == "line" else split_sentences(line) or [""]:
            yield split_words(sentence, self.rule)


def list_files(patterns: str) -> tuple[Path, ...]:
    """Files named by paths and globs separated by commas, in that order; a glob's files are sorted.

    Raises:
        MissingFileError: a path or a glob that matches no file.
        InputError: no pattern at all, or one file named twice.
    """
    files: list[Path] = []
    for pattern in filter(None, map(str.strip, patterns.split(","))):
        path = Path(pattern).expanduser()
        if path.is_file():  # a name before a pattern
            files.append(path)
            continue
        matches = map(Path, sorted(glob.glob(str(path), recursive=True)))  # noqa: PTH207 (Path.glob takes no root)
        found = [match for match in matches if match.is_file()]
        if not found and path.is_dir():
            raise MissingFileError(f"{pattern} is a folder: name its files, as in '{path}/*.txt'")
        if not found:
            raise MissingFileError(
                f"no file matches {pattern!r} (seen from {Path.cwd()}); give `python-docs`, `tfds:NAME`, or paths and "
                "globs of text files separated by commas"
            )
        files += found
    if not files:
        raise InputError("no text file was named: give paths or globs separated by commas")
    if twice := sorted(str(path) for path, count in Counter(files).items() if count > 1):
        raise InputError(f"named twice: {', '.join(twice)}; name each file once")
    return tuple(files)


def read_lines(path: Path, errors: Errors) -> Iterator[str]:
    """Lines of a UTF-8 file, without their ends; `.gz`, `.xz` and `.zst` are unpacked on the way.

    A byte order mark at the start is dropped. Only `\\n` ends a line. Memory holds one line of at most `LONGEST_LINE`
    bytes.

    Raises:
        MissingFileError: the file is not there (any more).
        InputError: a damaged archive, an empty file, a longer line, and as `decode`.
    """
    try:
        with COMPRESSED.get(path.suffix.lower(), open)(path, "rb") as file:
            yield from _lines(file, str(path), errors)
    except FileNotFoundError as error:
        raise MissingFileError(f"{path} was there when files were listed and is gone now; start again") from error


class LineReader:
    """The lines of one file, or with `-` of standard input, and how much of the file has been read; as `read_lines`."""

    def __init__(self, path: str | Path, errors: Errors = "strict") -> None:
        """MissingFileError if there is no such file."""
        self.name = "standard input" if str(path) == STANDARD_INPUT else str(path)
        self._path, self._errors = Path(path), errors
        self._file: BinaryIO | None = None
        self._size = 0
        if str(path) != STANDARD_INPUT and (self._path.is_dir() or not self._path.exists()):  # it may be a pipe
            raise MissingFileError(f"{path} {'is a folder' if self._path.is_dir() else 'does not exist'}")

    def __iter__(self) -> Iterator[str]:
        if self.name != str(self._path):
            yield from _lines(sys.stdin.buffer, self.name, self._errors)
            return
        with self._path.open("rb") as self._file:
            self._size = os.fstat(self._file.fileno()).st_size
            unpack = COMPRESSED.get(self._path.suffix.lower())
            yield from _lines(unpack(self._file, "rb") if unpack else self._file, self.name, self._errors)

    @property
    def fraction(self) -> float | None:
        """The fraction of the file's bytes, as they lie on disk, that has been read; None of standard input."""
        if self._file is None or not self._size:
            return None
        return 1.0 if self._file.closed else min(1.0, self._file.tell() / self._size)


def _lines(file: Any, name: str, errors: Errors) -> Iterator[str]:
    offset = 0  # bytes of the unpacked text before this line
    number = 0
    try:
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            if len(line) > LONGEST_LINE:
                raise InputError(
                    f"{name}, line {number}: over {LONGEST_LINE} bytes without a line end; put a sentence or a "
                    "paragraph on each line"
                )
            if number == 1 and line.startswith(BOM_UTF8):
                offset, line = 3, line[3:]
            yield decode(line, errors, f"{name}, line {number}", offset).removesuffix("\n")
            offset += len(line)
    except (gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError, ZstdDamage) as error:
        raise InputError(f"{name}, after line {number}: damaged archive ({error}); fetch the file again") from error
    if number == 0:
        raise InputError(f"{name} is empty: give text, or leave it out")


def decode(data: bytes, errors: Errors, where: str, offset: int = 0) -> str:
    """Text of UTF-8 bytes, which begin `offset` bytes into the text `where`.

    InputError for bytes that are not UTF-8 and NUL characters; with errors "replace" U+FFFD takes their place.
    """
    try:
        text = data.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where}, byte {offset + error.start} of the text: not UTF-8 ({error.reason}); convert it, or go on "
            f"{_REPLACING}"
        ) from error
    if errors == "strict" and "\0" in text:
        raise InputError(
            f"{where}, byte {offset + data.index(0)} of the text: a NUL character; is this text? Go on {_REPLACING}"
        )
    return text.replace("\0", "\ufffd")
