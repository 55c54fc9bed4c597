"""The protocols that `training/` needs of a task and of its settings."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import numpy as np

from ctx_jax.checkpoints.run_files import Origin
from ctx_jax.data.batch import Batch
from ctx_jax.encoders.base import InputProcessor, Model
from ctx_jax.training.parameter_groups import ParameterGroup
from ctx_jax.training.unfreezing import Unfreezing
from ctx_jax.typing import Carry, Log, Params, Terms


class Objective(Protocol):
    """What the training step needs of a task: pure functions of arrays."""

    @property
    def coefficients(self) -> Mapping[str, float]:
        """The factor of each term's mean in the total loss. A term with factor 0 is reported but not trained on; a term
        that is not listed is ignored."""

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters {"encoder": ..., "head": {name: ...}}."""

    def zero_carry(self, rows: int) -> Carry:
        """The carry before the first batch."""

    def loss(self, params: Params, batch: Any, carry: Carry, key: jax.Array | None) -> tuple[Terms, Carry]:
        """({term: (sum, weight)} over the rows of `batch`, new carry); all parts of a step's batch have one `key`."""


@runtime_checkable
class ComparesRows(Protocol):
    """What an objective may offer besides `Objective` whose loss compares each row with all others of the batch, which
    lie on other devices and in other micro-batches too. Its `loss` compares the rows that it is given."""

    def row_vectors(self, params: Params, batch: Any, key: jax.Array | None) -> Any:
        """A tree of arrays [B, ...]: what is compared, of each row from this row alone."""

    def compare(self, vectors: Any, batch: Any, gather: Callable[[Any], Any]) -> Terms:
        """The terms of the rows of `batch`, as `loss`. `gather` turns a tree of arrays with the rows of one device into
        that of all devices' rows."""


@runtime_checkable
class UnfreezesGradually(Protocol):
    """What an objective may offer besides `Objective`: training that begins at the top (`training.unfreezing`)."""

    @property
    def unfreezing(self) -> Unfreezing | None:
        """When each layer is first trained; None: all are from the start."""


@runtime_checkable
class DescribesData(Protocol):
    """What a task may offer besides `Task` whose data has numbers of interest before the first step."""

    def data_metrics(self, steps: int) -> dict[str, float]:
        """Numbers of a run of `steps` steps, written once as split "data" of step 0; empty: none."""


class Batches(Protocol):
    """An endless iterator of batches that can start from any position."""

    def seek(self, position: dict[str, np.ndarray]) -> None:
        """Continue after the batch whose `position` this is."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __next__(self) -> Batch: ...


TIE = 1e-9
"""The weight of the loss beside another metric: less than the least difference of two accuracies of 10**8 labels."""


@dataclass(frozen=True)
class Selection:
    """By which metric of an evaluator the best step is chosen, and when a run that no longer improves stops."""

    metric: str = "loss"
    larger_is_better: bool = False
    patience: int = 0
    """Evaluations without a better one after which the run stops, counted once all layers are unfrozen; 0: it does all
    its steps."""

    def value(self, metrics: Mapping[str, float]) -> float:
        """The number that the best step has the least of. Of two with the same metric it is the one with less `loss`:
        an accuracy has few values, and a loss still falls where it stands."""
        value = -metrics[self.metric] if self.larger_is_better else metrics[self.metric]
        if self.metric == "loss":
            return value
        loss = max(metrics.get("loss", 0.0), 0.0)  # of numbers it may be of any size
        return value + TIE * (1.0 - 1.0 / (1.0 + loss))


class Evaluator(Protocol):
    """Measures the parameters, or makes a report from them, every few steps."""

    @property
    def name(self) -> str:
        """The `split` of its lines in metrics.jsonl."""

    @property
    def every(self) -> int:
        """Steps between evaluations, besides one at the end. 0: never."""

    @property
    def is_page(self) -> bool:
        """Whether it gives a text to show (called on the first process only) instead of metrics."""

    @property
    def selection(self) -> Selection:
        """How the best step is chosen, if this is the first evaluator of its task that gives metrics."""

    def __call__(self, params: Params, devices: Sequence[jax.Device], log: Log) -> dict[str, float] | str:
        """Metrics, or the text. `log` shows the progress of a long evaluation."""


@dataclass(frozen=True)
class FunctionEvaluator:
    """An `Evaluator` made from a function of (params, devices, log)."""

    name: str
    every: int
    function: Callable[[Params, Sequence[jax.Device], Log], dict[str, float] | str]
    is_page: bool = False
    selection: Selection = Selection()

    def __call__(self, params: Params, devices: Sequence[jax.Device], log: Log) -> dict[str, float] | str:
        return self.function(params, devices, log)


class Task(Objective, Protocol):
    """An objective together with its data and its evaluators.

    The first evaluator that gives metrics decides by its `selection` which step is the best: by default the one with
    the lowest loss.
    """

    @property
    def config(self) -> "TaskConfig":
        """The task's settings, completed by `TaskConfig.open`: the size of the vocabulary, for example."""

    @property
    def model(self) -> Model:
        """The encoder."""

    @property
    def heads(self) -> Mapping[str, Any]:
        """The heads' modules, by the names of params["head"]."""

    @property
    def processor(self) -> InputProcessor:
        """Makes the encoder's inputs from text."""

    @property
    def origin(self) -> Origin:
        """What the run keeps of the encoder that it started from."""

    @property
    def files(self) -> tuple[str, ...]:
        """Names of files in the run directory that each checkpoint keeps a copy of, such as the vocabulary."""

    @property
    def groups(self) -> tuple[ParameterGroup, ...]:
        """The task's parameter groups, which count beside those of the optimizer's settings, see
        `parameter_groups.group_of`."""

    @property
    def batch_size(self) -> int:
        """Rows of a batch (B), over all devices and processes."""

    @property
    def default_steps(self) -> int:
        """Steps of a run whose settings say 0; 0: the settings must say how many."""

    @property
    def prefetch(self) -> int:
        """How many batches to prepare in advance."""

    @property
    def evaluators(self) -> Sequence[Evaluator]:
        """What evaluates the parameters during the run."""

    def initial(self, params: Params) -> Params:
        """The parameters of the first step: imported ones, or the fresh `params` themselves."""

    def batches(self, first: int, count: int) -> Batches:
        """The training batches of the rows first .. first + count - 1, from the start of the run."""

    def tokens(self, arrays: Any) -> int:
        """The number of real tokens in a batch."""

    def metrics(self, means: dict[str, float]) -> dict[str, float]:
        """What to report, from the terms' means: `loss` first."""

    def flops_per_token(self) -> float:
        """Floating-point operations of a training step per token that `tokens` counts."""


@dataclass(frozen=True)
class TaskContext:
    """What `TaskConfig.open` is told of the run."""

    run_dir: Path
    seed: int
    steps: int
    resumed: bool
    """The run directory holds a checkpoint, so the vocabulary is read from there and not built."""
    log: Log


class Predictor(Protocol):
    """A trained run that answers for new texts."""

    @property
    def encoder(self) -> Any:
        """The run's `ctx_jax.Encoder`."""

    def predict(self, items: Sequence[Any]) -> list[dict[str, Any]]:
        """One answer an item, in their order, as JSON."""

    def read(self, path: str) -> Iterator[Any]:
        """The items of a file; "-" is standard input."""


class TaskConfig(Protocol):
    """A task's settings, a frozen dataclass: `config.task` of a run chooses what is trained."""

    name: ClassVar[str]
    """What `ctx-jax train` calls it."""

    @staticmethod
    def run_defaults() -> dict[str, Any]:
        """The settings of a run whose defaults the task changes, such as the optimizer."""

    def check(self, steps: int) -> None:
        """ConfigError for settings that do not fit each other or a run of `steps` steps."""

    def merged(self, old: Any) -> Any:
        """These settings, merged with the values that the original run (of settings `old`) inferred."""

    def open(self, context: TaskContext) -> Task:
        """Read the text, build the vocabulary (a resumed run reads it from its directory), and return the task.

        In a job of several processes the others call this after the first one, which alone writes.
        """

    def predictor(self, encoder: Any) -> Predictor | None:
        """What a trained run predicts with its `ctx_jax.Encoder`; None for a task that predicts nothing."""

    def report(self, encoder: Any, run_dir: Path, options: Any) -> Any:
        """What `ctx-jax evaluate` prints: an `evaluation.reports.Report` of a trained run on a text.

        `encoder`: a `ctx_jax.Encoder`; `options`: a `tasks.options.EvaluateOptions`. ConfigError for an option that the
        task has no use for.
        """
