"""Groups of settings that the tasks with labels share: how a run is measured, and how a table of vectors is read."""

from dataclasses import dataclass
from typing import Literal

from ctx_jax.io.errors import ConfigError

MetricName = Literal[
    "accuracy", "f1", "micro_f1", "matthews", "pearson", "spearman", "mrr", "recall_at_1", "loss"
]  # those of `label_values.METRICS`


@dataclass(frozen=True)
class LabelEvaluate:
    """How often the validation file is measured, and what follows from it."""

    every: int | None = None
    """Steps between evaluations, besides one at the end; None: once an epoch. 0: never."""

    metric: MetricName | None = None
    """The metric that chooses the best step. None: accuracy of one label, f1 of several, pearson of numbers, mrr of
    ranked pairs. `f1` is that of spans for labels of BIO or BIOES, else the mean over labels."""

    patience: int | None = None
    """The run ends after so many evaluations that are no better than the best one; 0: it does all its steps. None: 3 if
    `steps` is 0, else 0."""

    def __post_init__(self) -> None:
        for name in ("every", "patience"):
            if (getattr(self, name) or 0) < 0:
                raise ConfigError(f"evaluate.{name}", f"must be at least 0, got {getattr(self, name)}")


@dataclass(frozen=True)
class TableOptions:
    """How a table of word vectors is read; for no other encoder."""

    lowercase: bool = False
    """Words of the text are looked up in lower case."""

    unknown: Literal["zero", "mean", "error"] = "zero"
    """Words that the table lacks: the vector 0, the mean of the table, or an error."""
