"""Words or strings to the tokens of a Transformer.

Letters: B sentences, T words, S tokens of a row (pieces and special tokens).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ctx_jax.encoders.base import padded_shape, rounded
from ctx_jax.io.errors import InputError
from ctx_jax.tokenizers.subwords import Pieces, Subwords
from ctx_jax.tokenizers.words import Rule


@dataclass(frozen=True)
class SubwordReader:
    """Words or strings to the tokens of a Transformer.

    `longest` is how many tokens, special ones included, the model's positions hold; None: any number.
    """

    subwords: Subwords
    longest: int | None = None
    rule: Rule = "whitespace"

    def arrays(
        self,
        sentences: Sequence[Sequence[str]],
        rows: int | None = None,
        length: int | None = None,
        tokens: int | None = None,
    ) -> dict[str, np.ndarray]:
        """What `embed` needs to give one vector a word, each with leading axis B:

            words            un        believably
            token_ids        [CLS] un  believ ##ably [SEP] [PAD]      int32 [B, S]
            token_mask       1     1   1      1      1     0          bool  [B, S]
            word_of_token    -1    0   1      1      -1    -1         int32 [B, S], -1 at what is in no word
            word_mask        1 1                                      bool  [B, T]

        S is `tokens`; without it a `length` fixes S too, to `room(length)`; without either S is what is needed. Raises
        ValueError for a sentence that has more tokens, and for more tokens than the positions hold.
        """
        if tokens is not None and self.longest is not None and tokens > self.longest:
            raise InputError(
                f"got tokens={tokens}, the model's positions hold {self.longest}: set tokens to that or less"
            )
        if tokens is None and length is not None:
            tokens = self.room(length)
        pieces = self.subwords.tokenize_words(sentences)
        return self.word_arrays(pieces, *padded_shape(self.words(pieces), rows, length, "words"), tokens)

    def room(self, length: int) -> int:
        """Tokens of a row for `length` words: two a word, the special ones and 16 more, rounded up by
        `batching.rounded`, but no more than the positions hold. It knows nothing of the sentences, so that their
        batches have one shape."""
        size = rounded(2 * length + self._added + 16)
        return size if self.longest is None else min(size, self.longest)

    def token_arrays(
        self, sentences: list[str] | list[list[str]], rows: int | None = None, length: int | None = None
    ) -> dict[str, np.ndarray]:
        """{"token_ids": int32 [B, S], "token_mask": bool [B, S]}: strings are split by the tokenizer's own rule.

        `length` is S, special tokens included; a string without pieces is an all-False row.
        """
        if sentences and not isinstance(sentences[0], str):
            found = [pieces.ids for pieces in self.subwords.tokenize_words(sentences)]
        else:
            found = self.subwords.tokenize_text(sentences)  # type: ignore[arg-type]
        height, width = padded_shape([self._size(ids) for ids in found], rows, length, "tokens")
        ids, mask = self._tokens(found, height, width)
        return {"token_ids": ids, "token_mask": mask}

    def word_arrays(
        self, pieces: Sequence[Pieces], rows: int, length: int, tokens: int | None
    ) -> dict[str, np.ndarray]:
        """`arrays` of sentences already in pieces, with B = `rows`, T = `length` and S = `tokens`, though no more than
        the positions hold; None: what is needed."""
        width = max(self.sizes(pieces), default=0) if tokens is None else tokens
        if self.longest is not None:
            width = min(width, self.longest)
        ids, mask = self._tokens([one.ids for one in pieces], rows, width)
        word_of_token = np.full((rows, width), -1, np.int32)
        word_mask = np.zeros((rows, length), bool)
        before = len(self.subwords.before)
        for row, one, words in zip(range(rows), pieces, self.words(pieces), strict=False):
            word_of_token[row, before : before + len(one.ids)] = one.words
            word_mask[row, :words] = True
        return {"token_ids": ids, "token_mask": mask, "word_of_token": word_of_token, "word_mask": word_mask}

    def sizes(self, pieces: Sequence[Pieces]) -> list[int]:
        """Tokens of every sentence, special ones included."""
        return [self._size(one.ids) for one in pieces]

    @staticmethod
    def words(pieces: Sequence[Pieces]) -> list[int]:
        """Words of every sentence."""
        return [int(one.words[-1]) + 1 if len(one.words) else 0 for one in pieces]

    @property
    def _added(self) -> int:
        return len(self.subwords.before) + len(self.subwords.after)

    def _size(self, ids: np.ndarray) -> int:
        return len(ids) + self._added if len(ids) else 0

    def _tokens(self, found: Sequence[np.ndarray], rows: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        ids = np.full((rows, width), self.subwords.pad_id, np.int32)
        mask = np.zeros((rows, width), bool)
        for number, given in enumerate(found):
            size = self._size(given)
            if self.longest is not None and size > self.longest:
                raise InputError(
                    f"sentence {number} has {size} tokens, the model's positions hold {self.longest}: split it into "
                    "shorter ones"
                )
            if size > width:
                raise InputError(
                    f"sentence {number} has {size} tokens, there is room for {width} in a row: set tokens={size} or "
                    "more, or split the sentence"
                )
            if size:
                ids[number, :size] = self.subwords.add_special_tokens(given)
                mask[number, :size] = True
        return ids, mask
