"""WiC (Pilehvar and Camacho-Collados 2019): whether a word has the same sense in two sentences."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ctx_jax.data.archives import read_members
from ctx_jax.data.row_files import json_objects
from ctx_jax.io.errors import InputError, brief
from ctx_jax.tokenizers.words import split_words

_DATA, _GOLD = ".data.txt", ".gold.txt"
_ONE_TEXT = re.compile(r"Word: (\S.*?)\. Sentence 1: (.*\S.*) Sentence 2: (.*\S.*)")
_PLACES = re.compile(r"(\d{1,6})-(\d{1,6})", re.ASCII)
_LABELS = {"T": True, "F": False}


class ContextPair(NamedTuple):
    """A word in two sentences."""

    word: str
    first: list[str]
    second: list[str]
    same: bool
    places: tuple[int, int] | None = None
    """Where the word stands in both; None: the file does not tell."""


def read_wic(path: str | Path) -> list[ContextPair]:
    """All pairs of a folder, a tar archive of it, or one file of JSON lines, plain or compressed, in a published form:

    - the authors': a line of `NAME.data.txt` is the word, its part of speech, its places ("3-0") and both sentences in
      words between spaces, with tabs between these; a line of `NAME.gold.txt` is T or F;
    - SuperGLUE's, JSON lines: "word", "sentence1" and "sentence2" as written, which are split into words by the rule
      "prose", "start1", "end1", "start2" and "end2" in characters, and "label";
    - JSON lines of "text", "Word: W. Sentence 1: S. Sentence 2: T." with words between spaces and no places, and
      "label" 0 or 1.

    InputError, naming the line, for another form and for a pair without a label.
    """
    pairs: list[ContextPair] = []
    authors: dict[str, list[str]] = {}
    for name, lines in read_members(path, lambda name: ".jsonl" in name or name.endswith((_DATA, _GOLD))):
        if name.endswith((_DATA, _GOLD)):
            authors[name] = lines
            continue
        where = ((f"{path}: {name}, line {number}", line) for number, line in enumerate(lines, 1))
        pairs += [_of_object(place, row) for place, row in json_objects(where)]
    for name in sorted(authors):
        if name.endswith(_DATA):
            pairs += _of_release(authors, name.removesuffix(_DATA), str(path))
    return pairs


def _of_object(where: str, row: dict[str, Any]) -> ContextPair:
    text, label = row.get("text"), row.get("label")
    match = _ONE_TEXT.fullmatch(text) if isinstance(text, str) else None
    if label not in (0, 1) or (match is None and "sentence1" not in row):
        raise InputError(
            f'{where}: needs "label" 0 or 1, and "text" as "Word: W. Sentence 1: S. Sentence 2: T." or the keys of '
            f"SuperGLUE, got {brief(row)}"
        )
    if match is not None:
        return ContextPair(match[1], match[2].split(), match[3].split(), bool(label))
    (first, place), (second, other) = (_around(row, number, where) for number in "12")
    if not isinstance(row.get("word"), str):
        raise InputError(f'{where}: needs a "word", got {brief(row)}')
    return ContextPair(row["word"], first, second, bool(label), (place, other))


def _around(row: dict[str, Any], number: str, where: str) -> tuple[list[str], int]:
    """The words of a sentence of SuperGLUE, and which of them is marked."""
    text, start, end = (row.get(f"{name}{number}") for name in ("sentence", "start", "end"))
    good = isinstance(text, str) and type(start) is int and type(end) is int and 0 <= start < end <= len(text)
    if not good or len(marked := text[start:end].split()) != 1:  # type: ignore[index]
        raise InputError(f"{where}: start{number}, end{number} must enclose a word of sentence{number}: {brief(row)}")
    before, after = (split_words(part, "prose") for part in (text[:start], text[end:]))  # type: ignore[index]
    return [*before, *marked, *after], len(before)


def _of_release(files: dict[str, list[str]], name: str, path: str) -> Iterator[ContextPair]:
    """The pairs of a part of the authors' release."""
    data, gold = files[name + _DATA], files.get(name + _GOLD)
    if gold is None or len(data) != len(gold):
        have = "is missing" if gold is None else f"has {len(gold)} lines"
        raise InputError(f"{path}: {name}{_DATA} has {len(data)} lines and {name}{_GOLD} {have}: they need as many")
    for number, (line, label) in enumerate(zip(data, gold, strict=True), 1):
        word, _, between, *sentences = line.split("\t") if line.count("\t") == 4 else [""] * 5
        places, (first, second) = _PLACES.fullmatch(between), (each.split() for each in sentences)
        if not word or label.strip() not in _LABELS or places is None:
            raise InputError(
                f"{path}: {name}{_DATA}, line {number}: needs a word, its part of speech, its places as 3-0 and two "
                f"sentences, and in {_GOLD} T or F, got {line[:120]!r} and {label[:40]!r}"
            )
        found = int(places[1]), int(places[2])
        if found[0] >= len(first) or found[1] >= len(second):
            raise InputError(f"{path}: {name}{_DATA}, line {number}: {between} are not places of words, {line[:120]!r}")
        yield ContextPair(word, first, second, _LABELS[label.strip()], found)
