"""Labelled texts in columns between white space: the text is what the other columns leave of its line."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from ctx_jax.data.columns import Columns
from ctx_jax.data.row_files import WHITE_SPACE, Row, read_plain
from ctx_jax.data.text_files import STANDARD_INPUT
from ctx_jax.io.errors import InputError

_WORD = re.compile(r"[^ \t]+")


def read_text_lines(path: str, columns: Columns, labels: bool, is_label: Callable[[str], bool] | None) -> Iterator[Row]:
    """The columns of lines of which the text takes all that the others leave. Where labels are not needed, a line is a
    text; if it holds tabs, columns between them (see `labelled.read_texts`)."""
    lines: Iterable[tuple[str, str]] = read_plain(path)
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
