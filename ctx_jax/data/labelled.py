"""Files of labelled texts and of labelled words.

`data.row_files` says which formats there are. In a file of texts in columns between white space, the text is what the
other columns leave of its line. In files of words each line is a word, and an empty line ends a sentence; a line of
CoNLL-2003's `-DOCSTART-` is left out and ends one, too. So are comments before the first word of a sentence: a line of
`#` and a space, then `id`, `newdoc`, `newpar`, or a name, a space and `=` (`# id 7 domain=en`, `# sent_id = 7`). Any
other line that begins with `#` is a word.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from ctx_jax.data.columns import Columns, named
from ctx_jax.data.config import check_at_least
from ctx_jax.data.row_files import Row, kind_of, read_conllu_or_words, read_rows
from ctx_jax.data.text_files import STANDARD_INPUT
from ctx_jax.data.text_lines import read_text_lines
from ctx_jax.io.errors import ConfigError, InputError

_DOCUMENT_START = "-DOCSTART-"
_COMMENT = re.compile(r"# +((id|newdoc|newpar)\b|[A-Za-z][\w.:-]* +=( |$))")


@dataclass(frozen=True)
class LabelledData:
    """Labelled files, and how they are read."""

    train: str = ""
    """The training file: .tsv, .csv, .jsonl (also .ndjson, .json) or .conllu, anything else in columns between white
    space; plain, .gz, .xz or .zst."""

    valid: str = ""
    """The validation file. It chooses the best step and ends the run early; without it the last step counts."""

    columns: str = "text,label"
    """Names of the columns in their order, between commas; `_` skips one. A first row that holds all of these names, in
    any case, is a header, and its order counts; between white space, where a text may hold them, a line with further
    words is one if the other lines have labels where it says. `name=key` where a header, or the objects of .jsonl, have
    another name for it, as in `first=sentence1,second=sentence2,label=gold_label`. For .conllu the names are CoNLL-U's
    own (form, upos, ...)."""

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
        if not self.separator:
            raise ConfigError("data.separator", "must hold at least one character, as in `,`; got an empty one")


class Example(NamedTuple):
    """A labelled text, sentence or pair of texts. `label` is None where a file has no labels and none are needed."""

    item: str | list[str] | tuple[str, str]
    label: str | list[str] | None
    location: str  # file and line, for errors

    @property
    def labels(self) -> list[str]:
        """The label of a text, all of its labels, or those of a sentence's words."""
        return [self.label] if isinstance(self.label, str) else self.label or []


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
        found = columns.objects(path, labels, empty_labels)
    else:
        rows = read_rows(path, kind) if kind else read_text_lines(path, columns, labels, is_label)
        how: dict[str, Any] = {"empty_labels": empty_labels, "is_label": is_label}
        found = named(rows, columns, labels, tabular=bool(kind), **how)
    for location, fields in found:
        if fields is not None:
            yield Example(fields[columns.item].removeprefix(prefix), fields.get(columns.label or ""), location)
        elif not labels:
            yield Example("", None, location)


def read_sentences(
    path: str, columns: Columns, *, prefix: str = "", labels: bool = True, like: str = ""
) -> Iterator[Example]:
    """The labelled sentences of a file of words; raises as `read_texts`. `like`: another file, which standard input is
    read like; where labels are not needed, it may hold words alone in place of CoNLL-U."""
    kind, in_file = kind_of(like or path), columns.of_file(like or path)
    if kind == ".jsonl":
        raise InputError(f"{path}: .jsonl holds texts, not words: give .conllu, .tsv or columns between white space")
    if path == STANDARD_INPUT and kind == ".conllu" and not labels:
        kind, rows = read_conllu_or_words(path)
        columns = in_file if kind else columns
    else:
        rows, columns = read_rows(path, kind), in_file
    found = named(_without_comments(rows), columns, labels, tabular=kind in (".tsv", ".csv"), words=True)
    words: list[str] = []
    tags: list[str] = []
    first = ""
    for location, fields in chain(found, [("", None)]):
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


def _without_comments(rows: Iterable[Row]) -> Iterator[Row]:
    """The rows of a file of words without its comments, an empty line in place of a `-DOCSTART-` (see above)."""
    begins = True
    for location, fields in rows:
        if fields is None or _DOCUMENT_START in fields:
            begins = True
            yield location, None
        elif not (begins and _COMMENT.match(" ".join(fields))):
            begins = False
            yield location, fields


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
