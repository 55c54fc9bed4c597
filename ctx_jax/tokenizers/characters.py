"""Words as rows of character ids; this file owns the offset between the original's two forms of them.

`char_ids` is the form used everywhere in ctx_jax: a word is `[BEGIN_WORD] utf-8 bytes [END_WORD] PAD ...`, C ids in
all, each 1 higher than the original trainer's raw id, so that 0 marks "no character" (AllenNLP's `batch_to_ids`,
bilm-tf's `Batcher`). The bytes are cut to C - 2, which may split a character, as allenai/bilm-tf does. PAD inside a
word has a learned embedding (raw 260, char id 261), unlike 0.

    word     raw ids, C = 6                 char_ids
    "cat"    258  99  97 116 259 260        259 100  98 117 260 261
    ""       258 259 260 260 260 260        259 260 261 261 261 261
    "<S>"    258 256 259 260 260 260        259 257 260 261 261 261
    none     -                                0   0   0   0   0   0

Letters: B sentences, T words of the longest sentence, C characters.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from ctx_jax.io.errors import ConfigError, InputError

# Raw ids: the 256 bytes come first.
BEGIN_SENTENCE = 256
END_SENTENCE = 257
BEGIN_WORD = 258
END_WORD = 259
PAD = 260
CHARACTERS = 261
"""Rows of the character embedding, which raw ids index."""

BEGIN = "<S>"
END = "</S>"
_OFFSET = 1


def encode_word(word: str, max_characters: int) -> np.ndarray:
    """char_ids of one word, int32 [C]; `"<S>"` and `"</S>"` are the sentence markers.

    Lone surrogates, which UTF-8 cannot express, are left out.
    """
    _check_width(max_characters)
    markers = {BEGIN: [BEGIN_SENTENCE], END: [END_SENTENCE]}
    inside = markers.get(word) or list(word.encode("utf-8", "ignore")[: max_characters - 2])
    ids = np.full(max_characters, PAD, np.int32)
    ids[: len(inside) + 2] = [BEGIN_WORD, *inside, END_WORD]
    return ids + _OFFSET


def _check_width(max_characters: int) -> None:
    if max_characters < 3:
        raise ConfigError("max_characters", f"must be at least 3 (begin, one character, end), got {max_characters}")


class WordEncoder:
    """Encodes lists of words and caches up to `capacity` distinct ones: the data loader's hot path.

    A full cache is cleared. The result never depends on earlier calls. Not safe to share between threads.
    """

    def __init__(self, max_characters: int, capacity: int = 65_536) -> None:
        _check_width(max_characters)
        self.capacity = capacity
        self._rows: dict[str, int] = {}  # of `_table`, where words are
        self._table = np.empty((capacity, max_characters), np.int32)

    def __call__(self, words: Sequence[str]) -> np.ndarray:
        """char_ids of n words, int32 [n, C]."""
        if len(words) > self.capacity:
            pieces = range(0, len(words), self.capacity)
            return np.concatenate([self(words[start : start + self.capacity]) for start in pieces])
        new = set(words).difference(self._rows)
        if len(self._rows) + len(new) > self.capacity:
            self._rows.clear()
            new = set(words)
        for row, word in enumerate(new, start=len(self._rows)):
            self._table[row] = encode_word(word, self._table.shape[1])
            self._rows[word] = row
        return self._table[np.fromiter(map(self._rows.__getitem__, words), np.intp, len(words))]


def char_ids(
    sentences: Sequence[Sequence[str]], max_characters: int, *, rows: int | None = None, length: int | None = None
) -> np.ndarray:
    """char_ids of sentences with their markers, int32 [B, T + 2, C]; 0 where there is no token.

    `rows` fixes B and `length` fixes T (words, markers not counted); rows without a sentence are all 0. No sentence
    gives [0, 2, C]; an empty sentence is its two markers.

        sentences             tokens of the result (rows=3)
        ["a", "dog"]          <S>  a    dog  </S>
        []                    <S>  </S> 0    0
                              0    0    0    0

    InputError for more sentences than `rows`, or a sentence of more than `length` words.
    """
    longest = max(map(len, sentences), default=0)
    height = len(sentences) if rows is None else rows
    width = longest if length is None else length
    if len(sentences) > height:
        raise InputError(f"got {len(sentences)} sentences for rows={height}: set rows={len(sentences)} or pass fewer")
    if longest > width:
        raise InputError(f"the longest sentence has {longest} words for length={width}: set length={longest} or cut it")
    ids = np.zeros((height, width + 2, max_characters), np.int32)
    lengths = np.fromiter(map(len, sentences), np.intp, len(sentences)) + 2
    taken = np.arange(width + 2)[None, :] < lengths[:, None]  # [B, T + 2]
    flat = list(chain.from_iterable((BEGIN, *sentence, END) for sentence in sentences))
    ids[: len(sentences)][taken] = WordEncoder(max_characters, capacity=min(len(flat), 65_536))(flat)
    return ids


def char_ids_of_raw(raw: Any) -> Any:
    """char_ids of the original trainer's raw ids [..., C], of numpy or jax."""
    return raw + _OFFSET


def raw_ids(char_ids: Any) -> Any:
    """Raw ids [..., C], which index the character embedding; PAD where there is no character.

    Works on numpy and on traced jax arrays.
    """
    return char_ids - _OFFSET + (char_ids == 0).astype(char_ids.dtype) * (PAD + _OFFSET)


def is_token(char_ids: Any) -> Any:
    """bool [...] of char_ids [..., C]: whether there is a token."""
    return (char_ids > 0).any(axis=-1)
