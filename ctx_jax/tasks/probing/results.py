"""What a probe measured: scores by task, way and seed.

A way is what was read from the encoder: "layer 0", "layer 1" ..., "mean", the plain mean of all layers, "mix", the
learned mix; "random", the mix (where nothing is trained, the mean) of an encoder of random weights, and its "random
layer 0" ...; "table", a table of word vectors; "most frequent", the most frequent sense or answer, without an encoder;
a way of scoring where a language model is measured.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, Literal

Kind = Literal["syntax", "senses", "other"]
"""What a task asks for: where Peters et al. (2018) found syntax low and senses high in a biLM."""

MEAN, MIX, RANDOM, TABLE, MOST_FREQUENT = "mean", "mix", "random", "table", "most frequent"


def layer_name(number: int) -> str:
    """The way that reads one layer: "layer 3"."""
    return f"layer {number}"


def layer_number(way: str) -> int | None:
    """The layer that a way reads alone; None for other ways."""
    before, _, number = way.partition(" ")
    return int(number) if before == "layer" and number.isdecimal() else None


@dataclass(frozen=True)
class WayResult:
    """The scores of one way, one a seed; nan where there is no data to choose on."""

    dev: tuple[float, ...]
    test: tuple[float, ...]
    mix: tuple[tuple[float, ...], ...] = ()
    """The weights of the layers in a learned mix, one tuple a seed."""
    interval: tuple[float, float] | None = None
    """The 95 % interval of the reported score over examples, where the task gives one."""

    @property
    def score(self) -> float:
        """The mean over seeds of the reported score."""
        return fmean(self.test)

    @property
    def choice(self) -> float:
        """The mean over seeds of the score that chooses."""
        return fmean(self.dev)

    @property
    def spread(self) -> float:
        """The standard deviation over seeds of the reported score; nan for one seed."""
        return stdev(self.test) if len(self.test) > 1 else math.nan

    @property
    def choice_spread(self) -> float:
        """That of the score that chooses."""
        return stdev(self.dev) if len(self.dev) > 1 else math.nan

    @property
    def mean_mix(self) -> tuple[float, ...]:
        """The mean over seeds of the weights."""
        return tuple(fmean(weights) for weights in zip(*self.mix, strict=True))


@dataclass(frozen=True)
class TaskResult:
    """The scores of a task."""

    name: str
    kind: Kind
    metric: str
    chosen_on: str
    """The data that choose epoch and layer, in words."""
    measured_on: str
    """The data that the scores are of, in words."""
    trained: bool
    ways: Mapping[str, WayResult]
    counts: Mapping[str, Any]

    @property
    def layers(self) -> list[int]:
        """The layers that were read alone, in their order."""
        return sorted(number for way in self.ways if (number := layer_number(way)) is not None)

    @property
    def best_layer(self) -> int | None:
        """The single layer with the best score on the data that choose, the lowest of equals; None if there is none."""
        known = [layer for layer in self.layers if math.isfinite(self.of_layer(layer).choice)]
        return max(known, key=lambda layer: self.of_layer(layer).choice) if known else None

    @property
    def near_best(self) -> list[int]:
        """The other layers no further below the best one than the largest spread over seeds, by the choosing data."""
        best = self.best_layer
        if best is None:
            return []
        top = self.of_layer(best)
        spreads = [each for layer in self.layers if math.isfinite(each := self.of_layer(layer).choice_spread)]
        reach = max(spreads, default=0.0)
        return [layer for layer in self.layers if layer != best and self.of_layer(layer).choice >= top.choice - reach]

    @property
    def all_layers(self) -> WayResult | None:
        """What reads all layers: the learned mix, or the plain mean where nothing is trained."""
        return self.ways.get(MIX if self.trained else MEAN)

    def of_layer(self, layer: int) -> WayResult:
        """The scores of one layer."""
        return self.ways[layer_name(layer)]

    def difference(self, other: WayResult | None) -> tuple[float, float]:
        """`all_layers` minus another way, reported scores: the mean over seeds and its standard deviation; nan where
        there is none."""
        own = self.all_layers
        if own is None or other is None:
            return math.nan, math.nan
        if len(own.test) != len(other.test):
            return own.score - other.score, math.nan
        each = [a - b for a, b in zip(own.test, other.test, strict=True)]
        return fmean(each), stdev(each) if len(each) > 1 else math.nan


def collected(records: Sequence[Mapping[str, Any]], metric: str) -> dict[str, WayResult]:
    """The results by way of records {"way", "seed", "dev", "test", "mix"}, in their order; seeds in theirs."""
    by_way: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        by_way.setdefault(record["way"], []).append(record)
    found = {}
    for way, own in by_way.items():
        own.sort(key=lambda record: record["seed"])
        mixes = tuple(tuple(record["mix"]) for record in own if record.get("mix"))
        dev = tuple(_number(record["dev"].get(metric)) for record in own)
        test = tuple(_number(record["test"].get(metric)) for record in own)
        found[way] = WayResult(dev, test, mixes, _interval(own[0]["test"]) if len(own) == 1 else None)
    return found


def _interval(scores: Mapping[str, float]) -> tuple[float, float] | None:
    return (scores["low"], scores["high"]) if "low" in scores else None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
