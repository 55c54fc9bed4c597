"""Parse a table's text or binary file into its words and one matrix.

Letters: V words of the table, D width, n rows of a part of it.
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ctx_jax.encoders.static.inputs import repeated
from ctx_jax.encoders.static.layouts import BOM, NUMBER, Layout
from ctx_jax.encoders.static.sources import PREFIX, Source
from ctx_jax.io.errors import InputError

LONGEST_WORD = 1 << 16  # bytes
_BLOCK = 1 << 26  # bytes of a block of the matrix: above what malloc keeps when it is freed
_ALIGNMENT = 64  # bytes; jax takes arrays that are aligned so without a copy
_UNEVEN = re.compile(rb"[\t\r\v\f]|  ")  # other separators than one space
_DECIMAL = re.compile(rb"[+-]?(?:\d*\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+)")
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")


def holds_numbers(parts: Sequence[bytes], *, header: bool) -> bool:
    """Whether a word, split at its spaces, looks as if it had some of a row's numbers in it.

    Its last part does; without a header, which would count the rows, any after the first, since a damaged line end
    makes a word of the row before it.
    """
    if any(map(_CONTROL.search, parts[1:])):
        return True
    return any(map(_DECIMAL.fullmatch, parts[1:][-1:] if header else parts[1:]))


class Table(NamedTuple):
    """The words in the file's order, and their vectors; one further row of zeros."""

    words: tuple[str, ...]
    vectors: np.ndarray  # float32 [V + 1, D]


class _Part(NamedTuple):
    """Some rows in a sequence."""

    words: list[bytes]
    vectors: np.ndarray  # float32 [n, D]


def read_table(source: Source, layout: Layout) -> Table:
    """All of a file. Memory holds the matrix once, the words, and a few MB.

    InputError, naming file, line or entry, and word, for all that does not fit.
    """
    words: list[str] = []
    blocks = _Blocks(layout.width)
    for part in (_binary if layout.kind == "binary" else _text)(source, layout):
        _check(part, source.name, layout, len(words))
        words += [word.decode() for word in part.words]
        blocks.add(part.vectors)
    if layout.count is not None and len(words) != layout.count:
        raise InputError(f"{source.name}, line 1: the header says {layout.count} words, the file has {len(words)}")
    if (twice := repeated(words)) is not None:
        first, second = twice
        raise InputError(
            f"{layout.place(source.name, second)}: {words[first]!r} is already {layout.place('at', first)[4:]}: "
            "keep one of them"
        )
    return Table(tuple(words), blocks.matrix())


def _check(part: _Part, name: str, layout: Layout, start: int) -> None:
    """InputError for a word that is empty, too long or not UTF-8, and for a vector that is not finite."""
    for row, word in enumerate(part.words, start):
        if not word or len(word) > LONGEST_WORD or word[:1].isspace() or b"\n" in word:
            raise InputError(
                f"{layout.place(name, row)}: the word is {_shown(word)}; it must be 1 to {LONGEST_WORD} bytes, without "
                "a space before it and without a line end"
            )
    try:
        b"\n".join(part.words).decode()
    except UnicodeDecodeError:
        for row, word in enumerate(part.words, start):
            if _shown(word)[:1] == "b":
                raise InputError(f"{layout.place(name, row)}: the word {_shown(word)} is not UTF-8") from None
    finite = np.isfinite(part.vectors).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise InputError(
            f"{layout.place(name, start + row)}: the vector of {_shown(part.words[row])} holds NaN or infinity, or a "
            "number beyond float32"
        )


def _shown(word: bytes) -> str:
    """The beginning of a word, for an error; b'...' if it is not UTF-8."""
    try:
        return repr(word.decode()[:80])
    except UnicodeDecodeError:
        return repr(word[:80])


class _Blocks:
    """A matrix that grows by blocks, which are released one by one while they are put together."""

    def __init__(self, width: int) -> None:
        self._height, self._width = max(1, _BLOCK // (4 * width)), width
        self._blocks: list[np.ndarray] = []
        self._free = 0

    def add(self, vectors: np.ndarray) -> None:
        while len(vectors):
            if not self._free:
                self._blocks.append(np.empty((self._height, self._width), np.float32))
                self._free = self._height
            now, vectors = vectors[: self._free], vectors[self._free :]
            start = self._height - self._free
            self._blocks[-1][start : start + len(now)] = now
            self._free -= len(now)

    def matrix(self) -> np.ndarray:
        """All rows and one more of zeros, aligned; the blocks are gone after it."""
        count = self._height * len(self._blocks) - self._free
        size = 4 * (count + 1) * self._width
        raw = np.empty(size + _ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % _ALIGNMENT
        whole = raw[start : start + size].view(np.float32).reshape(count + 1, self._width)
        for first in range(0, count, self._height):
            rows = whole[first : min(first + self._height, count)]
            rows[:] = self._blocks.pop(0)[: len(rows)]
        whole[count] = 0.0
        return whole


def _body(source: Source, layout: Layout) -> Iterator[bytes]:
    """The bytes of a source without byte order mark and header."""
    chunks = source.chunks()
    first = next(chunks, b"").removeprefix(BOM)
    yield first if layout.count is None else first.partition(b"\n")[2]
    yield from chunks


def _binary(source: Source, layout: Layout) -> Iterator[_Part]:
    """word2vec's binary entries: the word, a space, D little-endian float32, perhaps a line end."""
    assert layout.count is not None
    size, left, position = 4 * layout.width, layout.count, 0
    buffer = b""
    for chunk in _body(source, layout):
        buffer, position = buffer[position:] + chunk, 0
        words, vectors = [], []
        while left:
            start = position + (buffer[position : position + 1] == b"\n")
            space = buffer.find(b" ", start, start + LONGEST_WORD + 1)
            if (end := space + 1 + size) > len(buffer) or space < 0:
                break
            words.append(buffer[start:space])
            vectors.append(buffer[space + 1 : end])
            position, left = end, left - 1
        yield _Part(words, np.frombuffer(b"".join(vectors), "<f4").reshape(-1, layout.width))
        if left and space < 0 and len(buffer) - start > LONGEST_WORD:
            row = layout.count - left
            raise InputError(f"{layout.place(source.name, row)}: no word ends within {LONGEST_WORD} bytes")
    rest = buffer[position:]
    if left and rest.strip(b"\n"):
        raise InputError(
            f"{layout.place(source.name, layout.count - left)} of {layout.count} is cut short: {len(rest)} bytes for a "
            f"word and {layout.width} float32; copy the file again"
        )
    if not left and rest not in (b"", b"\n"):
        raise InputError(f"{source.name} has bytes left over after the {layout.count} words of its header")


def _text(source: Source, layout: Layout) -> Iterator[_Part]:
    """Lines of a word and D numbers, the header left out; empty lines may stand at the end."""
    row, rest = 0, b""
    for chunk in _body(source, layout):
        *lines, rest = (rest + chunk).split(b"\n")
        end = len(lines)
        while end and not lines[end - 1].strip():
            end -= 1
        lines, rest = lines[:end], b"\n".join([*lines[end:], rest])  # empty lines are right if nothing follows
        if len(rest) > PREFIX:
            raise InputError(f"{layout.place(source.name, row + len(lines))} is longer than {PREFIX} bytes")
        yield _parsed(lines, source.name, layout, row)
        row += len(lines)
    if last := rest.rstrip():
        yield _parsed(last.split(b"\n"), source.name, layout, row)


def _parsed(lines: Sequence[bytes], name: str, layout: Layout, start: int) -> _Part:
    """The rows of some lines, of which the first is row `start`."""
    words, rows = [], []
    for row, line in enumerate(lines, start):
        if b"\0" in line:
            raise InputError(f"{layout.place(name, row)}: a NUL character in {_shown(line)}; copy the file again")
        word, _, numbers = line.partition(b" ")
        numbers = numbers.rstrip()
        if numbers.count(b" ") != layout.width - 1 or b"\t" in word:
            word, numbers = _split(line, layout, layout.place(name, row))
        words.append(word)
        rows.append(numbers)
    shape = (len(rows), layout.width)
    # Each of the D fields of a line gives one number or more, or ends the parsing: with D numbers a line all are right.
    joined = b" ".join(rows)
    values = None if _UNEVEN.search(joined) else _floats(joined)
    if values is None or values.size != len(rows) * layout.width:
        split = [_split(line, layout, layout.place(name, row)) for row, line in enumerate(lines, start)]
        words = [word for word, _ in split]
        for row, (word, numbers) in enumerate(split, start):
            if wrong := [field for field in numbers.split(b" ") if not NUMBER.fullmatch(field)]:
                place = layout.place(name, row)
                raise InputError(f"{place}: {_shown(wrong[0])} is no number, in the vector of {_shown(word)}")
        values = _floats(b" ".join(numbers for _, numbers in split))
        assert values is not None
    return _Part(words, values.reshape(shape))


def _split(line: bytes, layout: Layout, place: str) -> tuple[bytes, bytes]:
    """The word of a line, which may hold spaces, and its last D fields with one space between them."""
    fields = line.rsplit(None, layout.width)
    before = fields[0].split() if fields else []
    if len(fields) != layout.width + 1 or holds_numbers(before, header=layout.count is not None):
        needed = "most of the first lines have" if layout.count is None else "the header says"
        raise InputError(
            f"{place}: {max(len(line.split()) - 1, 0)} numbers after the word {_shown(b''.join(before[:1]))}, {needed} "
            f"{layout.width}"
        )
    return fields[0], b" ".join(fields[1:])


def _floats(text: bytes) -> np.ndarray | None:
    """The numbers of a text, float32; None if anything in it is no number."""
    with warnings.catch_warnings(action="error", category=DeprecationWarning):
        try:
            return np.fromstring(text, np.float32, sep=" ")
        except (DeprecationWarning, ValueError):
            return None
