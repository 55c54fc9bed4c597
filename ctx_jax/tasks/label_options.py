"""Groups of settings that the tasks with labels share: how a run is measured and repeated, how a table is read."""

from dataclasses import dataclass
from typing import Literal

from ctx_jax.io.errors import ConfigError
from ctx_jax.tasks.options import refuse_options

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
    """The run ends after so many evaluations that are no better than the best one, counted once all layers are unfrozen
    (`unfreeze_every`); 0: it does all its steps. None: 3 if `steps` is 0 and
    there is a validation file, else 0."""

    def __post_init__(self) -> None:
        for name in ("every", "patience"):
            if (getattr(self, name) or 0) < 0:
                raise ConfigError(f"evaluate.{name}", f"must be at least 0, got {getattr(self, name)}")

    def check(self, valid: str) -> None:
        """ConfigError for a setting that is not read where no validation file is named."""
        if not valid:
            names = ("metric", "patience") if self.patience else ("metric",)
            refuse_options(self, names, "a run without data.valid", prefix="evaluate.")


@dataclass(frozen=True)
class TableOptions:
    """How a table of word vectors is read; for no other encoder."""

    lowercase: bool = False
    """Words of the text are looked up in lower case."""

    unknown: Literal["zero", "mean", "error"] = "zero"
    """Words that the table lacks: the vector 0, the mean of the table, or an error."""


@dataclass(frozen=True)
class RepeatOptions:
    """Several runs in place of one (`tasks.repeats`)."""

    seeds: int = 0
    """So many runs, with `seed`, `seed` + 1, ..., each in a directory of its own (`seed_0`, ...) below `run_dir`, and a
    table of their mean and spread. 0: one run, in `run_dir` itself."""

    sizes: str = ""
    """A learning curve: numbers of training examples between commas, or `all`, as in `100,1000,all`. Each is a
    directory (`size_100`, ...) with a run for every seed. By the same seed a larger number has all examples of a
    smaller one."""

    def __post_init__(self) -> None:
        if self.seeds < 0:
            raise ConfigError("seeds", f"must be at least 0, got {self.seeds}")
        _ = self.parsed_sizes

    @property
    def asked(self) -> bool:
        """Whether there is more than a single run."""
        return bool(self.seeds or self.sizes)

    @property
    def parsed_sizes(self) -> tuple[int | None, ...]:
        """The sizes, the smallest first; None, the last one, for all examples. ConfigError for what is no size."""
        found: list[int | None] = []
        for word in filter(None, (word.strip() for word in self.sizes.split(","))):
            if word != "all" and not (word.isascii() and word.isdecimal() and int(word)):
                raise ConfigError("sizes", f"must be whole numbers above 0, or all, between commas; got {word[:40]!r}")
            found.append(None if word == "all" else int(word))
        if len({*found}) < len(found) or (self.sizes and not found):
            raise ConfigError("sizes", f"must be different numbers between commas, got {self.sizes[:80]!r}")
        return tuple(sorted(found, key=lambda size: float("inf") if size is None else size))
