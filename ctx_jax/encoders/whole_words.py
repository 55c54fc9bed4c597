"""The base of input processors whose tokens are whole words, as a biLM's and a table's are.

Letters: B sentences, T words.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from ctx_jax.encoders.base import Level, WordPieces, sentences_to_words
from ctx_jax.io.errors import InputError
from ctx_jax.tokenizers.words import Rule, split_words, word_offsets


class WholeWordInputs(ABC):
    """An `encoders.base.InputProcessor` without `digest` and `pad`: a split sentence is its list of words."""

    rule: Rule
    words_per_row = 32  # layer 0 does not depend on the position
    longest: int | None = None
    pieces: WordPieces = "mean"  # a word is one piece
    special_tokens = (0, 0)
    overhead = 0
    files: ClassVar[tuple[str, ...]] = ()

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
        """The inputs of sentences; `rows` and `length` fix B and T."""
        if tokens is not None:
            raise InputError(
                f"tokens={tokens} counts pieces of words, but this encoder reads whole words: leave it out"
            )
        return self.pad(sentences, rows, length)

    def token_arrays(
        self, sentences: list[str] | list[list[str]], *, rows: int | None = None, length: int | None = None
    ) -> dict[str, np.ndarray]:
        """As `arrays`; strings are split by `rule`."""
        return self.pad(self.split(sentences), rows, length)

    def split(self, sentences: list[str] | list[list[str]], level: Level = "words") -> list[list[str]]:
        """The words of every sentence, at both levels; strings are split by `rule`."""
        return sentences_to_words(sentences, self.rule)

    def sizes(self, sentences: Sequence[Sequence[str]]) -> list[int]:
        """Words of each sentence."""
        return [len(sentence) for sentence in sentences]

    def prepare(self, sentences: Sequence[Sequence[str]]) -> None:  # noqa: B027 (the default of those without a cache)
        """Does nothing."""

    def cut(self, sentence: list[str], length: int) -> list[str]:
        """The first `length` words."""
        return sentence[:length]

    def unit_sizes(self, sentence: Sequence[str]) -> np.ndarray:
        """1 for each word."""
        return np.ones(len(sentence), np.int32)

    def part(self, sentence: list[str], first: int, stop: int) -> list[str]:
        """Some of the words."""
        return sentence[first:stop]

    def offsets(self, sentences: list[str] | list[list[str]], level: Level = "words") -> list[np.ndarray]:
        """Where the words stand in each sentence, at both levels."""
        return [word_offsets(sentence, self.rule) for sentence in sentences]

    def save(self, folder: Path) -> None:  # noqa: B027 (the default of those without files)
        """Writes nothing: for processors that have no vocabulary."""

    def with_pieces(self, pieces: WordPieces) -> Self:
        """Itself: a word is one piece."""
        return self

    def of_texts(self, *, empty: bool = True) -> Self:
        """Itself: there are no special tokens."""
        return self

    def prompt_length(self, prompt: str, length: int | None) -> int:
        """The words of the prompt, at most `length`."""
        words = len(split_words(prompt, self.rule))
        return words if length is None else min(words, length)
