"""Files of labelled texts and of labelled words.

The suffix, before `.gz` or `.xz`, decides the format:

    .tsv         columns between tabs, no quoting
    .csv         RFC 4180: commas, quotes
    .conllu      CoNLL-U's ten columns; ranges (3-4) and empty nodes (3.1) are skipped
    any other    columns between white space; of a file of texts, the text is what the other columns leave of its line

In files of words each line is a word, and an empty line ends a sentence. `-` is standard input.
"""

import csv
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from ctx_jax.data.config import check_at_least
from ctx_jax.data.text_files import COMPRESSED, decode, read_lines
from ctx_jax.io.errors import ConfigError, InputError

CONLLU = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
STANDARD_INPUT = "-"
SKIPPED = "_"
LONGEST_FIELD = 2**31 - 1  # characters of a CSV field


@dataclass(frozen=True)
class LabelledData:
    """Labelled files, and how they are read."""

    train: str = ""
    """The training file: .tsv, .csv or .conllu, anything else in columns between white space; plain, .gz or .xz."""

    valid: str = ""
    """The validation file. It chooses the best step and ends the run early; without it the last step counts."""

    columns: str = "text,label"
    """Names of the columns in their order, between commas; `_` skips one. A first row that holds all of these names is
    a header, and its order counts. For .conllu the names are CoNLL-U's own (form, upos, ...)."""

    strip_prefix: str = ""
    """What every text or word begins with that is not part of it, such as WikiANN's `en:`."""

    cache: str = ""
    """Folder of the vectors of a frozen encoder, which several runs may share. Empty: `cache` in the run directory."""

    cache_vectors: bool = True
    """Compute a frozen encoder's vectors once and keep them on disk; otherwise anew in every epoch."""

    prefetch: int = 2
    """Batches made ready ahead of the one being trained on."""

    def __post_init__(self) -> None:
        check_at_least("data", self, prefetch=1)


class Example(NamedTuple):
    """A labelled text or sentence. `label` is None where a file has no labels and none are needed."""

    item: str | list[str]
    label: str | list[str] | None
    place: str  # file and line, for errors


class Columns(NamedTuple):
    """The columns of a file: of the text or word, of the label, and how many there are."""

    names: tuple[str, ...]
    item: str
    label: str

    @classmethod
    def parse(cls, text: str, item: str) -> "Columns":
        """From names between commas; `item` names the text or word, and the other column is the label."""
        names = tuple(name.strip() for name in text.split(","))
        named = [name for name in names if name != SKIPPED]
        if sorted(named) != sorted({*named}) or item not in named or len(named) != 2:
            raise ConfigError(
                "data.columns",
                f"must name two columns, {item} and the label, and skip others by {SKIPPED}, as in `{item},label`; got "
                f"{text!r}",
            )
        return cls(names, item, next(name for name in named if name != item))

    @property
    def without_label(self) -> tuple[str, ...]:
        """The names without the label's."""
        return tuple(name for name in self.names if name != self.label)


def read_texts(path: str, columns: Columns, *, prefix: str = "", labels: bool = True) -> Iterator[Example]:
    """The labelled texts of a file, one a row. Unless `labels` are needed, their column may be missing.

    Raises MissingFileError; InputError, naming file and line, for a row with another number of columns, an empty label,
    damage, and .conllu, which has no column of texts.
    """
    kind = _kind(path)
    if kind == ".conllu":
        raise InputError(f"{path}: CoNLL-U holds words, not texts: give .tsv or .csv")
    rows = _rows(path, kind) if kind else _texts_in_lines(path, columns, labels)
    for place, fields in _named(rows, columns, labels):
        if fields is not None:
            yield Example(fields[columns.item].removeprefix(prefix), fields.get(columns.label), place)


def read_sentences(path: str, columns: Columns, *, prefix: str = "", labels: bool = True) -> Iterator[Example]:
    """The labelled sentences of a file of words; raises as `read_texts`."""
    if _kind(path) == ".conllu":
        if unknown := [name for name in (columns.item, columns.label) if name not in CONLLU]:
            raise ConfigError("data.columns", f"names {unknown[0]!r}, and CoNLL-U has {', '.join(CONLLU)}")
        rows = _named(_conllu(path), columns._replace(names=CONLLU), labels=True)
    else:
        rows = _named(_rows(path, _kind(path)), columns, labels)
    words: list[str] = []
    tags: list[str] = []
    first = ""
    for place, fields in chain(rows, [("", None)]):
        if fields is None:
            if words:
                yield Example(words, tags or None, first)
            words, tags = [], []
            continue
        first = first if words else place
        words.append(fields[columns.item].removeprefix(prefix))
        tags += [fields[columns.label]] if columns.label in fields else []


def digest(examples: Iterable[Example], *, labels: bool = True) -> str:
    """SHA-256 of the texts, and of their labels if asked, in hexadecimal."""
    found = hashlib.sha256()
    for example in examples:
        found.update(json.dumps([example.item, example.label if labels else None]).encode())
    return found.hexdigest()


def _kind(path: str) -> str:
    """ ".tsv", ".csv", ".conllu", or "" for columns between white space."""
    file = Path(path)
    suffix = Path(file.stem).suffix if file.suffix in COMPRESSED else file.suffix
    return suffix if suffix in (".tsv", ".csv", ".conllu") else ""


def _lines(path: str) -> Iterator[tuple[str, str]]:
    """(place, line) of a file or of standard input."""
    if path == STANDARD_INPUT:
        name, lines = "standard input", _decoded(sys.stdin.buffer)
    else:
        name, lines = path, read_lines(Path(path), "strict")
    return ((f"{name}, line {number}", line.removesuffix("\r")) for number, line in enumerate(lines, start=1))


def _decoded(lines: Iterable[bytes]) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        yield decode(line, "strict", f"standard input, line {number}").removesuffix("\n")


Row = tuple[str, list[str] | None]  # place and fields; None: an empty line


def _rows(path: str, kind: str) -> Iterator[Row]:
    if kind == ".csv":
        yield from _csv(path)
        return
    for place, line in _lines(path):
        fields = line.split("\t") if kind == ".tsv" else line.split()
        yield place, fields if line.strip() else None


def _csv(path: str) -> Iterator[Row]:
    csv.field_size_limit(LONGEST_FIELD)  # Python's default, 128 KiB, is less than a long document
    reader = csv.reader((f"{line}\n" for _, line in _lines(path)), strict=True)
    start = 1
    try:
        for fields in reader:
            yield f"{path}, line {start}", fields if any(fields) else None
            start = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}, line {start}: no CSV as of RFC 4180 ({error})") from error


def _conllu(path: str) -> Iterator[Row]:
    for place, line in _lines(path):
        if line.startswith("#"):
            continue
        fields = line.split("\t") if line.strip() else None
        if fields is not None and len(fields) != len(CONLLU):
            raise InputError(f"{place}: CoNLL-U has {len(CONLLU)} columns between tabs, this line {len(fields)}")
        if fields is None or fields[0].isdecimal():  # else a range of words or an empty node
            yield place, fields


def _texts_in_lines(path: str, columns: Columns, labels: bool) -> Iterator[Row]:
    """The columns of lines of which the text takes all that the others leave. Where labels are not needed, a line is a
    text, unless it holds tabs."""
    before = columns.names.index(columns.item)
    after = len(columns.names) - before - 1
    for place, line in _lines(path):
        if not line.strip():
            yield place, None
        elif not labels:
            yield place, line.split("\t")
        else:
            left = line.split(maxsplit=before)
            right = left[before].rsplit(maxsplit=after) if len(left) > before else []
            yield place, [*left[:before], *right]


def _named(rows: Iterable[Row], columns: Columns, labels: bool) -> Iterator[tuple[str, dict[str, str] | None]]:
    """The fields of rows by name, without those that are skipped; a header's order takes the place of the columns'."""
    shapes = [columns.names] if labels else [columns.names, columns.without_label]
    needed = {columns.item, columns.label} if labels else {columns.item}
    first = True
    for place, fields in rows:
        if fields is None:
            yield place, None
            continue
        if first and needed <= {*fields}:
            shapes, first = [tuple(fields)], False
            continue
        first = False
        names = next((shape for shape in shapes if len(shape) == len(fields)), None)
        if names is None:
            raise InputError(
                f"{place}: needs the {len(shapes[0])} columns {', '.join(shapes[0])}, has {len(fields)}: "
                f"{' | '.join(fields)[:80]!r}. Set data.columns"
            )
        found = {
            name: field for name, field in zip(names, fields, strict=True) if name in (columns.item, columns.label)
        }
        if not found.get(columns.label, "label"):
            raise InputError(f"{place}: the {columns.label} is empty")
        yield place, found
