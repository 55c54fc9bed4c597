"""Sentences as a user gives them, to the arrays a biLM reads. Letters: B sentences, T words, C characters."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ctx_jax.text.characters import BEGIN, END, char_ids
from ctx_jax.text.vocabulary import Vocabulary
from ctx_jax.text.words import Rule, split_words


def sentences_to_words(sentences: Iterable[str | Sequence[str]], rule: Rule) -> list[list[str]]:
    """Words of every sentence: strings are split by `rule`, lists of words taken as they are.

    Raises TypeError for a bare string, for strings and lists in one call, and for words that are no strings.
    """
    if isinstance(sentences, str | bytes):
        raise TypeError(f"sentences must be a list of sentences, got one {type(sentences).__name__}: wrap it in a list")
    sentences = list(sentences)
    strings = [isinstance(sentence, str) for sentence in sentences]
    if all(strings):
        return [split_words(sentence, rule) for sentence in sentences]  # type: ignore[arg-type]
    if any(strings):
        first, second = strings.index(True), strings.index(False)
        raise TypeError(
            f"sentences must be all strings or all lists of words; number {first} is a string, "
            f"number {second} is a {type(sentences[second]).__name__}"
        )
    return [_words(number, sentence) for number, sentence in enumerate(sentences)]


def _words(number: int, sentence: Sequence[str]) -> list[str]:
    if isinstance(sentence, bytes) or not hasattr(sentence, "__iter__"):
        raise TypeError(f"sentence {number} must be a string or a list of words, got {type(sentence).__name__}")
    words = list(sentence)
    for word in words:
        if not isinstance(word, str):
            raise TypeError(f"sentence {number} holds {word!r}, a {type(word).__name__}; words must be strings")
    return words


@dataclass(frozen=True)
class CharacterReader:
    """Words to character ids."""

    max_characters: int
    rule: Rule = "whitespace"

    def arrays(
        self, sentences: Sequence[Sequence[str]], rows: int | None = None, length: int | None = None
    ) -> dict[str, np.ndarray]:
        """{"char_ids": int32 [B, T + 2, C]} with sentence markers; 0 where there is no token."""
        return {"char_ids": char_ids(sentences, self.max_characters, rows=rows, length=length)}


@dataclass(frozen=True)
class VocabularyReader:
    """Words to rows of a vocabulary; a word outside it is `<UNK>`."""

    vocabulary: Vocabulary
    rule: Rule = "whitespace"

    def arrays(
        self, sentences: Sequence[Sequence[str]], rows: int | None = None, length: int | None = None
    ) -> dict[str, np.ndarray]:
        """{"token_ids": int32 [B, T + 2]} with sentence markers; -1 where there is no token."""
        longest = max(map(len, sentences), default=0)
        height = len(sentences) if rows is None else rows
        width = longest if length is None else length
        if len(sentences) > height:
            raise ValueError(f"got {len(sentences)} sentences for rows={height}: set rows={len(sentences)}")
        if longest > width:
            raise ValueError(f"the longest sentence has {longest} words, for length={width}: set length={longest}")
        ids = np.full((height, width + 2), -1, np.int32)
        for row, sentence in zip(ids, sentences, strict=False):
            row[: len(sentence) + 2] = self.vocabulary.ids((BEGIN, *sentence, END))
        return {"token_ids": ids}
