"""Batches of a fixed number of examples: endless epochs, each in an order of its own.

Letters: B rows of a batch.
"""

from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np

from ctx_jax.data.batch import Batch
from ctx_jax.data.permutation import permuted
from ctx_jax.io.errors import InputError


class Epochs:
    """Batch k holds the examples at places k B .. k B + B - 1 of an endless stream of shuffled epochs.

    `make(examples, rows)` returns the arrays of this process's `rows`, a range, of a batch of the B `examples`, an
    array of their numbers. It sees all B, so that every process can choose the same shapes.
    """

    def __init__(
        self, count: int, batch_size: int, rows: range, seed: int, make: Callable[[np.ndarray, range], Any]
    ) -> None:
        self._count, self._batch_size, self._rows, self._seed, self._make = count, batch_size, rows, seed, make
        self._next = 0  # batches given

    def seek(self, position: Mapping[str, np.ndarray]) -> None:
        """Continue after the batch whose `position` this is, of all rows. InputError for one of another batch size."""
        batches = np.asarray(position.get("batches", ()), np.int64)
        if batches.shape != (self._batch_size,) or batches.min() != batches.max() or batches[0] < 0:
            raise InputError(
                f"a position needs the number of batches, one a row of {self._batch_size}, got {dict(position)}: "
                "batch_size must be the one it was saved with"
            )
        self._next = int(batches[0])

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        first = self._next * self._batch_size
        places = range(first, first + self._batch_size)
        examples = np.array([permuted(place, self._count, self._seed) for place in places])
        arrays = self._make(examples, self._rows)
        self._next += 1
        return Batch(arrays, {"batches": np.full(len(self._rows), self._next, np.int32)})
