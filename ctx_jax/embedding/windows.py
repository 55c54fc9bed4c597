"""A sentence longer than its encoder takes, in overlapping windows.

A unit is what has a vector: a word, or a token at the level "tokens". Letters: N units, L layers, T units of a window,
D width.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np


class Window(NamedTuple):
    """The units `first` to `stop` of a sentence."""

    first: int
    stop: int


def windows(sizes: np.ndarray, capacity: int) -> list[Window]:
    """Windows of at most `capacity` tokens that begin half of that apart and cover all units; `sizes` [N] are tokens.

    `windows(ones(10), 4)` is 0..4, 2..6, 4..8, 6..10. A unit that lies in no window, for it has more than half of the
    capacity, begins one of its own; only one with more tokens than `capacity` does not fit. A unit of size 0 shares the
    tokens of the next one and stays with it.
    """
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    owners = _owners(sizes)
    starts, ends = bounds[:-1], bounds[1:][owners]
    total = int(bounds[-1])
    places = [*range(0, total - capacity, max(capacity // 2, 1)), max(total - capacity, 0)]
    found = [_fitting(starts, ends, place, capacity) for place in places]
    covered = np.zeros(len(sizes), bool)
    for first, stop in found:
        covered[first:stop] = True
    for unit in np.flatnonzero(~covered).tolist():
        if not covered[unit]:
            window = _fitting(starts, ends, int(starts[unit]), capacity)
            own = Window(unit, max(window.stop, int(owners[unit]) + 1))
            covered[own.first : own.stop] = True
            found.append(own)
    return sorted(window for window in set(found) if window.first < window.stop)


def _owners(sizes: np.ndarray) -> np.ndarray:
    """The unit whose tokens each unit has: itself, or the next one for a unit of size 0."""
    units = np.where(np.asarray(sizes) > 0, np.arange(len(sizes)), max(len(sizes) - 1, 0))
    return np.minimum.accumulate(units[::-1])[::-1]


def _fitting(starts: np.ndarray, ends: np.ndarray, place: int, capacity: int) -> Window:
    first = int(np.searchsorted(starts, place))
    return Window(first, max(int(np.searchsorted(ends, place + capacity, side="right")), first))


def nearest(found: Sequence[Window], sizes: np.ndarray) -> np.ndarray:
    """The number of the window in which each unit stands nearest the middle, counted in tokens; int [N]."""
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    middles = (bounds[:-1] + bounds[1:]) / 2
    least, owner = np.full(len(sizes), np.inf), np.zeros(len(sizes), np.int64)
    for number, (first, stop) in enumerate(found):
        distance = np.abs(middles[first:stop] - (bounds[first] + bounds[stop]) / 2)
        closer = distance < least[first:stop]
        owner[first:stop][closer] = number
        least[first:stop][closer] = distance[closer]
    return owner


def merge(
    vectors: Sequence[np.ndarray], found: Sequence[Window], sizes: np.ndarray, special: tuple[int, int] = (0, 0)
) -> np.ndarray:
    """The vectors [..., N, D] of all units from those of each window, [..., T, D]; each from its `nearest` window.

    With `special` tokens before and behind each window's vectors, the first window's stay before the result, the last
    one's behind it.
    """
    before, behind = special
    owner = nearest(found, sizes)
    changes = [0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(owner)]
    parts = [vectors[0][..., :before, :]]
    for start, stop in pairwise(changes):
        number = int(owner[start])
        shift = before - found[number].first
        parts.append(vectors[number][..., start + shift : stop + shift, :])
    parts.append(vectors[-1][..., vectors[-1].shape[-2] - behind :, :])
    return np.concatenate(parts, axis=-2)
