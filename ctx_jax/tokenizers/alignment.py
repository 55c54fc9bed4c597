"""The word that each piece belongs to. S: pieces of a sentence."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from tokenizers import Encoding

WordPieces = Literal["mean", "first", "last", "max"]
"""How the vectors of a word's pieces give its own: their mean, one of them, or the largest of each number."""


class Pieces(NamedTuple):
    """The pieces of a sentence, without special tokens around them."""

    ids: np.ndarray  # int32 [S]
    words: np.ndarray
    """int32 [S], the index of the word of each piece, never falling. A word without pieces shares those of the next
    one: an added token reaches over both."""


def align(words: Sequence[str], numbers: Sequence[int], encoding: Encoding, unknown_id: int) -> Pieces:
    """The pieces of an encoding of the words `numbers`, joined by spaces, with the words they belong to.

    A piece belongs to the word of its last character that is no space; spaces alone belong to the word after them. A
    word that no piece reaches becomes one unknown token.
    """
    word_of = [i for i in numbers for _ in range(len(words[i]) + 1)][1:] + list(numbers[-1:])  # of every character
    ids, offsets = (encoding.ids, encoding.offsets) if numbers else ([], [])
    text = " ".join([words[i] for i in numbers])
    ends = [
        stop - 1 if start < stop and not text[stop - 1].isspace() else _end(text, start, stop)
        for start, stop in offsets
    ]
    owners = [word_of[end] for end in ends]
    pieces = Pieces(np.array(ids, np.int32), np.array(owners, np.int32))
    if len(reached := set(owners)) == len(words):
        return pieces
    reached |= {word for (start, _), end in zip(offsets, ends, strict=True) for word in word_of[start:end]}
    missing = [number for number in range(len(words)) if number not in reached]
    places = np.searchsorted(pieces.words, missing)
    return Pieces(np.insert(pieces.ids, places, unknown_id), np.insert(pieces.words, places, missing))


def piece_offsets(words: Sequence[str], numbers: Sequence[int], encoding: Encoding) -> np.ndarray:
    """The characters of each of the pieces of `align` in all words joined by single spaces, int32 [S, 2]: the first and
    the one after the last. An unknown token in a word's place has those of the word."""
    pieces = align(words, numbers, encoding, -1)
    starts = np.cumsum([0, *(len(word) + 1 for word in words)])
    lengths = np.diff(starts)
    # The place of every character of the text that was cut, in the text of all words.
    places = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in numbers] or [np.zeros(0, np.int64)])
    spans = iter(encoding.offsets)
    found = []
    for piece, word in zip(pieces.ids, pieces.words, strict=True):
        if piece == -1:
            found.append((starts[word], starts[word] + lengths[word] - 1))
            continue
        start, stop = next(spans)
        found.append((places[start], places[stop - 1] + 1) if start < stop else (places[start - 1] + 1,) * 2)
    return np.array(found, np.int32).reshape(-1, 2)


def _end(text: str, start: int, stop: int) -> int:
    """The last character of text[start:stop] that is no space, else the last one."""
    last = min(max(stop - 1, start), len(text) - 1)
    return next((end for end in range(last, start - 1, -1) if not text[end].isspace()), last)
