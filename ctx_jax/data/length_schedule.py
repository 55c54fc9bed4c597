"""Short sequences first, the full length afterwards (Devlin et al. 2019, appendix A.2), as one source of batches."""

from collections.abc import Iterator, Mapping

import numpy as np

from ctx_jax.data.batch import Batch
from ctx_jax.data.sequences import Sequences
from ctx_jax.io.errors import InputError


class Phases(Iterator[Batch]):
    """`first_steps` batches of one source, then those of another.

    Positions are the sources' own with `step` besides, int32 [B]: how many batches were given. B is that of the phase.
    """

    def __init__(self, first: Sequences, first_steps: int, second: Sequences) -> None:
        self._first, self._first_steps, self._second = first, first_steps, second
        self._step = 0

    def seek(self, position: Mapping[str, np.ndarray]) -> None:
        """Go on after the batch that left this position; ValueError for one of another run."""
        if "step" not in position or not np.size(position["step"]):
            raise InputError("a position of two phases needs step: it was saved without a first phase; set "
                             "--sequences.first-steps as the run has it")  # fmt: skip
        self._step = int(np.asarray(position["step"]).flat[0])
        rest = {name: array for name, array in position.items() if name != "step"}
        if self._step < self._first_steps:
            self._first.seek(rest)
        elif self._step > self._first_steps:  # at the border the second phase stands at its beginning
            self._second.seek(rest)

    def __next__(self) -> Batch:
        batch = next(self._first if self._step < self._first_steps else self._second)
        self._step += 1
        rows = len(batch.arrays["row"])
        return Batch(batch.arrays, {**batch.position, "step": np.full(rows, self._step, np.int32)})
