"""What an evaluator without training found, in one shape for all of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

Scores = Mapping[str, Mapping[str, float]]
"""By layer ("0", "1" ... and "mean", the plain mean of the layers) or way of scoring: the metrics by name."""


@dataclass(frozen=True)
class Result:
    """Scores of a data set, and of its parts (words, test sets, paradigms, lists) by name."""

    scores: Scores
    counts: Mapping[str, int]
    """How many there were of what, and of what could not be scored."""
    baselines: Scores = field(default_factory=lambda: MappingProxyType({}))
    """By name, the same metrics of answers without the encoder."""
    parts: Mapping[str, "Result"] = field(default_factory=lambda: MappingProxyType({}))

    def json(self) -> dict[str, Any]:
        """The same as nested dicts of JSON numbers; null where a number is not finite."""
        found: dict[str, Any] = {"scores": _finite(self.scores), "counts": dict(self.counts)}
        if self.baselines:
            found["baselines"] = _finite(self.baselines)
        if self.parts:
            found["parts"] = {name: part.json() for name, part in self.parts.items()}
        return found


def _finite(scores: Scores) -> dict[str, dict[str, float | None]]:
    return {key: finite_metrics(metrics) for key, metrics in scores.items()}


def finite(value: float) -> float | None:
    """A number as JSON may hold it: None if it is not finite."""
    return float(value) if math.isfinite(value) else None


def finite_metrics(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """`finite` of each."""
    return {name: finite(value) for name, value in metrics.items()}
