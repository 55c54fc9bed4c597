"""`ctx-jax info PATH`: what a run, a folder, a file of word vectors or a stack of these is."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from ctx_jax.embedding.inspection import inspect
from ctx_jax.evaluation.reports import aligned

MOST = 100  # names in a line; the JSON has all
_TOKEN = {"token", "id"}  # of a special token, which is one line


@dataclass(frozen=True)
class Info:
    """Say what a run, a folder of AllenNLP or Hugging Face, a file of word vectors or a stack is: its family, sizes,
    tokenizer, heads, SHA-256 digests, the keys of its config.json, and what of it is not supported. Exits with status 1
    if `load` refuses it."""

    path: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PATH")]
    """The run, folder or file, or hf://organisation/name."""

    json: bool = False
    """Print one JSON object."""


def main(arguments: Sequence[str]) -> int:
    """Print what is known; 0 if all of it is read, 1 if there is a problem."""
    options = tyro.cli(Info, args=list(arguments), prog="ctx-jax info")
    found = inspect(options.path)
    text = json.dumps(found) if options.json else aligned(_lines(found), texts=True)
    print(text.encode("utf-8", "backslashreplace").decode())  # names in files may hold halves of surrogate pairs
    return 1 if found["problems"] else 0


def _lines(found: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Names and values, those of objects inside one by one; "problems" one by one as well."""
    for key, value in found.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping) and value and value.keys() != _TOKEN:
            yield from _lines(value, f"{name} ")
        elif key == "problems":
            yield from (("problem", problem) for problem in value)
        else:
            yield name, _shown(value)


def _shown(value: Any) -> str:
    match value:
        case bool() | None:
            return {True: "yes", False: "no", None: "none"}[value]
        case int():
            return f"{value:,}"
        case {"token": token, "id": number}:
            return f"{token} {number}"
        case list() | dict() if not value:
            return "none"
        case list() if all(isinstance(item, str | int | float) for item in value):
            more = f" and {len(value) - MOST} more" if len(value) > MOST else ""
            return ", ".join(map(str, value[:MOST])) + more
        case str() | float():
            return str(value)
    return json.dumps(value, ensure_ascii=False)
