"""Input processors of a biLM: words to char_ids or to rows of the word table (see `encoders.base.InputProcessor`).

Letters: B sentences, T words, C characters.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ctx_jax.checkpoints.run_files import VOCABULARY, existing
from ctx_jax.encoders.base import padded_shape, sentences_to_words
from ctx_jax.io.errors import InputError
from ctx_jax.tokenizers.characters import BEGIN, END, char_ids
from ctx_jax.tokenizers.vocabulary import Vocabulary
from ctx_jax.tokenizers.words import Rule


class _WholeWords(ABC):
    """Base of both processors, whose tokens are whole words."""

    rule: Rule
    words_per_row = 32  # layer 0 does not depend on the position

    @abstractmethod
    def pad(
        self, sentences: Sequence[Sequence[str]], rows: int | None, length: int | None
    ) -> dict[str, np.ndarray]: ...

    def arrays(
        self,
        sentences: Sequence[Sequence[str]],
        *,
        rows: int | None = None,
        length: int | None = None,
        tokens: int | None = None,
    ) -> dict[str, np.ndarray]:
        """The inputs of sentences, with both markers; `rows` and `length` fix B and T."""
        if tokens is not None:
            raise InputError(f"tokens={tokens} counts pieces of words, but a biLM reads whole words: leave it out")
        return self.pad(sentences, rows, length)

    def token_arrays(
        self, sentences: list[str] | list[list[str]], *, rows: int | None = None, length: int | None = None
    ) -> dict[str, np.ndarray]:
        """As `arrays`; strings are split by `rule`."""
        return self.pad(sentences_to_words(sentences, self.rule), rows, length)

    def split(self, sentences: list[list[str]]) -> list[list[str]]:
        """The sentences unchanged."""
        return sentences

    def sizes(self, sentences: Sequence[Sequence[str]]) -> list[int]:
        """Words of each sentence."""
        return [len(sentence) for sentence in sentences]


@dataclass(frozen=True)
class CharacterInputs(_WholeWords):
    """Words to {"char_ids": int32 [B, T + 2, C]} with sentence markers; 0 at padding."""

    max_characters: int
    rule: Rule = "whitespace"

    def pad(self, sentences: Sequence[Sequence[str]], rows: int | None, length: int | None) -> dict[str, np.ndarray]:
        return {"char_ids": char_ids(sentences, self.max_characters, rows=rows, length=length)}


@dataclass(frozen=True)
class WordInputs(_WholeWords):
    """Words to {"token_ids": int32 [B, T + 2]}, rows of the word table, with sentence markers; -1 at padding. Words
    outside the vocabulary become `<UNK>`."""

    vocabulary: Vocabulary
    rule: Rule = "whitespace"

    @classmethod
    def read(cls, folder: Path, size: int, rule: Rule) -> "WordInputs":
        """Read `vocabulary.txt` of a folder. Raises MissingFileError, and InputError unless it has `size` words."""
        path = existing(Path(folder), VOCABULARY)
        vocabulary = Vocabulary.read(path)
        if len(vocabulary) != size:
            raise InputError(f"{path} has {len(vocabulary)} words, the model {size}")
        return cls(vocabulary, rule)

    def pad(self, sentences: Sequence[Sequence[str]], rows: int | None, length: int | None) -> dict[str, np.ndarray]:
        height, width = padded_shape(self.sizes(sentences), rows, length, "words")
        ids = np.full((height, width + 2), -1, np.int32)
        for row, sentence in zip(ids, sentences, strict=False):
            row[: len(sentence) + 2] = self.vocabulary.ids((BEGIN, *sentence, END))
        return {"token_ids": ids}
