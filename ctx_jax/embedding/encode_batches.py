"""Many sentences in batches of similar length and few shapes, their results in the order given.

Letters: L layers, B sentences of a batch, T words, D width.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import jax
import numpy as np

from ctx_jax.distributed.sharding import pipelined
from ctx_jax.encoders.base import InputProcessor, rounded
from ctx_jax.io.errors import numbering_sentences

_BATCHES_AHEAD = 8  # so many batches of sentences are read at once and sorted by length
_WORDS = 64  # batches of longer sentences have fewer rows, to bound memory


class Split(NamedTuple):
    """Sentences as a processor takes them."""

    sentences: Sequence[Any]
    words: list[int] | None
    """How many vectors each sentence gets; None: one vector a sentence."""


def encode_batches(
    sentences: Iterator[Any],
    batch: int,
    processor: InputProcessor,
    split: Callable[[list[Any], int], Split],
    compute: Callable[[dict[str, np.ndarray]], jax.Array],
) -> Iterator[np.ndarray]:
    """One array a sentence: its part of what `compute` makes of a batch's inputs, [..., B, T, D] or [..., B, D].

    `split` gets some sentences and the number of the first. At most 8 x `batch` sentences are read ahead.
    """
    first = 0
    while chunk := list(islice(sentences, _BATCHES_AHEAD * batch)):
        with numbering_sentences(range(first, first + len(chunk))):
            found = split(chunk, first)
        by_sentence: dict[int, np.ndarray] = {}

        def inputs(plan: Plan, found: Split = found, first: int = first) -> dict[str, np.ndarray]:
            with numbering_sentences([first + number for number in plan.sentences]):
                return processor.pad([found.sentences[number] for number in plan.sentences], plan.rows, plan.length)

        running = (
            (batch_plan.sentences, compute(inputs(batch_plan)))
            for batch_plan in plan(processor.sizes(found.sentences), batch)
        )
        for chosen, vectors in pipelined(running):
            by_sentence |= _split_batch(chosen, vectors, found.words)
        for number in range(len(chunk)):
            yield by_sentence.pop(number)
        first += len(chunk)


class Plan(NamedTuple):
    """One batch: the indices of its sentences, and the shape that they are padded to."""

    sentences: tuple[int, ...]
    rows: int
    length: int


def plan(lengths: Sequence[int], batch: int) -> list[Plan]:
    """Batches of sentences of similar length, longest first; every sentence is in exactly one.

    `plan([3, 40, 5], batch=2)` is `[((1, 2), rows 2, length 48), ((0,), rows 1, length 8)]`. If the last batch is not
    full, it has the next power of two of rows, so that there are few shapes.
    """
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    plans = []
    while order:
        length = rounded(lengths[order[0]])
        most = max(1, min(batch, batch * _WORDS // length))
        taken, order = tuple(order[:most]), order[most:]
        plans.append(Plan(taken, min(most, 1 << (len(taken) - 1).bit_length()), length))
    return plans


def _split_batch(numbers: tuple[int, ...], vectors: jax.Array, words: list[int] | None) -> dict[int, np.ndarray]:
    """{sentence: its part of `vectors`}; copies, so that no result keeps its whole batch in memory."""
    batch = np.asarray(vectors)
    if words is None:
        return {number: batch[..., row, :].copy() for row, number in enumerate(numbers)}
    return {number: batch[..., row, : words[number], :].copy() for row, number in enumerate(numbers)}
