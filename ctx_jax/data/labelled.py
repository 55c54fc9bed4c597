"""Files of labelled texts and of labelled words.

`data.row_files` says which formats there are. In a file of texts in columns between white space, the text is what the
other columns leave of its line. In files of words each line is a word, and an empty line ends a sentence.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from ctx_jax.data.config import check_at_least
from ctx_jax.data.row_files import CONLLU, WHITE_SPACE, Row, kind_of, read_located, read_objects, read_rows
from ctx_jax.data.text_files import STANDARD_INPUT
from ctx_jax.io.errors import ConfigError, InputError

SKIPPED = "_"
_WORD = re.compile(r"[^ \t]+")


@dataclass(frozen=True)
class LabelledData:
    """Labelled files, and how they are read."""

    train: str = ""
    """The training file: .tsv, .csv, .jsonl or .conllu, anything else in columns between white space; plain, .gz, .xz
    or .zst."""

    valid: str = ""
    """The validation file. It chooses the best step and ends the run early; without it the last step counts."""

    columns: str = "text,label"
    """Names of the columns in their order, between commas; `_` skips one. A first row that holds all of these names is
    a header, and its order counts. `name=key` where a header, or the objects of .jsonl, have another name for it, as in
    `first=sentence1,second=sentence2,label=gold_label`. For .conllu the names are CoNLL-U's own (form, upos, ...)."""

    no_label: str = ""
    """What stands in the label's column where there is none, such as SNLI's `-`: these texts are neither trained on nor
    measured."""

    examples: int = 0
    """Train on so many examples of the training file, chosen by the run's seed; a larger number has all examples of a
    smaller one. 0: all."""

    separator: str = ","
    """Where a text has several labels: the sign between them in their column."""

    strip_prefix: str = ""
    """What every text or word begins with that is not part of it, such as WikiANN's `en:`."""

    cache: str = ""
    """Folder of the vectors of a frozen encoder, which several runs may share. Empty: `cache` in the run directory."""

    cache_vectors: bool = True
    """Compute a frozen encoder's vectors once and keep them on disk; otherwise anew in every epoch."""

    prefetch: int = 2
    """Batches made ready ahead of the one being trained on."""

    def __post_init__(self) -> None:
        check_at_least("data", self, prefetch=1, examples=0)


class Example(NamedTuple):
    """A labelled text, sentence or pair of texts. `label` is None where a file has no labels and none are needed."""

    item: str | list[str] | tuple[str, str]
    label: str | list[str] | None
    location: str  # file and line, for errors

    @property
    def labels(self) -> list[str]:
        """The label of a text, all of its labels, or those of a sentence's words."""
        return [self.label] if isinstance(self.label, str) else self.label or []


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

    def objects(self, path: str, labels: bool) -> Iterator[Row]:
        """The rows of a .jsonl file, whose label may be missing unless `labels` are needed."""
        keys = [self.key(name) for name in self.names if name in self.needed]
        return read_objects(path, keys, None if labels or not self.label else self.key(self.label))

    @property
    def without_label(self) -> tuple[str, ...]:
        """The names without the label's."""
        return tuple(name for name in self.names if name != self.label)


def read_texts(
    path: str,
    columns: Columns,
    *,
    prefix: str = "",
    labels: bool = True,
    is_label: Callable[[str], bool] | None = None,
    empty_labels: bool = False,
) -> Iterator[Example]:
    """The labelled texts of a file, one a row. A label may be empty if `empty_labels`.

    Unless `labels` are needed, their column may be missing, and an empty row is an empty text. In a file of columns
    between white space they are then taken for a part of the text, unless `is_label` finds that all rows have a label
    in their place.

    Raises MissingFileError; InputError, naming file and line, for a row with another number of columns, an empty label,
    damage, and .conllu, which has no column of texts.
    """
    kind = kind_of(path)
    if kind == ".conllu":
        raise InputError(f"{path}: CoNLL-U holds words, not texts: give .tsv or .csv")
    if kind == ".jsonl":
        rows = columns.objects(path, labels)
    else:
        rows = read_rows(path, kind) if kind else _texts_in_lines(path, columns, labels, is_label)
    for location, fields in named(rows, columns, labels, tabular=bool(kind), empty_labels=empty_labels):
        if fields is not None:
            yield Example(fields[columns.item].removeprefix(prefix), fields.get(columns.label or ""), location)
        elif not labels:
            yield Example("", None, location)


def read_sentences(
    path: str, columns: Columns, *, prefix: str = "", labels: bool = True, like: str = ""
) -> Iterator[Example]:
    """The labelled sentences of a file of words; raises as `read_texts`. `like`: another file, which standard input is
    read like."""
    like = like or path
    kind, columns = kind_of(like), columns.of_file(like)
    if kind == ".jsonl":
        raise InputError(f"{path}: .jsonl holds texts, not words: give .conllu, .tsv or columns between white space")
    rows = named(read_rows(path, kind), columns, labels, tabular=kind in (".tsv", ".csv"))
    words: list[str] = []
    tags: list[str] = []
    first = ""
    for location, fields in chain(rows, [("", None)]):
        if fields is None:
            if words:
                yield Example(words, tags or None, first)
            words, tags = [], []
            continue
        first = first if words else location
        words.append(fields[columns.item].removeprefix(prefix))
        if not words[-1]:
            raise InputError(f"{location}: the {columns.item} is empty")
        tags += [fields[columns.label]] if columns.label and columns.label in fields else []


def digest(examples: Iterable[Example], *, labels: bool = True) -> str:
    """SHA-256 of the texts, and of their labels if asked, in hexadecimal."""
    found = hashlib.sha256()
    for example in examples:
        found.update(json.dumps([example.item, example.label if labels else None]).encode())
    return found.hexdigest()


def nested_subset(examples: list[Example], count: int, seed: int) -> list[Example]:
    """`count` of the examples, in their order: those of the least digests of seed and content, so that a larger subset
    holds a smaller one, whatever the order of the file."""
    if count >= len(examples):
        return examples
    digests = [hashlib.sha256(json.dumps([seed, one.item, one.label]).encode()).digest() for one in examples]
    chosen = sorted(range(len(examples)), key=lambda number: digests[number])[:count]
    return [examples[number] for number in sorted(chosen)]


def _texts_in_lines(path: str, columns: Columns, labels: bool, is_label: Callable[[str], bool] | None) -> Iterator[Row]:
    """The columns of lines of which the text takes all that the others leave (see `read_texts`). Where labels are not
    needed, a line is a text; if it holds tabs, columns between them."""
    lines: Iterable[tuple[str, str]] = read_located(path)
    if not labels and is_label and path != STANDARD_INPUT:
        lines = list(lines)
        labels = _all_labelled(lines, columns, is_label)
    names, first = columns.names, True
    for location, line in lines:
        if not line.strip():
            yield location, None
            continue
        header = columns.renamed(WHITE_SPACE.split(line.strip(" \t")))
        if first and columns.needed <= {*header}:
            names = tuple(header)
            yield location, header
        else:
            yield location, _split_around(line, names.index(columns.item), len(names)) if labels else line.split("\t")
        first = False


def _all_labelled(lines: Sequence[tuple[str, str]], columns: Columns, is_label: Callable[[str], bool]) -> bool:
    """Whether the label's column of every line, but for a header, holds a label. InputError where only most have one,
    so that it cannot be told."""
    filled = [(location, line) for location, line in lines if line.strip()]
    names = columns.names
    if filled and columns.needed <= {*(header := columns.renamed(WHITE_SPACE.split(filled[0][1].strip(" \t"))))}:
        filled, names = filled[1:], tuple(header)
    rows = [_split_around(line, names.index(columns.item), len(names)) for _, line in filled]
    label = names.index(columns.label or "")
    without = [i for i, row in enumerate(rows) if len(row) != len(names) or not is_label(row[label])]
    if without and 2 * len(without) < len(rows):
        raise InputError(
            f"{filled[without[0]][0]}: has no {columns.label} that training has seen, as most lines of the file do: is "
            "its end a label or text? Give columns between tabs, in a .tsv"
        )
    return not without


def _split_around(line: str, before: int, count: int) -> list[str]:
    """`count` columns between white space: `before` of them from the left, the others from the right, and in between
    the text, which may hold white space. Fewer if the line has fewer."""
    words = [(match.start(), match.end()) for match in _WORD.finditer(line)]
    after = count - before - 1
    if len(words) < count:
        return [line[start:stop] for start, stop in words]
    inner = words[before : len(words) - after]
    text = (inner[0][0], inner[-1][1])
    return [line[start:stop] for start, stop in (*words[:before], text, *words[len(words) - after :])]


def named(
    rows: Iterable[Row], columns: Columns, labels: bool, *, tabular: bool, empty_labels: bool = False
) -> Iterator[tuple[str, dict[str, str] | None]]:
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
        if labels and columns.label and not kept[columns.label] and not empty_labels:
            raise InputError(f"{location}: the {columns.label} is empty")
        yield location, kept
