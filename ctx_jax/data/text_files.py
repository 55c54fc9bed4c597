"""Text files, plain or compressed, as lines: read as a stream, and every kind of damage named by file and line."""

import glob
import gzip
import lzma
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Literal

from ctx_jax.io.errors import InputError, MissingFileError
from ctx_jax.tokenizers.words import LineRule, Rule, split_sentences, split_words

Errors = Literal["strict", "replace"]

COMPRESSED = (".gz", ".xz")
REPLACING = "with errors set to replace, which puts U+FFFD there"


@dataclass(frozen=True)
class Reading:
    """How lines become sentences of words."""

    rule: Rule = "whitespace"
    sentences: LineRule = "line"
    errors: Errors = "strict"

    def read(self, line: str) -> Iterator[list[str]]:
        """Sentences of one line; a blank line gives one empty list, the mark of a new document."""
        if self.sentences == "line":
            yield split_words(line, self.rule)
        elif not line.strip():
            yield []
        else:
            for sentence in split_sentences(line):
                yield split_words(sentence, self.rule)


def list_files(patterns: str) -> tuple[Path, ...]:
    """Files named by paths and globs separated by commas, in that order; a glob's files are sorted.

    Raises:
        FileNotFoundError: a path or a glob that matches no file.
        ValueError: no pattern at all, or one file named twice.
    """
    files: list[Path] = []
    for pattern in filter(None, map(str.strip, patterns.split(","))):
        whole = str(Path(pattern).expanduser())
        matches = [whole]
        if not Path(whole).is_file():
            matches = sorted(glob.glob(whole, recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
        found = [path for path in map(Path, matches) if path.is_file()]
        if not found and Path(whole).is_dir():
            raise MissingFileError(f"{pattern} is a folder: name its files, as in '{whole.rstrip('/')}/*.txt'")
        if not found:
            raise MissingFileError(
                f"no file matches {pattern!r} (seen from {Path.cwd()}); give `python-docs`, `tfds:NAME`, or paths and "
                "globs of text files separated by commas"
            )
        files += found
    if not files:
        raise InputError("no text file was named: give paths or globs separated by commas")
    if len(set(files)) < len(files):
        twice = sorted(str(path) for path, count in Counter(files).items() if count > 1)
        raise InputError(f"named twice: {', '.join(twice)}; name each file once")
    return tuple(files)


def read_lines(path: Path, errors: Errors) -> Iterator[str]:
    """Lines of a UTF-8 file, without their ends; `.gz` and `.xz` are unpacked on the way.

    A byte order mark at the start is dropped. Only `\\n` ends a line. Memory holds one line.

    Raises:
        FileNotFoundError: the file is not there (any more).
        ValueError: bytes that are not UTF-8 or a NUL character (with "replace" U+FFFD takes their place), a damaged
            archive, or an empty file.
    """
    offset = 0  # bytes of the unpacked text before this line
    number = 0
    try:
        with _open(path) as file:
            for number, line in enumerate(file, start=1):
                if number == 1 and line.startswith(b"\xef\xbb\xbf"):
                    offset, line = 3, line[3:]
                yield _decode(line, path, number, offset, errors)
                offset += len(line)
    except FileNotFoundError as error:
        raise MissingFileError(f"{path} was there when files were listed and is gone now; start again") from error
    except (gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError) as error:
        raise InputError(f"{path}, after line {number}: damaged archive ({error}); fetch the file again") from error
    if number == 0:
        raise InputError(f"{path} is empty: leave it out or fetch it again")


def _open(path: Path) -> BufferedIOBase:
    match path.suffix:
        case ".gz":
            return gzip.open(path)
        case ".xz":
            return lzma.open(path)
    return path.open("rb")


def _decode(line: bytes, path: Path, number: int, offset: int, errors: Errors) -> str:
    try:
        text = line.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}, line {number}, byte {offset + error.start} of the text: not UTF-8 ({error.reason}); convert the "
            f"file, or go on {REPLACING}"
        ) from error
    if "\0" in text:
        if errors == "strict":
            raise InputError(
                f"{path}, line {number}, byte {offset + line.index(0)} of the text: a NUL character; is this a text "
                f"file? Go on {REPLACING}"
            )
        text = text.replace("\0", "\ufffd")
    return text.removesuffix("\n")
