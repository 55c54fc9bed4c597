"""What a task gives the trainer: protocols, behind which every task looks alike."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from ctx_jax.data.batch import Batch
from ctx_jax.encoders.base import InputProcessor, Model
from ctx_jax.training.parameter_groups import ParameterGroup
from ctx_jax.typing import Carry, Params, Terms

Log = Callable[[str], None]
"""Takes a line for the user."""


class Objective(Protocol):
    """What the training step needs of a task: pure functions of arrays."""

    @property
    def coefficients(self) -> Mapping[str, float]:
        """The factor on each term's mean in what is minimised, which is reported as `loss`. A term without one is
        neither trained on nor counted, one with 0 is counted."""

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters {"encoder": ..., "head": {name: ...}}."""

    def zero_carry(self, rows: int) -> Carry:
        """The carry before the first batch."""

    def loss(self, params: Params, batch: Any, carry: Carry, key: jax.Array | None) -> tuple[Terms, Carry]:
        """Sums and weights over the rows of `batch`; `key` is the step's, the same for every part of a batch."""


class Batches(Protocol):
    """Batches without end, from any position on."""

    def seek(self, position: dict[str, np.ndarray]) -> None:
        """Go on after the batch that left this position."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __next__(self) -> Batch: ...


class Evaluator(Protocol):
    """Something that looks at the parameters now and then."""

    @property
    def name(self) -> str:
        """Its split in metrics.jsonl."""

    @property
    def every(self) -> int:
        """Steps from one evaluation to the next; one more at the end. 0: never."""

    @property
    def is_page(self) -> bool:
        """Whether it makes a page for people, which the first process alone does, instead of metrics."""

    def __call__(self, params: Params, devices: Sequence[jax.Device], log: Log) -> dict[str, float] | str:
        """Metrics, or the page. `log` takes lines about how far a long evaluation is."""


class Task(Objective, Protocol):
    """An objective together with its data and its evaluators.

    The first evaluator that gives metrics decides which step is the best, by their lowest `loss`.
    """

    @property
    def config(self) -> "TaskConfig":
        """The task's settings with what opening it has found out, such as the size of the vocabulary."""

    @property
    def model(self) -> Model:
        """The encoder."""

    @property
    def heads(self) -> Mapping[str, Any]:
        """What stands on the encoder, by the names of params["head"]."""

    @property
    def processor(self) -> InputProcessor:
        """How text becomes the encoder's inputs."""

    @property
    def files(self) -> tuple[str, ...]:
        """Files of the run directory, by name, that say what the model's inputs stand for; each checkpoint keeps a
        copy."""

    @property
    def groups(self) -> tuple[ParameterGroup, ...]:
        """The task's own parameter groups, behind those of the optimizer's settings and before the defaults."""

    @property
    def batch_size(self) -> int:
        """Rows of a batch (B), over all devices and processes."""

    @property
    def prefetch(self) -> int:
        """Batches made ready ahead of the one being trained on."""

    @property
    def evaluators(self) -> Sequence[Evaluator]:
        """What looks at the parameters during the run."""

    def initial(self, params: Params) -> Params:
        """The parameters of the first step, given fresh ones: those of an import in their place."""

    def batches(self, first: int, count: int) -> Batches:
        """The training batches of the rows first .. first + count - 1, from the start of the run."""

    def tokens(self, arrays: Any) -> int:
        """Real tokens of a batch, each counted once."""

    def metrics(self, means: dict[str, float]) -> dict[str, float]:
        """What is reported of the terms' means: `loss` first."""

    def flops_per_token(self) -> float:
        """Floating-point operations of a training step per token that `tokens` counts."""


@dataclass(frozen=True)
class TaskContext:
    """What a task is opened with."""

    run_dir: Path
    seed: int
    steps: int
    resumed: bool
    """The run directory holds a checkpoint: vocabulary and the like are read there, not made."""
    log: Log


class TaskConfig(Protocol):
    """A task's settings, a frozen dataclass: `config.task` of a run chooses what is trained."""

    def check(self, steps: int) -> None:
        """ConfigError for settings that do not fit each other or a run of so many steps."""

    def merged(self, old: Any) -> Any:
        """These settings with the values that the run being resumed, of settings `old`, had inferred."""

    def open(self, context: TaskContext) -> Task:
        """The task, its text read and its vocabulary built, or found in the directory of a resumed run.

        Of several processes the first one builds and writes, and the others call this after it.
        """
