"""The rows of files in columns; plain, .gz, .xz or .zst. The suffix before these decides the format, in any case:

    .tsv         columns between tabs, no quoting
    .csv         RFC 4180: commas, quotes
    .conllu      CoNLL-U's ten columns; ranges (3-4) and empty nodes (3.1) are skipped
    .jsonl       an object a line, whose keys name the columns; also .ndjson and .json
    any other    columns between white space

`-` is standard input.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from ctx_jax.data.text_files import COMPRESSED, STANDARD_INPUT, LineReader
from ctx_jax.io.errors import InputError, brief

CONLLU = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
LONGEST_FIELD = 2**31 - 1  # characters of a CSV field
WHITE_SPACE = re.compile(r"[ \t]+")  # a no-break space belongs to its word

_KINDS = {kind: kind for kind in (".tsv", ".csv", ".conllu", ".jsonl")} | {".ndjson": ".jsonl", ".json": ".jsonl"}

Row = tuple[str, list[str] | None]  # location and fields; None: an empty line


def kind_of(path: str) -> str:
    """ ".tsv", ".csv", ".conllu", ".jsonl", or "" for columns between white space."""
    file = Path(path.lower())
    suffix = Path(file.stem).suffix if file.suffix in COMPRESSED else file.suffix
    return _KINDS.get(suffix, "")


def read_located(path: str) -> Iterator[tuple[str, str]]:
    """(location, line) of a file or of standard input, as `text_files.LineReader` reads them."""
    reader = LineReader(path)
    lines = enumerate(reader, start=1)
    return ((f"{reader.name}, line {number}", line.removesuffix("\r")) for number, line in lines)


def read_plain(path: str) -> Iterator[tuple[str, str]]:
    """As `read_located`, of a file whose suffix names no format; InputError if its first line is a JSON object."""
    first = True
    for location, line in read_located(path):
        if first and (text := line.strip()):
            first = False
            if text.startswith("{") and _is_object(text):
                name = "write it to a file of such a name" if path == STANDARD_INPUT else "rename the file"
                raise InputError(
                    f"{location}: is a JSON object, and JSON lines are read from files named .jsonl, .ndjson or .json: "
                    f"{name}. If the objects are texts, give them in a .csv"
                )
        yield location, line


def _is_object(text: str) -> bool:
    """Whether it is a JSON object with a key; `{}` may be a word."""
    try:
        return bool(json.loads(text))
    except (ValueError, RecursionError):
        return False


def read_rows(path: str, kind: str, empty_rows: bool = False) -> Iterator[Row]:
    """The rows of a file of a `kind_of` but .jsonl, or of standard input. A row of empty columns is an empty line;
    with `empty_rows` only a line without separators is one."""
    if kind == ".csv":
        return _csv(path, empty_rows)
    if kind == ".conllu":
        return _conllu(read_located(path))
    return _separated(read_located(path) if kind_of(path) else read_plain(path), kind, empty_rows)


def read_conllu_or_words(path: str) -> tuple[str, Iterator[Row]]:
    """The kind and the rows of CoNLL-U, ".conllu", or of columns between white space, "", if the first line that is
    neither empty nor begins with # holds no tab."""
    lines, ahead = read_located(path), list[tuple[str, str]]()
    for located in lines:
        ahead.append(located)
        if located[1].strip() and not located[1].startswith("#"):
            break
    every = chain(ahead, lines)
    if any("\t" in line for _, line in ahead[-1:]):
        return ".conllu", _conllu(every)
    return "", _separated(every, "", empty_rows=False)


def _separated(lines: Iterable[tuple[str, str]], kind: str, empty_rows: bool) -> Iterator[Row]:
    for location, line in lines:
        fields = line.split("\t") if kind == ".tsv" else WHITE_SPACE.split(line.strip(" \t"))
        yield location, fields if line.strip() or (empty_rows and len(fields) > 1) else None


def _csv(path: str, empty_rows: bool) -> Iterator[Row]:
    csv.field_size_limit(LONGEST_FIELD)  # Python's default, 128 KiB, is less than a long document
    reader = csv.reader((f"{line}\n" for _, line in read_located(path)), strict=True)
    start = 1
    try:
        for fields in reader:
            yield f"{path}, line {start}", fields if any(fields) or (empty_rows and len(fields) > 1) else None
            start = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}, line {start}: no CSV as of RFC 4180 ({error})") from error


def _conllu(lines: Iterable[tuple[str, str]]) -> Iterator[Row]:
    for location, line in lines:
        if line.startswith("#"):
            continue
        fields = line.split("\t") if line.strip() else None
        if fields is not None and len(fields) != len(CONLLU):
            raise InputError(f"{location}: CoNLL-U has {len(CONLLU)} columns between tabs, this line {len(fields)}")
        if fields is None or fields[0].isdecimal():  # else a range of words or an empty node
            yield location, fields


def read_objects(path: str, keys: Sequence[str], optional: str | None = None) -> Iterator[tuple[str, list[str | None]]]:
    """(location, values of `keys`) of each object of a .jsonl file; None where the `optional` key is missing or null.

    Numbers and truth values are as JSON writes them. Raises InputError, naming the line, for what is no object, for
    another key that is missing or null, and for nested values.
    """
    for location, found in json_objects(each for each in read_located(path) if each[1].strip()):
        if missing := [key for key in keys if key not in found and key != optional]:
            names = ", ".join(found)
            raise InputError(f"{location}: has no {missing[0]!r} among its keys {names}. Set data.columns")
        if null := [key for key in keys if key in found and found[key] is None and key != optional]:
            raise InputError(f"{location}: {null[0]!r} must be a text or a number, and is null: leave such lines out")
        if nested := [key for key in keys if isinstance(found.get(key), dict | list)]:
            raise InputError(f"{location}: {nested[0]!r} must be a text or a number, got {brief(found[nested[0]])}")
        values = [found.get(key) for key in keys]
        yield location, [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]


def json_objects(lines: Iterable[tuple[str, str]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(location, object) of each (location, line); InputError for a line that is no JSON object."""
    for location, line in lines:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{location}: no JSON object ({error}){_array_hint(line)}") from error
        if not isinstance(found, dict):
            raise InputError(f"{location}: needs a JSON object, got {brief(found)}{_array_hint(line)}")
        yield location, found


def _array_hint(line: str) -> str:
    """What to do about a line that begins a JSON array, as the whole of a .json file may be one."""
    if not line.lstrip().startswith("["):
        return ""
    return ". A JSON array is not read: write each of its objects on a line, as `jq -c '.[]'` does"
