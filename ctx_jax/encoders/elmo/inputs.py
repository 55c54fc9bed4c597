"""Input processors of a biLM: words to char_ids or to rows of the word table (see `encoders.base.InputProcessor`).

Letters: B sentences, T words, C characters.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ctx_jax.checkpoints.run_files import VOCABULARY, existing
from ctx_jax.encoders.base import padded_shape
from ctx_jax.encoders.whole_words import WholeWordInputs
from ctx_jax.io.errors import InputError
from ctx_jax.tokenizers.characters import BEGIN, END, char_ids
from ctx_jax.tokenizers.vocabulary import Vocabulary
from ctx_jax.tokenizers.words import Rule


@dataclass(frozen=True)
class CharacterInputs(WholeWordInputs):
    """Words to {"char_ids": int32 [B, T + 2, C]} with sentence markers; 0 at padding."""

    max_characters: int
    rule: Rule = "whitespace"

    @property
    def digest(self) -> str:
        """SHA-256 of the settings."""
        return hashlib.sha256(repr(self).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Its kind, the longest word and the rule for strings."""
        return {"kind": "characters", "max_characters": self.max_characters, "rule": self.rule}

    def pad(self, sentences: Sequence[Sequence[str]], rows: int | None, length: int | None) -> dict[str, np.ndarray]:
        return {"char_ids": char_ids(sentences, self.max_characters, rows=rows, length=length)}


@dataclass(frozen=True)
class WordInputs(WholeWordInputs):
    """Words to {"token_ids": int32 [B, T + 2]}, rows of the word table, with sentence markers; -1 at padding. Words
    outside the vocabulary become `<UNK>`."""

    vocabulary: Vocabulary
    rule: Rule = "whitespace"
    files: ClassVar[tuple[str, ...]] = (VOCABULARY,)

    @classmethod
    def read(cls, folder: Path, size: int, rule: Rule) -> "WordInputs":
        """Read `vocabulary.txt` of a folder. Raises MissingFileError, and InputError unless it has `size` words."""
        path = existing(Path(folder), VOCABULARY)
        vocabulary = Vocabulary.read(path)
        if len(vocabulary) != size:
            raise InputError(f"{path} has {len(vocabulary)} words, the model {size}")
        return cls(vocabulary, rule)

    @property
    def digest(self) -> str:
        """SHA-256 of the vocabulary and the rule."""
        return hashlib.sha256("\n".join((self.rule, *self.vocabulary.words)).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Its kind, the number of words and the rule for strings."""
        return {"kind": "words", "tokens": len(self.vocabulary), "rule": self.rule}

    def save(self, folder: Path) -> None:
        """Writes `vocabulary.txt`."""
        self.vocabulary.write(folder / VOCABULARY)

    def pad(self, sentences: Sequence[Sequence[str]], rows: int | None, length: int | None) -> dict[str, np.ndarray]:
        height, width = padded_shape(self.sizes(sentences), rows, length, "words")
        ids = np.full((height, width + 2), -1, np.int32)
        for row, sentence in zip(ids, sentences, strict=False):
            row[: len(sentence) + 2] = self.vocabulary.ids((BEGIN, *sentence, END))
        return {"token_ids": ids}
