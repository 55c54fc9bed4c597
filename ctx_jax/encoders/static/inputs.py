"""The input processor of a table: words to rows of the table (see `encoders.base.InputProcessor`).

Letters: B sentences, T words, V words of the table.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ctx_jax.checkpoints.run_files import WORDS
from ctx_jax.encoders.base import Level, padded_shape
from ctx_jax.encoders.whole_words import WholeWordInputs
from ctx_jax.io.errors import InputError, MissingFileError, SentenceError
from ctx_jax.io.files import atomic_write, read_text
from ctx_jax.tokenizers.words import Rule

UnknownWords = Literal["zero", "mean", "error"]
"""What becomes of a word that the table does not have."""


@dataclass(frozen=True)
class StaticInputs(WholeWordInputs):
    """Words to {"token_ids": int32 [B, T]}, rows of the table; V for a word that it does not have, -1 at padding.

    `lowercase` acts on the words of the text, not on those of the table. With `unknown="error"` a word outside the
    table is an InputError that names it and its sentence. InputError too if a word of the table is empty, holds a line
    end or occurs twice.
    """

    words: tuple[str, ...] = field(repr=False)
    rule: Rule = "whitespace"
    lowercase: bool = False
    unknown: UnknownWords = "zero"
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_words(self.words)
        object.__setattr__(self, "_ids", dict(zip(self.words, range(len(self.words)), strict=True)))

    @classmethod
    def read(
        cls, folder: Path, *, size: int, digest: str, rule: Rule, lowercase: bool, unknown: UnknownWords
    ) -> "StaticInputs":
        """With the words of the folder's `words.txt`: `size` words, of this SHA-256 unless `digest` is ""."""
        path = folder / WORDS
        if not path.is_file():
            raise MissingFileError(f"{path} is missing: it holds the {size} words of the table, one a line")
        text = read_text(path)
        if digest and hashlib.sha256(text.encode()).hexdigest() != digest:
            raise InputError(f"{path} is not the word list that the table was read with (SHA-256 {digest}): restore it")
        words = tuple(text.removesuffix("\n").split("\n"))
        if len(words) != size:
            raise InputError(f"{path} has {len(words)} words, the table {size}")
        try:
            return cls(words, rule, lowercase, unknown)
        except ValueError as error:
            raise InputError(f"{path}: {error}") from error

    @cached_property
    def words_digest(self) -> str:
        """SHA-256 of `words.txt`, in hexadecimal."""
        return hashlib.sha256(self._text().encode()).hexdigest()

    @property
    def digest(self) -> str:
        """SHA-256 of the words and the settings."""
        parts = (self.words_digest, self.rule, str(self.lowercase), self.unknown)
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Its kind, the number of words and the settings."""
        settings = {"rule": self.rule, "lowercase": self.lowercase, "unknown": self.unknown}
        return {"kind": "words", "tokens": len(self.words), **settings}

    def save(self, folder: Path) -> None:
        """Writes `words.txt`. Checkpoints need no copy of millions of words: the model has their digest."""
        atomic_write(folder / WORDS, self._text())

    def pad(self, sentences: Sequence[Sequence[str]], rows: int | None, length: int | None) -> dict[str, np.ndarray]:
        height, width = padded_shape(self.sizes(sentences), rows, length, "words")
        ids = np.full((height, width), -1, np.int32)
        for number, sentence in enumerate(sentences):
            ids[number, : len(sentence)] = self._row(number, sentence)
        return {"token_ids": ids}

    def split(self, sentences: list[str] | list[list[str]], level: Level = "words") -> list[list[str]]:
        """The words of every sentence. With `unknown="error"` a SentenceError for one that the table lacks: here,
        before anything is computed."""
        words = super().split(sentences, level)
        if self.unknown == "error":
            for number, sentence in enumerate(words):
                self._row(number, sentence)
        return words

    def _row(self, number: int, sentence: Sequence[str]) -> np.ndarray:
        """The ids of one sentence's words."""
        outside = len(self.words)
        looked_up = map(str.lower, sentence) if self.lowercase else sentence
        ids = np.fromiter(map(self._ids.get, looked_up, repeat(outside)), np.int32, len(sentence))
        if self.unknown == "error" and (missing := np.flatnonzero(ids == outside)).size:
            raise SentenceError(
                number,
                f"has the word {sentence[missing[0]]!r}, which is not among the table's {outside}: "
                f'{" ".join(sentence)[:80]!r}. Load the table with unknown="zero" or "mean"',
            )
        return ids

    def _text(self) -> str:
        return "".join(f"{word}\n" for word in self.words)


def check_words(words: Sequence[str]) -> None:
    """InputError for no words, for one that is empty or holds a line end, and for one that occurs twice."""
    if not words:
        raise InputError("a table needs at least one word, got none")
    for number, word in enumerate(words, start=1):
        if not word or "\n" in word:
            raise InputError(f"word {number} is {word!r}: a word must not be empty or hold a line end")
    if (twice := repeated(words)) is not None:
        first, second = twice
        raise InputError(f"{words[first]!r} is word {first + 1} and word {second + 1}: keep one of them")


def repeated(words: Sequence[str]) -> tuple[int, int] | None:
    """The first word that occurs a second time, as its first two indices; None: all are distinct."""
    if len(set(words)) == len(words):
        return None
    seen: dict[str, int] = {}
    for number, word in enumerate(words):
        if seen.setdefault(word, number) != number:
            return seen[word], number
    return None
