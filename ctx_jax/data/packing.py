"""Sentences as units that fit a row, and several short ones in a row that do not see each other.

Two rows of T = 8 from sentences of 4, 2 and 1 tokens; a unit comes with its begin and end:

    words       [CLS] one  dog  [SEP] [CLS] two  [SEP] .        [CLS] the  cat  sat  down [SEP] .    .
    segments    1     1    1    1     2     2    2     0        1     1    1    1    1    1     0    0
    positions   0     1    2    3     0     1    2     0        0     1    2    3    4    5     0    0

Letters: B rows, T tokens, U units.
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from typing import ClassVar, NamedTuple

import numpy as np

from ctx_jax.data.counter_rng import Purpose
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.data.tokens import Tokens
from ctx_jax.io.errors import InputError
from ctx_jax.tokenizers.subwords import Subwords

Rows = dict[str, np.ndarray]
"""Of B rows: `token_ids` int32, `begins` bool (where words begin), `mask` bool and `positions` int32, all [B, T]; and
further fields of `batch`'s types, by packing."""

Index = dict[str, np.ndarray]
"""Where the rows of a text begin and end: int64 arrays of one dimension, found once and kept beside the tokens."""


class Text(NamedTuple):
    """The tokens that rows are read from, as `Tokens` has them."""

    ids: np.ndarray  # integers [N]
    begins: np.ndarray  # uint8 or bool [N]


class Layout(ABC):
    """A packing: `build_index` finds the rows of a text, an instance reads them by their number.

    The text is a shard of a corpus (see `corpus_shards`), whose places are counted from 0.
    """

    ARRAYS: ClassVar[tuple[str, ...]]
    """The names of the index' arrays."""

    @staticmethod
    @abstractmethod
    def build_index(tokens: Tokens, vocabulary: Subwords, config: SequenceConfig, seed: int) -> Index:
        """`ARRAYS` of the text; ValueError for a text or a length that has no rows."""

    @abstractmethod
    def __init__(self, text: Text, index: Index, vocabulary: Subwords, config: SequenceConfig, seed: int) -> None:
        """Rows of a text whose `index` was built with the same settings."""

    @abstractmethod
    def __len__(self) -> int:
        """How many rows an epoch has."""

    @abstractmethod
    def rows(self, examples: np.ndarray, epochs: np.ndarray) -> Rows:
        """The rows of `examples` (int64 [B], each below `len`), read for the `epochs`-th time (int64 [B])."""


class Units(NamedTuple):
    """Sentences, those longer than a row cut into pieces: unit u is tokens bounds[u] to bounds[u + 1].

    document: int64 [U], which document a unit is of, counted without those that have no tokens.
    first: int64 [documents + 1], the first unit of each, and U.
    """

    bounds: np.ndarray
    document: np.ndarray
    first: np.ndarray


def cut_units(tokens: Tokens, longest: int) -> Units:
    """Every token once, in order, in units of 1 to `longest` tokens that end where their sentence does, or are full.

    Raises ValueError for a text without tokens.
    """
    if not len(tokens.ids):
        raise InputError("sequences need text, and no sentence of it has a token: set data.train")
    offsets = np.asarray(tokens.offsets)
    lengths = np.diff(offsets)
    pieces = -(-lengths // longest)
    sentence = np.repeat(np.arange(len(lengths)), pieces)
    starts = offsets[sentence] + (ranges(np.zeros(len(lengths), np.int64), pieces)) * longest
    bounds = np.append(starts, offsets[-1])
    _, first, document = np.unique(
        np.searchsorted(tokens.documents, sentence, side="right") - 1, return_index=True, return_inverse=True
    )
    return Units(bounds, document.astype(np.int64), np.append(first, len(sentence)).astype(np.int64))


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """starts[0], starts[0] + 1, ... counts[0] of them, then those of starts[1]: (7, 3), (2, 1) -> 7 8 3."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(counts.sum())


def empty_rows(count: int, length: int, pad: int) -> Rows:
    """Rows with nothing in them."""
    shape = (count, length)
    return {
        "token_ids": np.full(shape, pad, np.int32),
        "begins": np.zeros(shape, bool),
        "mask": np.zeros(shape, bool),
        "positions": np.zeros(shape, np.int32),
    }


def write_tokens(rows: Rows, text: Text, cells: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> None:
    """Write `counts` tokens from `starts` on into the cells (row x T + column) from `cells` on, all int64 [pieces]."""
    source, target = ranges(starts, counts), ranges(cells, counts)
    rows["token_ids"].reshape(-1)[target] = text.ids[source]
    rows["begins"].reshape(-1)[target] = text.begins[source]


class PackedSentences(Layout):
    """Rows of several sentences each, found once for the whole text; an epoch reads every row once.

    Packed best-fit decreasing: the longest first, each into the row with the least room that takes it. What shares a
    row is drawn by `seed`, not by the neighbourhood, and stays so from epoch to epoch: they do not see each other.

    Adds `segments` int32 [B, T]: 1, 2, ... in a row, 0 at padding. Positions start again in each.
    """

    ARRAYS = ("bounds", "members", "starts")  # of units, the units of each row, the rows' first places in `members`

    @staticmethod
    def build_index(tokens: Tokens, vocabulary: Subwords, config: SequenceConfig, seed: int) -> Index:
        """See `Layout`."""
        length = config.length
        bounds = cut_units(tokens, length - 2).bounds
        lengths = np.diff(bounds) + 2
        shuffled = np.random.Philox(np.random.SeedSequence([seed, Purpose.PACKING])).random_raw(len(lengths))
        queue = np.lexsort((shuffled, lengths))
        counts = np.bincount(lengths, minlength=length + 1)
        taken = np.cumsum(counts) - counts
        members, sizes = list[np.ndarray](), list[np.ndarray]()
        for pattern, times in best_fit(counts.tolist(), length):
            columns = []
            for part in pattern:
                columns.append(queue[taken[part] : taken[part] + times])
                taken[part] += times
            members.append(np.stack(columns, axis=1).reshape(-1))
            sizes.append(np.full(times, len(pattern)))
        starts = np.append(0, np.cumsum(np.concatenate(sizes)))
        return {"bounds": bounds, "members": np.concatenate(members), "starts": starts}

    def __init__(self, text: Text, index: Index, vocabulary: Subwords, config: SequenceConfig, seed: int) -> None:
        self._text, self._vocabulary, self._length = text, vocabulary, config.length
        self._bounds, self._members, self._starts = (index[name] for name in self.ARRAYS)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def rows(self, examples: np.ndarray, epochs: np.ndarray) -> Rows:
        """As `Layout` has them, with `segments`; the same in every epoch."""
        rows = empty_rows(len(examples), self._length, self._vocabulary.pad_id)
        rows["segments"] = np.zeros_like(rows["token_ids"])
        sizes = self._starts[examples + 1] - self._starts[examples]
        units = self._members[ranges(self._starts[examples], sizes)]
        starts = self._bounds[units]
        counts = self._bounds[units + 1] - starts
        whole = counts + 2
        row = np.repeat(np.arange(len(examples)), sizes)
        before = np.cumsum(whole) - whole  # of this piece, over all rows; then within its own
        first = np.cumsum(sizes) - sizes
        cells = row * self._length + before - np.repeat(before[first], sizes)
        write_tokens(rows, self._text, cells + 1, starts, counts)
        flat = rows["token_ids"].reshape(-1)
        flat[cells], flat[cells + counts + 1] = self._vocabulary.begin_id, self._vocabulary.end_id
        filled = ranges(cells, whole)
        number = np.arange(len(units)) - np.repeat(first, sizes) + 1
        rows["segments"].reshape(-1)[filled] = np.repeat(number, whole)
        rows["positions"].reshape(-1)[filled] = ranges(np.zeros_like(whole), whole)
        rows["mask"].reshape(-1)[filled] = True
        return rows


def best_fit(counts: list[int], room: int) -> list[tuple[tuple[int, ...], int]]:
    """Bins of size `room` for counts[n] things of each size n: patterns of sizes, and how many bins have each.

    counts 0 2 1 0 1 (two of 1, one of 2, one of 4), room 4  ->  ((4,), 1), ((2, 1, 1), 1)

    Best-fit decreasing over the histogram (Krell et al. 2021), so that its time does not grow with the number of
    things. Raises ValueError for a thing larger than the room.
    """
    if sum(counts[room + 1 :]):
        raise InputError(f"a row of {room} tokens has no room for {len(counts) - 1}")
    bins: defaultdict[int, list[tuple[tuple[int, ...], int]]] = defaultdict(list)  # by what room is left
    for size in range(min(room, len(counts) - 1), 0, -1):
        left = counts[size]
        for free in range(size, room):
            if not left:
                break
            here, bins[free] = bins[free], []
            for pattern, times in here:
                left = _put(bins, free, pattern, times, size, left)
        if left:
            _put(bins, room, (), -(-left // (room // size)), size, left)
    return [entry for free in sorted(bins) for entry in bins[free]]


def _put(
    bins: dict[int, list[tuple[tuple[int, ...], int]]],
    free: int,
    pattern: tuple[int, ...],
    times: int,
    size: int,
    left: int,
) -> int:
    """Fill `times` bins with things of one size, as many as each takes; how many of the things are left."""
    each = free // size
    full = min(times, left // each)
    left -= full * each
    partly = left if full < times else 0
    for number, copies in ((full, each), (1 if partly else 0, partly), (times - full - bool(partly), 0)):
        if number:
            bins[free - copies * size].append((pattern + (size,) * copies, number))
    return left - partly
