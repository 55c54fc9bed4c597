"""Corpora by name: what a run's `train` and `valid` settings stand for, as streams of sentences.

A source's `documents()` is a stream of sentences (lists of words) in which an empty list begins a new document.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ctx_jax.data import python_docs, tfds_text
from ctx_jax.data.config import Split, TextConfig
from ctx_jax.data.text_files import COMPRESSED, Errors, Reading, list_files, read_lines
from ctx_jax.io.errors import ConfigError, InputError, MissingFileError
from ctx_jax.tokenizers.words import LineRule, Rule


class Source(Protocol):
    """A corpus that can be read, from its beginning, as often as asked."""

    @property
    def name(self) -> str:
        """A short name, with which the name of the cache's folder begins."""

    @property
    def size(self) -> int | None:
        """About how many bytes of text `documents` gives; None where that is unknown until it is read."""

    def identity(self) -> dict[str, Any]:
        """In JSON, all that decides the text and so the name of its cache: files or set, split, rules."""

    def documents(self) -> Iterator[list[str]]:
        """Sentences as lists of words, an empty list before each document; from the beginning at each call."""


@dataclass(frozen=True)
class PythonDocs:
    """The interpreter's own documentation."""

    split: python_docs.DocsSplit

    @property
    def name(self) -> str:
        return f"python-docs-{self.split}"

    @property
    def size(self) -> int | None:
        return None  # a few seconds

    def identity(self) -> dict[str, Any]:
        modules = python_docs.modules_in_c()  # which differ from machine to machine
        return {"corpus": self.name, "python": sys.version, "modules": modules, "version": python_docs.VERSION}

    def documents(self) -> Iterator[list[str]]:
        return python_docs.documents(self.split)


@dataclass(frozen=True)
class TextFiles:
    """Files of lines; a new file is a new document, and so is what follows a blank line."""

    files: tuple[Path, ...]
    reading: Reading

    @property
    def name(self) -> str:
        return self.files[0].name.split(".")[0]

    @property
    def size(self) -> int | None:
        if any(path.suffix.lower() in COMPRESSED for path in self.files):
            return None
        return sum(path.stat().st_size for path in self.files if path.exists())

    def identity(self) -> dict[str, Any]:
        try:
            stats = [(str(path.resolve()), path.stat()) for path in self.files]
        except FileNotFoundError as error:
            raise MissingFileError(f"{error.filename} was there when files were listed and is gone now") from error
        files = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
        return {"files": files, **vars(self.reading)}

    def documents(self) -> Iterator[list[str]]:
        for path in self.files:
            yield []
            for line in read_lines(path, self.reading.errors):
                yield from self.reading.read(line)


@dataclass(frozen=True)
class Several:
    """Corpora one after the other, as one."""

    sources: tuple[Source, ...]

    @property
    def name(self) -> str:
        return "+".join(source.name for source in self.sources)

    @property
    def size(self) -> int | None:
        sizes = [source.size for source in self.sources]
        return None if None in sizes else sum(size or 0 for size in sizes)

    def identity(self) -> dict[str, Any]:
        return {"sources": [source.identity() for source in self.sources]}

    def documents(self) -> Iterator[list[str]]:
        for source in self.sources:
            yield []
            yield from source.documents()


def resolve(
    spec: str,
    split: Split,
    *,
    rule: Rule = "whitespace",
    sentences: LineRule = "line",
    errors: Errors = "strict",
) -> Source:
    """The source that a spec names.

    `python-docs` and `tfds:NAME[/CONFIG]` read their own `split` (`python-docs:SPLIT` and `tfds:NAME:SPLIT` read that
    one, whatever `split` says); file paths and globs, separated by commas, have no splits.

    Raises:
        MissingFileError: a glob that matches nothing, or a set that is not prepared.
        InputError: an empty spec, or a set without such a split or a text.
    """
    reading = Reading(rule, sentences, errors)
    match spec.split(":"):
        case ["python-docs"]:
            return PythonDocs(split)
        case ["python-docs", ("train" | "valid" | "test") as named]:
            return PythonDocs(named)
        case ["python-docs", *other]:
            raise InputError(f"python-docs has the splits train, valid and test, not {':'.join(other)!r}")
        case ["tfds", *rest]:
            return tfds_text.open_set(":".join(rest), split, reading)
    return TextFiles(list_files(spec), reading)


def source_of(config: TextConfig, split: Split) -> Source | None:
    """The source of a run's training or validation text; None where text files came without `valid`, or a tfds set by
    one of its splits. Raises as `resolve` does, and ConfigError for a split of `python-docs` to train on."""
    spec = config.train
    if spec.startswith("python-docs:"):
        raise ConfigError(
            "data.train", f"must be python-docs without a split, which is for what is measured, got {spec!r}"
        )
    if split == "valid" and config.valid:
        spec = config.valid
    elif split == "valid" and spec != "python-docs" and not (spec.startswith("tfds:") and spec.count(":") == 1):
        return None
    return resolve(spec, split, rule=config.rule, sentences=config.sentences, errors=config.errors)
