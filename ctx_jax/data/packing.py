"""Sentences as units that fit a row, and several short ones in a row that do not see each other.

Two rows of T = 8 from sentences of 4, 2 and 1 tokens; a unit comes with its begin and end:

    words       [CLS] one  dog  [SEP] [CLS] two  [SEP] .        [CLS] the  cat  sat  down [SEP] .    .
    segments    1     1    1    1     2     2    2     0        1     1    1    1    1    1     0    0
    positions   0     1    2    3     0     1    2     0        0     1    2    3    4    5     0    0

Letters: B rows, T tokens, U units.
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from ctx_jax.data.counter_rng import Purpose, seed_sequence
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


@dataclass(frozen=True, eq=False)
class Layout(ABC):
    """A packing: `build_index` finds the rows of a text, an instance reads them by their number.

    The text is a shard of a corpus (see `corpus_shards`), whose places are counted from 0; its index was built with
    the same settings.
    """

    ARRAYS: ClassVar[tuple[str, ...]]
    """The names of the index' arrays."""

    text: Text
    index: Index
    vocabulary: Subwords
    config: SequenceConfig
    seed: int

    @staticmethod
    @abstractmethod
    def build_index(tokens: Tokens, vocabulary: Subwords, config: SequenceConfig, seed: int) -> Index:
        """`ARRAYS` of the text; InputError or ConfigError for a text or a length that has no rows."""

    @abstractmethod
    def __len__(self) -> int:
        """How many rows an epoch has."""

    @abstractmethod
    def rows(self, examples: np.ndarray, epochs: np.ndarray) -> Rows:
        """The rows of `examples` (int64 [B], each below `len`), read for the `epochs`-th time (int64 [B])."""


class Units(NamedTuple):
    """Sentences, those longer than a row cut into pieces: unit u is tokens bounds[u] to bounds[u + 1]."""

    bounds: np.ndarray  # int64 [U + 1]
    document: np.ndarray  # int64 [U], which document a unit is of, counted without those that have no tokens
    first: np.ndarray  # int64 [documents + 1], the first unit of each, and U


def cut_units(tokens: Tokens, longest: int) -> Units:
    """Every token once, in order, in units of 1 to `longest` tokens that end where their sentence does, or are full.

    Raises InputError for a text without tokens.
    """
    if not len(tokens.ids):
        raise InputError("sequences need text, and no sentence of it has a token: set data.train")
    offsets = np.asarray(tokens.offsets)
    lengths = np.diff(offsets)
    pieces = -(-lengths // longest)
    sentence = np.repeat(np.arange(len(lengths)), pieces)
    starts = offsets[sentence] + ranges(np.zeros_like(pieces), pieces) * longest
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
    """Rows of padding alone."""
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
        shuffled = np.random.Philox(seed_sequence(seed, Purpose.PACKING)).random_raw(len(lengths))
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

    def __len__(self) -> int:
        return len(self.index["starts"]) - 1

    def rows(self, examples: np.ndarray, epochs: np.ndarray) -> Rows:
        """As `Layout` has them, with `segments`; the same in every epoch."""
        bounds, members, row_starts = (self.index[name] for name in self.ARRAYS)
        rows = empty_rows(len(examples), self.config.length, self.vocabulary.pad_id)
        rows["segments"] = np.zeros_like(rows["token_ids"])
        sizes = row_starts[examples + 1] - row_starts[examples]
        units = members[ranges(row_starts[examples], sizes)]
        starts = bounds[units]
        counts = bounds[units + 1] - starts
        whole = counts + 2
        row = np.repeat(np.arange(len(examples)), sizes)
        before = np.cumsum(whole) - whole  # of this piece, over all rows; then within its own
        first = np.cumsum(sizes) - sizes
        cells = row * self.config.length + before - np.repeat(before[first], sizes)
        write_tokens(rows, self.text, cells + 1, starts, counts)
        flat = rows["token_ids"].reshape(-1)
        flat[cells], flat[cells + counts + 1] = self.vocabulary.begin_id, self.vocabulary.end_id
        filled = ranges(cells, whole)
        number = np.arange(len(units)) - np.repeat(first, sizes) + 1
        rows["segments"].reshape(-1)[filled] = np.repeat(number, whole)
        rows["positions"].reshape(-1)[filled] = ranges(np.zeros_like(whole), whole)
        rows["mask"].reshape(-1)[filled] = True
        return rows


def best_fit(counts: list[int], room: int) -> list[tuple[tuple[int, ...], int]]:
    """Bins of size `room` for counts[n] things of each size n up to `room`: patterns of sizes, and the bins of each.

    counts 0 2 1 0 1 (two of 1, one of 2, one of 4), room 4  ->  ((4,), 1), ((2, 1, 1), 1)

    Best-fit decreasing over the histogram (Krell et al. 2021), so that its time does not grow with the number of
    things.
    """
    bins: defaultdict[int, list[tuple[tuple[int, ...], int]]] = defaultdict(list)  # by what room is left
    for size in range(len(counts) - 1, 0, -1):
        left = counts[size]
        for free in range(size, room + 1):
            if not left:
                break
            each = free // size
            for pattern, times in bins.pop(free, []) if free < room else [((), -(-left // each))]:
                full = min(times, left // each)
                left -= full * each
                rest = left if full < times else 0  # they share one more bin
                left -= rest
                for copies, number in ((each, full), (rest, int(rest > 0)), (0, times - full - (rest > 0))):
                    if number:
                        bins[free - copies * size].append((pattern + (size,) * copies, number))
    return [entry for free in sorted(bins) for entry in bins[free]]
