"""Sentences of similar length in batches of few shapes.

Letters: B rows of a batch, T its length.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ctx_jax.encoders.base import rounded

SHAPES = 24
"""The most lengths T of one plan."""
_SHAPE_TOKENS = 256
"""A further shape must save so many tokens of padding, for it has to be compiled."""
_FEW_TOKENS = 8192


class Batch(NamedTuple):
    """The indices of some sentences, and the shape that they are padded to."""

    sentences: tuple[int, ...]
    rows: int
    length: int


def plan(
    sizes: Sequence[int],
    batch_tokens: int,
    multiple: int = 1,
    longest: int | None = None,
    *,
    few_shapes: bool = False,
) -> list[Batch]:
    """Batches of about `batch_tokens` tokens, longest sentences first; every sentence is in exactly one.

    `plan([3, 40, 5], 1024)` is `[((1, 2, 0), rows 4, length 48)]`. Rows are a power of two times
    `multiple` (the number of devices). Lengths, none above `longest`, are those of `rounded` for few sentences, so that
    calls with a sentence or two share their shapes, and with `few_shapes`; for many they are the at most `SHAPES`
    lengths that leave the least padding: 4 to 7 % of 100,000 tokens of prose.
    """
    order = np.argsort(-np.asarray(sizes, np.int64), kind="stable")
    lengths = _lengths(np.asarray(sizes, np.int64)[order], longest, few_shapes)
    needed = np.concatenate([[0], np.cumsum(lengths)])  # tokens of the first sentences, each padded to its own length
    batches, start = [], 0
    while start < len(order):
        length = int(lengths[start])
        rows = multiple << max((batch_tokens // length // multiple).bit_length() - 1, 0)

        def waste(rows: int, start: int = start, length: int = length) -> int:
            return rows * length - int(needed[min(start + rows, len(order))] - needed[start])

        # Fewer rows for the last sentences, and where few have this length if that saves more than a shape costs.
        left = len(order) - start
        while rows > multiple and (rows >= 2 * left or waste(rows) - waste(rows // 2) > _SHAPE_TOKENS):
            rows //= 2
        batches.append(Batch(tuple(order[start : start + rows].tolist()), rows, length))
        start += rows
    return batches


def fine(length: int) -> int:
    """`length` rounded up to 8, 12, 16 ... 64, 72 ... 128, 144 ...: an eighth of the next smaller power of two, at
    least 2. 45 lengths up to 512."""
    step = max(2, 1 << max((length - 1).bit_length() - 4, 0))
    return max(8, -(-length // step) * step)


def _lengths(sizes: np.ndarray, longest: int | None, few_shapes: bool) -> np.ndarray:
    """The length of each sentence's batch, by falling size: the choice of at most `SHAPES` lengths with the least cost,
    which is the padding and `_SHAPE_TOKENS` for each length."""
    limit = np.iinfo(np.int64).max if longest is None else longest
    round_up = rounded if few_shapes or sizes.sum() < _FEW_TOKENS else fine
    grid = np.array([min(round_up(size), limit) for size in sizes.tolist()], np.int64)
    values, counts = np.unique(-grid, return_counts=True)
    values, n = -values, len(values)  # falling
    total = np.concatenate([[0], np.cumsum(counts)])  # sentences of the first values
    # best[k][j]: the least padded tokens of the first j values in k lengths.
    best = np.full((min(SHAPES, n) + 1, n + 1), np.inf)
    cut = np.zeros(best.shape, np.int64)
    best[:, 0] = 0
    for k in range(1, len(best)):
        for j in range(1, n + 1):
            # The last length, values[i], holds the sentences of the values i..j - 1.
            costs = best[k - 1, :j] + values[:j] * (total[j] - total[:j])
            cut[k, j] = np.argmin(costs)
            best[k, j] = costs[cut[k, j]]
    if not n:
        return grid
    k = int(np.argmin(best[:, n] + _SHAPE_TOKENS * np.arange(len(best))))
    chosen, j = np.empty(n, np.int64), n
    while j:
        i = int(cut[k, j])
        chosen[i:j] = values[i]
        j, k = i, k - 1
    return np.repeat(chosen, counts)
