"""A plot of a probe: the score of every layer with the spread over seeds, and the weights of the learned mix."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ctx_jax.io.errors import MissingPackageError
from ctx_jax.io.files import atomic_binary_file
from ctx_jax.tasks.probing.results import MEAN, MIX, RANDOM, TABLE, TaskResult, WayResult

_COLUMNS = 3


def plot(results: Sequence[TaskResult], path: Path) -> None:
    """Write a PNG with one panel for each task that has layers. MissingPackageError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError(
            "the plot needs matplotlib: pip install 'ctx-jax[plot]', then repeat the command, which trains nothing"
        ) from error
    shown = [each for each in results if each.layers]
    if not shown:
        return
    columns = min(len(shown), _COLUMNS)
    rows = -(-len(shown) // columns)
    figure: Any = Figure(figsize=(4.8 * columns, 3.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for panel, result in zip(figure.subplots(rows, columns, squeeze=False).flat, shown, strict=False):
        _panel(panel, result)
    for panel in figure.axes[len(shown) : rows * columns]:
        panel.set_visible(False)
    with atomic_binary_file(path) as file:
        figure.savefig(file, format="png", dpi=120)


def _panel(panel: Any, result: TaskResult) -> None:
    layers = result.layers
    ways = [result.of_layer(layer) for layer in layers]
    panel.errorbar(layers, *_points(ways), marker="o", capsize=3, color="C0", label="one layer")
    random = [result.ways.get(f"random layer {layer}") for layer in layers]
    if all(random):
        panel.plot(
            layers, [100 * way.score for way in random if way], linestyle=":", color="C7", label="random, one layer"
        )
    for way, color in ((MIX, "C3"), (MEAN, "C1"), (RANDOM, "C7"), (TABLE, "C2")):
        if way in result.ways:
            own = result.ways[way]
            panel.axhline(100 * own.score, linestyle="--", linewidth=1, color=color, label=way)
            if math.isfinite(own.spread):
                low, high = (100 * (own.score + sign * own.spread) for sign in (-1, 1))
                panel.axhspan(low, high, color=color, alpha=0.12, linewidth=0)
    panel.set_title(f"{result.name} ({result.measured_on})")
    panel.set_xlabel("layer")
    panel.set_ylabel(f"{result.metric}, points")
    panel.set_xticks(layers)
    mix = result.ways.get(MIX)
    if mix is not None and mix.mix:
        weights = panel.twinx()
        weights.bar(layers, mix.mean_mix, color="C3", alpha=0.18, width=0.6)
        weights.set_ylim(0, 1)
        weights.set_ylabel("weight in the mix")
    panel.legend(fontsize="small", loc="best")


def _points(ways: Sequence[WayResult]) -> tuple[list[float], list[float]]:
    """Scores and spreads in points; a spread is 0 for one seed."""
    spreads = [100 * way.spread if math.isfinite(way.spread) else 0.0 for way in ways]
    return [100 * way.score for way in ways], spreads
