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
    header: list[str] | None = None
    names: Sequence[str] = columns.names
    if labels or (is_label and path != STANDARD_INPUT):
        lines = list(lines)
        filled = [each for each in lines if each[1].strip()]
        header = _header([line for _, line in filled], columns, None if labels else is_label)
        names = header or names
        if not labels and is_label:
            labels = _all_labelled(filled[1:] if header else filled, names, columns, is_label)
    for location, line in lines:
        if not line.strip():
            yield location, None
        elif header:
            yield location, _words(line)
            header = None
        else:
            yield location, _split_around(line, names.index(columns.item), len(names)) if labels else line.split("\t")


def _header(lines: Sequence[str], columns: Columns, is_label: Callable[[str], bool] | None) -> list[str] | None:
    """The names of the first line if it is a header: if it holds the names that are needed and no others. A text may
    hold them, too ("Please label this text"), so that a line with further words is a header only if the other lines
    have labels where it says and the first has none in the place of one.

    A label is what `is_label` says; without it, what the columns of the other lines hold in its place.
    """
    if not lines or not columns.needed <= {*(names := columns.renamed(_words(lines[0])))}:
        return None
    if len(names) == len(columns.needed):
        return names
    own, *others = (_label(line, columns.names, columns) for line in lines)
    theirs = {label for line in lines[1:] if (label := _label(line, names, columns)) is not None}
    if not theirs:
        return None
    if is_label:
        labelled = not (own and is_label(own)) and all(map(is_label, theirs))
    else:  # labels are two or more, and fewer than the words in another place
        kinds = len({*others})
        labelled = 2 <= len(theirs) < kinds or (len(theirs) <= kinds and own not in others)
    return names if labelled else None


def _all_labelled(
    lines: Sequence[tuple[str, str]], names: Sequence[str], columns: Columns, is_label: Callable[[str], bool]
) -> bool:
    """Whether all lines have a label. InputError where only most have one, so that it cannot be told."""
    labels = [_label(line, names, columns) for _, line in lines]
    without = [number for number, label in enumerate(labels) if label is None or not is_label(label)]
    if without and 2 * len(without) < len(lines):
        raise InputError(
            f"{lines[without[0]][0]}: has no {columns.label} that training has seen, as most lines of the file do: is "
            "its end a label or text? Give columns between tabs, in a .tsv"
        )
    return not without


def _label(line: str, names: Sequence[str], columns: Columns) -> str | None:
    """The label of a line with columns of these names; None if it has fewer."""
    fields = _split_around(line, names.index(columns.item), len(names))
    return fields[names.index(columns.label or "")] if len(fields) == len(names) else None


def _words(line: str) -> list[str]:
    return WHITE_SPACE.split(line.strip(" \t"))


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
