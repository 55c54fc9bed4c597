"""Sentences of any length to batches of few shapes, so that an accelerator compiles a handful of programs."""

from collections.abc import Sequence
from typing import NamedTuple

from ctx_jax.encoders.base import rounded

_WORDS = 64  # batches of longer sentences have fewer rows, so that memory does not grow with the longest sentence


class Plan(NamedTuple):
    """One batch: which sentences, and the shape they are padded to."""

    sentences: tuple[int, ...]
    rows: int
    length: int


def plan(lengths: Sequence[int], batch: int) -> list[Plan]:
    """Batches of sentences of similar length, longest first; every sentence is in exactly one.

    `plan([3, 40, 5], batch=2)` is `[((1, 2), rows 2, length 48), ((0,), rows 1, length 8)]`. Only the last batch can
    be short of rows; its number is the next power of two, so that shapes stay few.
    """
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    plans = []
    while order:
        length = rounded(lengths[order[0]])
        most = max(1, min(batch, batch * _WORDS // length))
        taken, order = tuple(order[:most]), order[most:]
        plans.append(Plan(taken, min(most, 1 << (len(taken) - 1).bit_length()), length))
    return plans
