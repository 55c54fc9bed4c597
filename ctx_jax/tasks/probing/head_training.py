"""Heads on stored vectors, trained by the library's training step without the files of a run.

The program of a step is compiled once for all ways and seeds that have the same network.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

import jax

from ctx_jax.data.prefetch import prefetch
from ctx_jax.io.errors import RunError
from ctx_jax.io.progress import Progress
from ctx_jax.tasks.label_network import mix_metrics
from ctx_jax.tasks.probing.label_probes import LabelProbe, ProbedTask
from ctx_jax.training.step import INIT, Collectives, State, TrainingStep, params_to_measure
from ctx_jax.typing import Log, Params


class Trained(NamedTuple):
    """What one way and seed gave."""

    epoch: int
    """The best one by the data that choose, 1 for the first."""
    dev: dict[str, float]
    test: dict[str, float]
    mix: list[float]
    """The weights of a learned mix, else []."""
    gamma: float | None


class HeadTraining:
    """Trains heads of a probe's task."""

    def __init__(self, probe: LabelProbe, log: Log) -> None:
        self._probe, self._log = probe, log
        self._compiled: dict[Any, tuple[TrainingStep, Callable[..., State]]] = {}

    def __call__(self, task: ProbedTask, seed: int, what: str) -> Trained:
        """Train one head; the epoch is chosen by the data that choose, and test data are read once, at the end.

        RunError for a loss that is not finite.
        """
        step, advance = self._step(task)
        task = replace(task, seed=seed)
        metric = self._probe.metric
        key = jax.random.key(seed)
        state, frozen = step.with_params(step.initial()[0], task.init(jax.random.fold_in(key, INIT)))
        progress: Progress | None = None  # begins after the first batch, for which the step is compiled
        best: tuple[float, int, Params, dict[str, float]] = (-math.inf, 0, {}, {})
        with prefetch(task.batches(0, task.batch_size), task.prefetch) as batches:
            for epoch in range(1, -(-step.steps // task.steps_per_epoch) + 1):
                count = min(task.steps_per_epoch, step.steps - (epoch - 1) * task.steps_per_epoch)
                for batch in islice(batches, count):
                    state = advance(state, frozen, batch.arrays, key)
                    if progress is None:
                        progress = Progress(what, "batches", step.steps - 1, self._log)
                    else:
                        progress.add()
                if (bad := int(state.totals.bad)) >= 0:
                    raise RunError(f"{what}: the loss is not finite at step {bad}: set a lower learning rate")
                params = jax.device_get(params_to_measure(state, frozen))
                found = task.scores(params, "valid")
                score = found[metric] if math.isfinite(found[metric]) else -math.inf  # a correlation of equal answers
                if score > best[0] or not best[1]:
                    best = score, epoch, params, found
                if self._patience and epoch - best[1] >= self._patience:
                    break
        _, epoch, params, dev = best
        mixing = mix_metrics(params)
        gamma = mixing.pop("gamma", None)
        return Trained(epoch, dev, task.scores(params, "test"), [*mixing.values()], gamma)

    @property
    def _patience(self) -> int:
        chosen = self._probe.config.evaluate.patience
        return (0 if self._probe.steps else 3) if chosen is None else int(chosen)

    def _step(self, task: ProbedTask) -> tuple[TrainingStep, Callable[..., State]]:
        if task.network not in self._compiled:
            without = replace(task, stored={})  # the step outlives the vectors of one layer
            step = TrainingStep(without, self._probe.optimizer, self._probe.steps or task.default_steps, 0)

            def advance(state: State, frozen: Params, batch: Any, key: jax.Array) -> State:
                # The key is an argument, so that all seeds share the program.
                own = jax.random.fold_in(key, state.step)
                return step.update(
                    state, step.gradient_output(state.params, frozen, batch, state.carry, own, Collectives())
                )

            self._compiled[task.network] = step, jax.jit(advance, donate_argnums=0)
        return self._compiled[task.network]
