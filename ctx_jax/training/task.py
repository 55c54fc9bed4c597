"""What a model and its objective give the trainer: one protocol, behind which every model looks alike."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from ctx_jax.data.batch import Batch

Params = dict[str, Any]
"""A nested dict of float32 arrays."""

Terms = dict[str, tuple[jax.Array, jax.Array]]
"""A loss: term -> (sum, weight)."""

Carry = Any
"""State that passes from one batch to the next, each array with its rows in front; `()` where a model has none."""


class Objective(Protocol):
    """What the step needs of a task: pure functions of arrays."""

    @property
    def coefficients(self) -> dict[str, float]:
        """The share of each term's mean in what is minimised, and reported as `loss`."""

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters."""

    def zero_carry(self, rows: int) -> Carry:
        """The carry before the first batch."""

    def loss(
        self, params: Params, batch: dict[str, jax.Array], carry: Carry, key: jax.Array | None
    ) -> tuple[Terms, Carry]:
        """Sums and weights of the rows given; `key` is the step's, the same for every part of a batch. `params` is
        any mapping with the names of `init`'s: arrays are taken out where they are used (see `training/divided.py`)."""


class Batches(Protocol):
    """Batches without end, from any position on."""

    def seek(self, position: dict[str, np.ndarray]) -> None:
        """Go on after the batch that left this position."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __next__(self) -> Batch: ...


class Task(Objective, Protocol):
    """An objective together with its data and its measures."""

    @property
    def model(self) -> Any:
        """The model's config, complete: its vocabulary's size is known."""

    def starting(self, params: Params) -> Params:
        """The parameters of the first step, given fresh ones: those of an import in their place."""

    @property
    def rows(self) -> int:
        """Rows of a batch (B), over all devices and hosts."""

    def batches(self, first: int, count: int) -> Batches:
        """The training batches of the rows first .. first + count - 1, from the start of the run."""

    def tokens(self, arrays: dict[str, np.ndarray]) -> int:
        """Real tokens of a batch, each counted once."""

    def metrics(self, means: dict[str, float]) -> dict[str, float]:
        """What is reported of the terms' means: `loss` first."""

    def evaluate(
        self, params: Params, devices: Sequence[jax.Device], say: Callable[[str], None]
    ) -> dict[str, float] | None:
        """The validation split's measures, `loss` among them; None without a validation split. `say` hears how far a
        long one is."""

    def flops_per_token(self) -> float:
        """Floating-point operations of a training step per token that `tokens` counts."""

    def report(self, params: Params, say: Callable[[str], None]) -> None:
        """What a person is shown when the run ends."""
