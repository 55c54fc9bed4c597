"""How a table's file is laid out: GloVe's text, or word2vec's text or binary with a header "V D".

Letters: D width, V words of the table.
"""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from ctx_jax.encoders.static.sources import Source
from ctx_jax.io.errors import InputError

WIDEST = 1 << 16  # the largest D: a damaged header must not fill memory
BOM = b"\xef\xbb\xbf"
NUMBER = re.compile(rb"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|inf(?:inity)?|nan)", re.IGNORECASE)
_HEADER = re.compile(rb"[ \t]*(\d{1,18})[ \t]+(\d{1,18})[ \t\r]*")
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")
_NO_ASCII_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f-\xff]")
_FASTTEXT = (793712314).to_bytes(4, "little")
_LINES = 100  # lines that give the width of a file without a header


@dataclass(frozen=True)
class Layout:
    """The layout of a file, and D; of a file with a header also V."""

    kind: Literal["text", "binary"]
    width: int
    count: int | None = None

    def place(self, name: str, row: int) -> str:
        """Where row `row` of the table, from 0, stands in the file `name`."""
        if self.kind == "binary":
            return f"{name}, entry {row + 1}"
        return f"{name}, line {row + 1 + (self.count is not None)}"


def layout_of(source: Source) -> Layout | None:
    """The layout by the content of the file's beginning; None for what is no table.

    InputError for fastText's `.bin`, and for a header of no words or a width beyond reason.
    """
    if source.prefix.startswith(_FASTTEXT):
        raise InputError(f"{source.name} is fastText's own .bin, which is not read: load the .vec of the same vectors")
    line, _, body = source.prefix.removeprefix(BOM).partition(b"\n")
    if (header := _HEADER.fullmatch(line[:64])) is None:
        width = _common_width(source.prefix.removeprefix(BOM))
        return None if width is None else Layout("text", width)
    count, width = map(int, header.groups())
    if count < 1 or not 1 <= width <= WIDEST:
        raise InputError(
            f"{source.name}, line 1: the header says {count} words of {width} numbers; needed are 1 or more words of "
            f"1 to {WIDEST} numbers"
        )
    return Layout("binary" if _is_binary(body, width) else "text", width, count)


def is_table(source: Source) -> bool:
    """Whether it looks like a table, of a kind that is refused too."""
    try:
        return layout_of(source) is not None
    except InputError:
        return True


def _common_width(prefix: bytes) -> int | None:
    """D of text without a header: one less than the most common number of fields; None unless most lines end in a
    number."""
    lines = prefix.split(b"\n", _LINES)
    if len(lines) > 1:
        lines.pop()  # the rest, or nothing
    rows = [fields for line in lines if (fields := line.split())]
    if 2 * sum(NUMBER.fullmatch(fields[-1]) is not None for fields in rows) <= len(rows):
        return None
    width = Counter(map(len, rows)).most_common(1)[0][0] - 1
    return width if 1 <= width <= WIDEST else None


def _is_binary(body: bytes, width: int) -> bool:
    """Whether what follows the header is binary: the first row is no text of `width` numbers, and holds bytes that
    text does not."""
    row, _, _ = body.partition(b"\n")
    fields = row.rsplit(None, width)
    if len(fields) == width + 1 and all(map(NUMBER.fullmatch, fields[1:])):
        return False
    vector = row.partition(b" ")[2][: 4 * width]
    return _NO_ASCII_TEXT.search(vector) is not None or _CONTROL.search(body[: 1 << 16]) is not None
