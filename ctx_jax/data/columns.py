"""The columns of labelled files: their names, headers, and the fields of rows by name."""

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ctx_jax.data.row_files import CONLLU, Row, kind_of, read_objects
from ctx_jax.io.errors import ConfigError, InputError

SKIPPED = "_"
WORD_COLUMNS = {
    *("word", "words", "token", "tokens", "form", "tag", "tags", "label", "labels", "chunk"),
    *("pos", "pos_tag", "pos_tags", "upos", "xpos", "ner", "ner_tag", "ner_tags"),
}
"""Usual names of the columns of words and of their labels."""
_LOGGER = logging.getLogger("ctx_jax")

NamedRow = tuple[str, dict[str, str] | None]  # location and fields by name; None: an empty line


class Columns(NamedTuple):
    """The columns of a file: of the word, of the text or of both texts, of the label if there is one, and how many
    there are."""

    names: tuple[str, ...]
    items: tuple[str, ...]
    label: str | None
    keys: tuple[str, ...]  # what a header and the objects of .jsonl call them

    @classmethod
    def parse(cls, text: str, *items: str, label: bool = True) -> "Columns":
        """From names between commas: those of the `items` and, if asked, one more, which is the label's."""
        pairs = [[part.strip() for part in name.partition("=")] for name in text.split(",")]
        names, keys = tuple(name for name, _, _ in pairs), tuple(key or name for name, _, key in pairs)
        named = [name for name in names if name != SKIPPED]
        others = [name for name in named if name not in items]
        if sorted(named) != sorted({*named}) or not {*items} <= {*named} or len(others) != label:
            wanted = [*items, "the label"] if label else [*items]
            example = ",".join([*items, "label"] if label else items)
            raise ConfigError(
                "data.columns",
                f"must name {' and '.join(wanted)}, nothing else, and skip other columns by {SKIPPED}, as in "
                f"`{example}`; got {text!r}",
            )
        return cls(names, items, others[0] if label else None, keys)

    @property
    def item(self) -> str:
        """The column of the text or word, or of the first text."""
        return self.items[0]

    @property
    def needed(self) -> set[str]:
        """The names of all columns that are read."""
        return {*self.items} | ({self.label} if self.label else set())

    def of_file(self, path: str) -> "Columns":
        """The columns of a file: CoNLL-U's are its own. ConfigError if they have none of this name."""
        if kind_of(path) != ".conllu":
            return self
        if unknown := [name for name in self.names if name in self.needed and name not in CONLLU]:
            raise ConfigError("data.columns", f"names {unknown[0]!r}, and CoNLL-U has {', '.join(CONLLU)}")
        return self._replace(names=CONLLU, keys=CONLLU)

    def key(self, name: str) -> str:
        """What a header calls the column `name`."""
        return self.keys[self.names.index(name)]

    def renamed(self, header: Sequence[str]) -> list[str]:
        """A header with our names in place of the file's own. Case and spaces around a name do not count, unless the
        header has the name as we have it, too."""
        return [self._name_of(field, header) for field in header]

    def _name_of(self, field: str, header: Sequence[str]) -> str:
        for name in self.names:
            key = self.key(name)
            if name in self.needed and (field == key or (key not in header and _folded(field) == _folded(key))):
                return name
        return SKIPPED if field in self.needed else field

    def objects(self, path: str, labels: bool, empty_labels: bool = False) -> Iterator[NamedRow]:
        """The fields of the objects of a .jsonl file by name, as `named` gives those of rows."""
        names = [name for name in self.names if name in self.needed]
        keys = [self.key(name) for name in names]
        optional = self.key(self.label) if self.label and not labels else None
        for location, values in read_objects(path, keys, optional if keys.count(optional or "") == 1 else None):
            fields = {name: value for name, value in zip(names, values, strict=True) if value is not None}
            yield location, self.checked(location, fields, empty_labels or not labels)

    def checked(self, location: str, fields: dict[str, str], empty_labels: bool) -> dict[str, str]:
        """The fields of a row; InputError if its label is empty, unless it may be."""
        if self.label and not empty_labels and not fields[self.label]:
            raise InputError(f"{location}: the {self.label} is empty")
        return fields

    @property
    def without_label(self) -> tuple[str, ...]:
        """The names without the label's."""
        return tuple(name for name in self.names if name != self.label)


def named(
    rows: Iterable[Row],
    columns: Columns,
    labels: bool,
    *,
    tabular: bool,
    words: bool = False,
    empty_labels: bool = False,
    is_label: Callable[[str], bool] | None = None,
) -> Iterator[NamedRow]:
    """The fields of rows by name, without those that are skipped; a header's order takes the place of the columns'.

    A first row that holds all names is a header; CoNLL-U has none. Where labels are not needed, the header of a table
    may lack theirs, unless `is_label` finds one in its place. Where they are needed, a warning is logged for a first
    row that may be a header under other names (`_Doubt`). InputError as `read_texts`.
    """
    shapes = [columns.names] if labels else [columns.names, columns.without_label, columns.items]
    first, doubt = columns.names != CONLLU, None
    for location, fields in rows:
        if fields is None:
            yield location, None
            continue
        begins, first = first, False
        if begins and (header := _header(location, fields, columns, not labels and tabular, words, is_label)):
            shapes = [header]
            continue
        names = next((shape for shape in shapes if len(shape) == len(fields)), None)
        if names is None and not labels and not any(fields):
            yield location, None
            continue
        if names is None:
            raise InputError(
                f"{location}: needs the {len(shapes[0])} columns {', '.join(shapes[0])}, has {len(fields)}: "
                f"{' | '.join(fields)[:80]!r}. Set data.columns"
            )
        kept = {name: field for name, field in zip(names, fields, strict=True) if name in columns.needed}
        if labels and columns.label:
            label = kept[columns.label]
            found = {*re.findall(r"\w+", label)} if empty_labels else {label}
            if begins:
                doubt = _Doubt.of(location, names, fields, kept, found, words)
            elif doubt:
                doubt = doubt.after(found)
        yield location, columns.checked(location, kept, empty_labels or not labels)
    if doubt and doubt.recur:
        _LOGGER.warning(doubt.warning)


def _header(
    location: str,
    fields: Sequence[str],
    columns: Columns,
    may_lack_label: bool,
    words: bool,
    is_label: Callable[[str], bool] | None,
) -> tuple[str, ...] | None:
    """The first row's names, if it is a header (see `named`); InputError if it has one that is needed twice. A row of
    `words` without the label's name must have another order than the columns, or no other field: it may be a word."""
    header, items = columns.renamed(fields), columns.items
    if not columns.needed <= {*header}:
        if not may_lack_label or not {*items} <= {*header}:
            return None
        elsewhere = any(header.index(name) != columns.names.index(name) for name in items)
        if words and not elsewhere and header != [*items]:
            return None
        own = dict(zip(columns.names, fields, strict=False)).get(columns.label or "")
        if is_label and own is not None and is_label(own):
            return None
    if twice := sorted(columns.key(name) for name in columns.needed if header.count(name) > 1):
        raise InputError(f"{location}: the header has {' and '.join(twice)} twice")
    return tuple(header)


@dataclass
class _Doubt:
    """A first row that may be a header under other names: no other row has its label, while labels of others recur.

    The first row of a file of words must also hold a usual name of such columns, as a label of one word may be rare. A
    label without letters, as a number, is no name.
    """

    warning: str
    labels: set[str]  # of the first row
    others: set[str] = field(default_factory=set)
    recur: bool = False

    @classmethod
    def of(
        cls,
        location: str,
        names: Sequence[str],
        fields: Sequence[str],
        kept: dict[str, str],
        labels: set[str],
        words: bool,
    ) -> "_Doubt | None":
        """None if the row cannot be a header."""
        labels = {label for label in labels if any(map(str.isalpha, label))}
        if not labels or (words and not WORD_COLUMNS & {*map(_folded, kept.values())}):
            return None
        keys = dict(zip(names, (field.strip() for field in fields), strict=True))
        clear = not any(re.search("^$|[,=]", keys[name]) for name in kept)
        setting = ",".join(f"{name}={keys[name] if clear else '...'}" if name in kept else SKIPPED for name in names)
        return cls(
            f"{location}: no other row has the label of this first one, {' | '.join(fields)[:80]!r}. It is read as an "
            f"example; if it is a header, set data.columns {setting[:200]}",
            labels,
        )

    def after(self, labels: set[str]) -> "_Doubt | None":
        """After another row with these labels; None if it has one of the first row's."""
        if labels & self.labels:
            return None
        self.recur |= bool(labels & self.others)
        self.others |= labels
        return self


def _folded(name: str) -> str:
    return name.strip().casefold()
