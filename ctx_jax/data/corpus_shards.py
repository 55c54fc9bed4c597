"""A long text laid out in rows chunk by chunk, so that the memory for it does not grow with the text.

    sentences   0 ........ 1,048,576 ........ 2,097,152 ...     cut where a document ends, if one does before long
    examples    0 .. 380,411 | 380,412 .. 761,002 | ...         those of the first chunk, of the second, ...

A text of up to two chunks is one. Where the rows begin is found anew at every start, in about a second for a million
sentences, and for a text on disk lies in scratch files beside it. Letters: B rows.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from ctx_jax.data.packing import Layout, Rows
from ctx_jax.data.permutation import mix_seed
from ctx_jax.data.tokens import Tokens
from ctx_jax.io.mmap_spill import Scratch

CHUNK = 1 << 20  # sentences: 100 MB or so while they are laid out
_SEEDS = 1 << 31  # behind the numbers of epochs, from which seeds are mixed too


def lay_out(tokens: Tokens, seed: int, lay: Callable[[Tokens, int], Layout], *, whole_documents: bool) -> Layout:
    """The layout that `lay` makes of the text with `seed`; of several chunks one each, with seeds of their own.

    whole_documents: cut at the ends of documents alone, however long they are, and leave two of them together.
    """
    if isinstance(tokens.ids, np.memmap):
        folder = Path(tokens.ids.filename or "").parent
        tokens = replace(tokens, scratch=Scratch(folder if os.access(folder, os.W_OK) else None))
    parts = [
        lay(part, mix_seed(seed, _SEEDS + number) if number else seed)
        for number, part in enumerate(_cut(tokens, whole_documents))
    ]
    return parts[0] if len(parts) == 1 else _Chunks(parts)


class _Chunks:
    """The layouts of the chunks as one."""

    def __init__(self, parts: list[Layout]) -> None:
        self._parts = parts
        self._first = np.append(0, np.cumsum([len(part) for part in parts]))

    def __len__(self) -> int:
        return int(self._first[-1])

    def rows(self, examples: np.ndarray, epochs: np.ndarray) -> Rows:
        number = np.searchsorted(self._first, examples, side="right") - 1
        rows: Rows = {}
        for part in np.unique(number).tolist():
            own = number == part
            for name, array in self._parts[part].rows(examples[own] - self._first[part], epochs[own]).items():
                if name not in rows:
                    rows[name] = np.empty((len(examples), *array.shape[1:]), array.dtype)
                rows[name][own] = array
        return rows


def _cut(tokens: Tokens, whole_documents: bool) -> Iterator[Tokens]:
    documents, count = tokens.documents, len(tokens)
    start = 0
    while count - start > 2 * CHUNK:
        first, after = np.searchsorted(documents, [start, start + CHUNK]).tolist()  # of documents: begun here, behind
        if whole_documents:
            after = max(after, first + 2)
            stop = int(documents[after]) if after + 2 <= len(documents) else count
        else:
            stop = int(documents[after]) if after < len(documents) else count
            stop = stop if stop < start + 2 * CHUNK else start + CHUNK
        yield _part(tokens, start, stop)
        start = stop
    if start < count or not count:
        yield _part(tokens, start, count)


def _part(tokens: Tokens, start: int, stop: int) -> Tokens:
    if (start, stop) == (0, len(tokens)):
        return tokens
    offsets = np.asarray(tokens.offsets[start : stop + 1])
    first, last = np.searchsorted(tokens.documents, [start, stop]).tolist()
    begun = np.asarray(tokens.documents[first:last]) - start
    if not len(begun) or begun[0]:  # the chunk begins within a document
        begun = np.append(0, begun)
    places = slice(int(offsets[0]), int(offsets[-1]))
    offsets, begun = tokens.spill(offsets - offsets[0]), tokens.spill(begun)
    return Tokens(tokens.ids[places], tokens.begins[places], offsets, begun, tokens.scratch)
