"""Words to character ids, or to rows of a vocabulary.

Letters: B sentences, T words, C characters.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ctx_jax.encoders.base import padded_shape
from ctx_jax.tokenizers.characters import BEGIN, END, char_ids
from ctx_jax.tokenizers.vocabulary import Vocabulary
from ctx_jax.tokenizers.words import Rule


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
        height, width = padded_shape([len(sentence) for sentence in sentences], rows, length, "words")
        ids = np.full((height, width + 2), -1, np.int32)
        for row, sentence in zip(ids, sentences, strict=False):
            row[: len(sentence) + 2] = self.vocabulary.ids((BEGIN, *sentence, END))
        return {"token_ids": ids}
