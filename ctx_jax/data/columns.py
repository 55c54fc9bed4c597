"""The columns of labelled files: their names, headers, and the fields of rows by name."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ctx_jax.data.row_files import CONLLU, Row, kind_of, read_objects
from ctx_jax.io.errors import ConfigError, InputError

SKIPPED = "_"

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
        """A header with our names in place of the file's own."""
        names = {self.key(name): name for name in self.needed}
        return [names.get(key, SKIPPED if key in self.needed else key) for key in header]

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
    rows: Iterable[Row], columns: Columns, labels: bool, *, tabular: bool, empty_labels: bool = False
) -> Iterator[NamedRow]:
    """The fields of rows by name, without those that are skipped; a header's order takes the place of the columns'.

    Where labels are not needed, the header of a table may lack theirs. InputError as `read_texts`.
    """
    shapes = [columns.names] if labels else [columns.names, columns.without_label, columns.items]
    needed, items = columns.needed, columns.items
    first = True
    for location, fields in rows:
        if fields is None:
            yield location, None
            continue
        if first:
            header, first = columns.renamed(fields), False
            complete, has_items = needed <= {*header}, {*items} <= {*header}
            elsewhere = has_items and any(header.index(name) != columns.names.index(name) for name in items)
            if complete or (not labels and tabular and (elsewhere or header == [*items])):
                if twice := sorted(columns.key(name) for name in needed if header.count(name) > 1):
                    raise InputError(f"{location}: the header has {' and '.join(twice)} twice")
                shapes = [tuple(header)]
                continue
        names = next((shape for shape in shapes if len(shape) == len(fields)), None)
        if names is None:
            raise InputError(
                f"{location}: needs the {len(shapes[0])} columns {', '.join(shapes[0])}, has {len(fields)}: "
                f"{' | '.join(fields)[:80]!r}. Set data.columns"
            )
        kept = {name: field for name, field in zip(names, fields, strict=True) if name in needed}
        yield location, columns.checked(location, kept, empty_labels or not labels)
