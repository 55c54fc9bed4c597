"""Files of labelled pairs of texts: .csv, .jsonl, or columns between tabs; plain, .gz or .xz. `-` is standard input."""

from collections.abc import Iterator

from ctx_jax.data.columns import Columns, named
from ctx_jax.data.labelled import Example
from ctx_jax.data.row_files import kind_of, read_rows
from ctx_jax.io.errors import InputError

FIRST, SECOND = "first", "second"
"""The names of the columns of the two texts."""


def read_text_pairs(path: str, columns: Columns, *, prefix: str = "", labels: bool = True) -> Iterator[Example]:
    """The pairs of a file, one a row, with their labels if the columns have one; raises as `read_texts`.

    Unless `labels` are needed, their column may be missing, and a row of empty columns is a pair of empty texts; a line
    without separators is none.
    """
    kind = kind_of(path)
    if kind == ".conllu":
        raise InputError(f"{path}: CoNLL-U holds words, not pairs of texts: give .tsv or .csv")
    if kind == ".jsonl":
        found = columns.objects(path, labels)
    else:
        rows = read_rows(path, kind if kind == ".csv" else ".tsv", empty_rows=not labels)
        found = named(rows, columns, labels, tabular=True)
    for location, fields in found:
        if fields is not None:
            texts = fields[FIRST].removeprefix(prefix), fields[SECOND].removeprefix(prefix)
            yield Example(texts, fields.get(columns.label or ""), location)
