"""Pairs to tell apart or to compare: BLiMP, and lists of word similarity."""

import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ctx_jax.data.archives import read_members
from ctx_jax.data.row_files import json_objects
from ctx_jax.io.errors import InputError, brief


class MinimalPair(NamedTuple):
    """A pair of BLiMP (Warstadt et al. 2020): a sentence, and the same but for an error of grammar."""

    good: str
    bad: str


class RatedPair(NamedTuple):
    """Two words and how similar people find them."""

    first: str
    second: str
    rating: float


def read_blimp(
    path: str | Path, *, paradigms: Collection[str] | None = None, limit: int | None = None
) -> dict[str, list[MinimalPair]]:
    """The pairs of each paradigm of BLiMP by its name, sorted; of a folder of `.jsonl` files, a tar archive of it, or
    one file. `paradigms`: only these. `limit`: only the first pairs of each.

    Raises InputError for a paradigm that is not there.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit must be at least 1, got {limit}")
    if paradigms is not None and not paradigms:
        raise InputError("paradigms needs a name, got none; None: all")
    found: dict[str, list[MinimalPair]] = {}
    for where, row in _rows(path, lambda name: ".jsonl" in name):
        fields = [row.get(key) for key in ("UID", "sentence_good", "sentence_bad")]
        if not all(isinstance(field, str) and field.strip() for field in fields):
            raise InputError(f'{where}: needs "UID", "sentence_good" and "sentence_bad", got {brief(row)}')
        name, good, bad = map(str, fields)
        if paradigms is None or name in paradigms:
            pairs = found.setdefault(name, [])
            if limit is None or len(pairs) < limit:
                pairs.append(MinimalPair(good, bad))
    if missing := sorted({*(paradigms or ())} - {*found}):
        raise InputError(f"{path} lacks the paradigms {', '.join(missing)}")
    return dict(sorted(found.items()))


def read_similarity(path: str | Path) -> dict[str, list[RatedPair]]:
    """Lists of word similarity by their name, sorted: the `.txt` files of a folder, or one. A line is two words and
    their rating, between white space."""
    lists: dict[str, list[RatedPair]] = {}
    for name, lines in read_members(path, lambda name: name.endswith(".txt")):
        pairs = [_rated(line, f"{path}: {name}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
        lists[Path(name).stem] = pairs
    return dict(sorted(lists.items()))


def _rated(line: str, where: str) -> RatedPair:
    fields = line.split()
    try:
        first, second, rating = fields[0], fields[1], float(fields[2])
    except (IndexError, ValueError):
        rating = math.nan
    if len(fields) != 3 or not math.isfinite(rating):
        raise InputError(f"{where}: needs two words and a number, got {line[:80]!r}")
    return RatedPair(first, second, rating)


def _rows(path: str | Path, wanted: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where it stands, object) of every JSON line."""
    for name, lines in read_members(path, wanted):
        yield from json_objects((f"{path}: {name}, line {number}", line) for number, line in enumerate(lines, 1))
