"""What a probe found, as an object, as JSON and as Markdown."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ctx_jax.evaluation.results import finite
from ctx_jax.tasks.probing.pattern import Pattern, pattern, signed
from ctx_jax.tasks.probing.results import RANDOM, TABLE, TaskResult, WayResult, layer_name


@dataclass(frozen=True)
class ProbeReport:
    """The results of all tasks, by name."""

    about: Mapping[str, Any]
    """What was probed, as JSON."""
    results: Mapping[str, TaskResult]
    notes: Sequence[str] = ()
    """What was not measured, and why."""

    @property
    def pattern(self) -> Pattern:
        """Whether the classic pattern holds."""
        return pattern(self.results.values())

    @property
    def text(self) -> str:
        """The choices, and whether the classic pattern holds, in lines."""
        return "\n".join([*(_choice(each) for each in self.results.values()), *self.notes, self.pattern.text])

    @property
    def markdown(self) -> str:
        """A table over all tasks, one for each task, and what the numbers say."""
        lines = [f"# Probe of {self.about['encoder']}", "", self.pattern.text, ""]
        lines += [f"- {note}" for note in self.notes]
        lines += ["", *_summary(self.results.values()), ""]
        for each in self.results.values():
            counts = [f"{name.replace('_', ' ')} {count:,}" for name, count in each.counts.items()]
            lines += [f"## {each.name}", "", _choice(each), *([f"Counts: {', '.join(counts)}."] if counts else []), ""]
            lines += [*_table(each), ""]
        return "\n".join(lines)

    def json(self) -> dict[str, Any]:
        """Everything, as JSON; null where there is no number."""
        tasks = {name: _task_json(each) for name, each in self.results.items()}
        return {"about": dict(self.about), "tasks": tasks, "notes": [*self.notes], "pattern": self.pattern.json()}

    def json_text(self) -> str:
        """The text of `results.json`."""
        return json.dumps(self.json(), indent=1) + "\n"


def _choice(result: TaskResult) -> str:
    """What was chosen, on which data, in one line."""
    best, how = result.best_layer, f"{result.metric}; chosen on {result.chosen_on}, scores of {result.measured_on}"
    if best is None:
        scores = ", ".join(f"{name} {_score(way)}" for name, way in result.ways.items())
        return f"{result.name} ({how}): {scores}; no layer to choose."
    own = result.of_layer(best)
    chosen = (
        f"layer {best} is best on {result.chosen_on} ({_points(own.choice)}), {_score(own)} on {result.measured_on}"
    )
    if result.all_layers is None:
        return f"{result.name} ({how}): {chosen}."
    mean, spread = result.difference(own)
    name = "the mix" if result.trained else "the plain mean"
    return f"{result.name} ({how}): {chosen}; {name} {_score(result.all_layers)}, {signed(mean, spread)} against it."


def _summary(results: Any) -> Iterator[str]:
    yield "| task | metric | best layer | its score | mean | mix | all layers - best | - layer 0 | - random | - table |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for each in results:
        best = None if each.best_layer is None else each.of_layer(each.best_layer)
        differences = [
            signed(*each.difference(other)) if each.all_layers is not None and other is not None else ""
            for other in (best, each.ways.get(layer_name(0)), each.ways.get(RANDOM), each.ways.get(TABLE))
        ]
        cells = [
            each.name,
            each.metric,
            "" if best is None else str(each.best_layer),
            _score(best) if best else ", ".join(f"{name} {_score(way)}" for name, way in each.ways.items()),
            *(_score(way) if way else "" for way in (each.ways.get("mean"), each.ways.get("mix"))),
            *differences,
        ]
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield (
        "Scores are in points (x 100), mean and standard deviation over seeds. `all layers` is the learned mix, and "
        "the plain mean in tasks without training; `random` the same of an encoder of random weights. In brackets: the "
        "95 % interval over examples."
    )


def _table(result: TaskResult) -> Iterator[str]:
    mixes = any(way.mix for way in result.ways.values())
    yield f"| way | choice ({result.chosen_on}) | score ({result.measured_on}) |{' mix weights |' if mixes else ''}"
    yield f"|---|---|---|{'---|' if mixes else ''}"
    for name, way in result.ways.items():
        weights = f" {' '.join(f'{weight:.2f}' for weight in way.mean_mix)} |" if mixes else ""
        yield f"| {name} | {_points(way.choice)} | {_score(way)} |{weights}"


def _score(way: WayResult) -> str:
    if way.interval is not None:
        low, high = way.interval
        return f"{_points(way.score)} ({_points(low)} to {_points(high)})"
    return f"{_points(way.score)}{f' ± {100 * way.spread:.2f}' if math.isfinite(way.spread) else ''}"


def _points(value: float) -> str:
    return f"{100 * value:.2f}" if math.isfinite(value) else ""


def _task_json(result: TaskResult) -> dict[str, Any]:
    best = result.best_layer
    mean, spread = result.difference(None if best is None else result.of_layer(best))
    return {
        "kind": result.kind,
        "metric": result.metric,
        "chosen_on": result.chosen_on,
        "measured_on": result.measured_on,
        "trained": result.trained,
        "counts": dict(result.counts),
        "best_layer": best,
        "all_layers_minus_best": finite(mean),
        "all_layers_minus_best_spread": finite(spread),
        "ways": {
            name: {
                "score": finite(way.score),
                "spread": finite(way.spread),
                "choice": finite(way.choice),
                "test": [finite(value) for value in way.test],
                "dev": [finite(value) for value in way.dev],
                **({"interval": list(way.interval)} if way.interval else {}),
                **({"mix": [list(weights) for weights in way.mix]} if way.mix else {}),
            }
            for name, way in result.ways.items()
        },
    }
