"""Files of pairs of texts, with or without a gold score: .tsv, .csv, or columns between tabs; .gz, .xz, .zst too."""

import math
from typing import NamedTuple

from ctx_jax.data.columns import SKIPPED
from ctx_jax.data.row_files import kind_of, read_rows
from ctx_jax.io.errors import ConfigError, InputError

FIRST, SECOND, GOLD = "first", "second", "gold"


class Pairs(NamedTuple):
    """Pairs of texts, and their gold scores if the file has them."""

    first: list[str]
    second: list[str]
    gold: list[float] | None


def read_pairs(path: str, columns: str = "") -> Pairs:
    """The pairs of a file, one a row.

    `columns` names the columns in their order, between commas: first, second and, if there is one, gold; `_` skips one.
    Empty: two columns, or three with the gold score last. The first row is a header if its gold score is no number. A
    row of two empty texts is a pair where the file has no gold scores; other rows without text are none.

    Raises MissingFileError; ConfigError for columns; InputError naming the line of another number of columns or of a
    score that is no number, and for a file without pairs.
    """
    names = _names(columns)
    first, second, gold = list[str](), list[str](), list[float]()
    header, before = True, 0
    for location, fields in read_rows(path, ".csv" if kind_of(path) == ".csv" else ".tsv", empty_rows=True):
        empty = fields is not None and not any(map(str.strip, fields))
        if fields is None or (empty and (GOLD in names or len(fields) != len(names or (FIRST, SECOND)))):
            continue
        if empty and not names:  # a later row says whether the file has gold scores
            before += 1
            continue
        if not names:
            names = (FIRST, SECOND, GOLD) if len(fields) == 3 else (FIRST, SECOND)
            texts = [""] * (before if GOLD not in names else 0)
            first, second, gold = [*texts], [*texts], [0.0] * len(texts)
        if len(fields) != len(names):
            raise InputError(f"{location}: needs the {len(names)} columns {', '.join(names)}, has {len(fields)}")
        row = dict(zip(names, fields, strict=True))
        score = _number(row.get(GOLD, "0"))
        if score is None and not header:
            raise InputError(f"{location}: the gold score must be a number, got {row[GOLD][:80]!r}")
        header = False
        if score is None:
            continue
        first.append(row[FIRST])
        second.append(row[SECOND])
        gold.append(score)
    if not first:
        raise InputError(f"{path} holds no pairs")
    return Pairs(first, second, gold if GOLD in names else None)


def _names(columns: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in columns.split(",")) if columns else ()
    kept = sorted(name for name in names if name != SKIPPED)
    if names and kept not in (sorted([FIRST, SECOND]), sorted([FIRST, SECOND, GOLD])):
        raise ConfigError(
            "columns",
            f"must name {FIRST} and {SECOND}, may name {GOLD}, and skips others by {SKIPPED}; got {columns!r}",
        )
    return names


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
