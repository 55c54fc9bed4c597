"""Short sequences first, the full length afterwards (Devlin et al. 2019, appendix A.2), as one source of batches."""

from collections.abc import Iterator, Mapping

import numpy as np

from ctx_jax.data.batch import Batch
from ctx_jax.data.sequences import Sequences
from ctx_jax.io.errors import InputError


class LengthSchedule(Iterator[Batch]):
    """`short_steps` batches of one source, then those of another.

    Positions are the sources' own and `step`, int32 [B]: how many batches were given. B is that of the source.
    """

    def __init__(self, short: Sequences, short_steps: int, full: Sequences) -> None:
        self._short, self._short_steps, self._full = short, short_steps, full
        self._step = 0

    def epochs(self, batches: int) -> np.ndarray:
        """See `Sequences.epochs`."""
        short = min(batches, self._short_steps)
        return self._short.epochs(short) + self._full.epochs(batches - short)

    def seek(self, position: Mapping[str, np.ndarray]) -> None:
        """Go on after the batch that left this position; InputError for one of another run."""
        if "step" not in position:
            raise InputError("a position of a length schedule needs step: set sequences.short_steps as the run has it")
        self._step = int(np.asarray(position["step"]).flat[0])
        rest = {name: array for name, array in position.items() if name != "step"}
        if self._step < self._short_steps:
            self._short.seek(rest)
        elif self._step > self._short_steps:  # at the border the second source stands at its beginning
            self._full.seek(rest)

    def __next__(self) -> Batch:
        batch = next(self._short if self._step < self._short_steps else self._full)
        self._step += 1
        step = np.full_like(batch.position["index"], self._step)
        return Batch(batch.arrays, {**batch.position, "step": step})
