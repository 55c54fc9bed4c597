"""Sentences as a user gives them, to the arrays an encoder reads.

Letters: B sentences, T words, C characters, S tokens of a Transformer (pieces and special tokens).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ctx_jax.embedding.batching import rounded
from ctx_jax.tokenizers.characters import BEGIN, END, char_ids
from ctx_jax.tokenizers.subwords import Pieces, Subwords
from ctx_jax.tokenizers.vocabulary import Vocabulary
from ctx_jax.tokenizers.words import Rule, split_words


def sentences_to_words(sentences: Iterable[str | Sequence[str]], rule: Rule) -> list[list[str]]:
    """Words of every sentence: strings are split by `rule`, lists of words taken as they are.

    Raises TypeError for a bare string, for strings and lists in one call, and for words that are no strings.
    """
    found = checked(sentences)
    return [split_words(sentence, rule) if isinstance(sentence, str) else sentence for sentence in found]


def checked(sentences: Iterable[str | Sequence[str]]) -> list[str] | list[list[str]]:
    """The sentences, all strings or all lists of words; raises as `sentences_to_words`."""
    if isinstance(sentences, str | bytes):
        raise TypeError(f"sentences must be a list of sentences, got one {type(sentences).__name__}: wrap it in a list")
    sentences = list(sentences)
    strings = [isinstance(sentence, str) for sentence in sentences]
    if all(strings):
        return sentences  # type: ignore[return-value]
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
        height, width = _shape([len(sentence) for sentence in sentences], rows, length, "words")
        ids = np.full((height, width + 2), -1, np.int32)
        for row, sentence in zip(ids, sentences, strict=False):
            row[: len(sentence) + 2] = self.vocabulary.ids((BEGIN, *sentence, END))
        return {"token_ids": ids}


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
            raise ValueError(
                f"got tokens={tokens}, the model's positions hold {self.longest}: set tokens to that or less"
            )
        if tokens is None and length is not None:
            tokens = self.room(length)
        pieces = self.subwords.of_words(sentences)
        return self.word_arrays(pieces, *_shape(self.words(pieces), rows, length, "words"), tokens)

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
            found = [pieces.ids for pieces in self.subwords.of_words(sentences)]
        else:
            found = self.subwords.of_text(sentences)  # type: ignore[arg-type]
        height, width = _shape([self._size(ids) for ids in found], rows, length, "tokens")
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
                raise ValueError(
                    f"sentence {number} has {size} tokens, the model's positions hold {self.longest}: split it into "
                    "shorter ones"
                )
            if size > width:
                raise ValueError(
                    f"sentence {number} has {size} tokens, there is room for {width} in a row: set tokens={size} or "
                    "more, or split the sentence"
                )
            if size:
                ids[number, :size] = self.subwords.wrap(given)
                mask[number, :size] = True
        return ids, mask


def _shape(sizes: Sequence[int], rows: int | None, length: int | None, unit: str) -> tuple[int, int]:
    """(B, T) that hold sentences of these sizes; ValueError where the sizes asked for do not."""
    longest = max(sizes, default=0)
    height = len(sizes) if rows is None else rows
    width = longest if length is None else length
    if len(sizes) > height:
        raise ValueError(f"got {len(sizes)} sentences for rows={height}: set rows={len(sizes)}")
    if longest > width:
        raise ValueError(f"the longest sentence has {longest} {unit}, for length={width}: set length={longest}")
    return height, width
