"""Words as rows of character ids, and the one place that knows the offset between training and inference.

Raw ids (training): a word is `[BEGIN_WORD] utf-8 bytes [END_WORD] PAD ...`, C ids in all; the bytes are cut to C - 2,
which may split a character, as the original trainer (allenai/bilm-tf) does.

    word     raw ids, C = 6
    "cat"    258  99  97 116 259 260
    ""       258 259 260 260 260 260
    "<S>"    258 256 259 260 260 260

Inference ids are the raw ids + 1, so that 0 can mark a token that is not there (AllenNLP's `batch_to_ids`, bilm-tf's
`Batcher`). PAD inside a word is a learned embedding (260 raw, 261 with the offset), never 0.

Letters: B sentences, T words of the longest sentence, C characters.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from ctx_jax.io.errors import InputError

BEGIN_SENTENCE = 256
END_SENTENCE = 257
BEGIN_WORD = 258
END_WORD = 259
PAD = 260

BEGIN = "<S>"
END = "</S>"
_OFFSET = 1


def encode_word(word: str, max_characters: int) -> np.ndarray:
    """Raw ids of one word, int32 [C]; `"<S>"` and `"</S>"` are the sentence markers.

    Lone surrogates, which UTF-8 cannot express, are left out.
    """
    match word:
        case "<S>":
            return encode_marker(BEGIN_SENTENCE, max_characters)
        case "</S>":
            return encode_marker(END_SENTENCE, max_characters)
    return _row(word.encode("utf-8", "ignore")[: max_characters - 2], max_characters)


def encode_marker(marker: int, max_characters: int) -> np.ndarray:
    """Raw ids of a sentence marker, `BEGIN_SENTENCE` or `END_SENTENCE`, int32 [C]: `[258, marker, 259, 260 ...]`."""
    if marker not in (BEGIN_SENTENCE, END_SENTENCE):
        raise InputError(f"a sentence marker is {BEGIN_SENTENCE} (begin) or {END_SENTENCE} (end), got {marker}")
    return _row([marker], max_characters)


def _row(inside: Sequence[int], max_characters: int) -> np.ndarray:
    _check_width(max_characters)
    row = np.full(max_characters, PAD, np.int32)
    row[0] = BEGIN_WORD
    row[1 : len(inside) + 1] = np.frombuffer(inside, np.uint8) if isinstance(inside, bytes) else inside
    row[len(inside) + 1] = END_WORD
    return row


def _check_width(max_characters: int) -> None:
    if max_characters < 3:
        raise InputError(
            "max_characters (--model.max-characters) must be at least 3 (begin, one character, end), got "
            f"{max_characters}"
        )


class _Rows(dict[str, int]):
    """Word -> row of the table, filling the table on the first sight of a word."""

    def __init__(self, table: np.ndarray) -> None:
        super().__init__()
        self.table = table

    def __missing__(self, word: str) -> int:
        row = len(self)
        if row == len(self.table):
            raise _FullError
        self.table[row] = encode_word(word, self.table.shape[1])
        self[word] = row
        return row


class _FullError(Exception):
    """The table of encoded words has no row left."""


class WordEncoder:
    """Encodes lists of words, remembering up to `capacity` distinct ones: the data loader's hot path.

    A full memory is emptied and starts again, so memory stays bounded by capacity x C x 4 bytes and the words.
    The result never depends on what was encoded before. Not to be shared between threads.
    """

    def __init__(self, max_characters: int, capacity: int = 65_536) -> None:
        _check_width(max_characters)
        if capacity < 1:
            raise InputError(f"capacity must be at least 1 word, got {capacity}")
        self.max_characters = max_characters
        self.capacity = capacity
        self._rows = _Rows(np.empty((capacity, max_characters), np.int32))

    def __call__(self, words: Sequence[str]) -> np.ndarray:
        """Raw ids of `words` (n of them), int32 [n, C]."""
        if len(words) <= self.capacity:
            return self._encode(words)
        pieces = range(0, len(words), self.capacity)
        return np.concatenate([self._encode(words[start : start + self.capacity]) for start in pieces])

    def _encode(self, words: Sequence[str]) -> np.ndarray:
        try:
            rows = list(map(self._rows.__getitem__, words))
        except _FullError:
            self._rows.clear()  # at most `capacity` words come in, so the second try fits
            rows = list(map(self._rows.__getitem__, words))
        return self._rows.table[np.asarray(rows, np.intp)]


def char_ids(
    sentences: Sequence[Sequence[str]], max_characters: int, *, rows: int | None = None, length: int | None = None
) -> np.ndarray:
    """Inference ids of sentences with their markers, int32 [B, T + 2, C]; 0 = no token there.

    `rows` sets B and `length` sets T (words, markers not counted), so that shapes can be fixed; rows without a
    sentence are 0 throughout. No sentence gives [0, 2, C]; an empty sentence is its two markers.

        sentences             tokens of the result (rows=3)
        ["a", "dog"]          <S>  a    dog  </S>
        []                    <S>  </S> 0    0
                              0    0    0    0

    Raises:
        ValueError: more sentences than `rows`, or a sentence of more than `length` words.
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
    encoder = WordEncoder(max_characters, capacity=max(1, min(len(flat), 65_536)))
    ids[: len(sentences)][taken] = encoder(flat) + _OFFSET
    return ids


def raw_ids(char_ids: Any) -> tuple[Any, Any]:
    """Takes the offset off: (raw ids [..., C], present bool [...]); a token that is not there is PAD throughout.

    Uses operators only, so it works on numpy arrays and, traced, on those of jax, which this room does not import.
    """
    missing = char_ids == 0
    raw = char_ids - _OFFSET + missing.astype(char_ids.dtype) * (PAD + _OFFSET)
    return raw, (char_ids > 0).any(axis=-1)
