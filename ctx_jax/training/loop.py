"""The training loop: runs the step on each batch, and writes metrics, evaluates and saves when due.

An evaluation that is due comes before the save, also when the run is stopped. The best step so far, by the metric that
the task selects, is saved even if no checkpoint is due, so the best checkpoint is the best step that was evaluated. A
step saved between two evaluations has no metrics and is never the best.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ctx_jax.checkpoints.run_files import SELECTION
from ctx_jax.checkpoints.runs import RunCheckpoints
from ctx_jax.data.prefetch import prefetch
from ctx_jax.distributed.processes import (
    broadcast,
    is_first_process,
    on_first_process,
    stop_requested,
    stop_together,
)
from ctx_jax.io.allocator import KeptMemory
from ctx_jax.io.errors import CtxJaxError
from ctx_jax.training.config import RunConfig
from ctx_jax.training.devices import Devices
from ctx_jax.training.metrics import Display, Metrics, MetricsLog, Speed, peak_flops
from ctx_jax.training.optimizer import learning_rate_schedule
from ctx_jax.training.signals import StopRequests
from ctx_jax.training.step import State, TrainingStep, params_to_measure
from ctx_jax.training.task import DescribesData, Evaluator, Task
from ctx_jax.typing import Log, Params

Position = dict[str, np.ndarray]


class NonFinite(CtxJaxError, ArithmeticError):
    """A loss or gradient is not finite; the message names the step and the data position."""


class Loop:
    """One run of a task, from its latest checkpoint to `config.steps`."""

    def __init__(
        self, config: RunConfig, task: Task, checkpoints: RunCheckpoints, files: Mapping[str, str] | None = None
    ) -> None:
        """`files`: {name: text}, copied into each checkpoint."""
        self.config, self.task, self.checkpoints, self.files = config, task, checkpoints, dict(files or {})
        self.devices = Devices(config.devices, task.batch_size)
        self.training_step = TrainingStep(
            task, config.optimizer, config.steps, config.seed, config.devices.micro_batches
        )
        self.compiled = self.devices.compile(self.training_step)
        self.fresh_totals = self.devices.replicated(self.training_step.zero_totals)
        self.rate = learning_rate_schedule(config.optimizer, config.steps)
        self.batches = task.batches(self.devices.first_row, self.devices.process_rows)
        self.speed = Speed()
        self.kept_memory = KeptMemory()
        self.step = 0
        self.frozen: Params = {}
        self.evaluator = next((each for each in task.evaluators if not each.is_page), None)
        self.best: float = math.inf  # of the evaluator's `selection`, and its step, which was saved
        self.best_step = 0
        self.compiled_shapes: set[tuple[tuple[int, ...], ...]] = set()  # of batches
        # The data position before each step not yet known to be finite, and after the last step.
        self.positions: list[Position] = []

    def start(self) -> State:
        """The state of the latest complete checkpoint, with the batches at its position, or a new state."""
        self.step = broadcast(self.checkpoints.latest()) or 0
        best = self.checkpoints.best() or 0
        metrics = (self.checkpoints.metrics(best) if best else None) or {}
        if self.evaluator is not None and self.evaluator.selection.metric in metrics:
            value = self.evaluator.selection.value(metrics)
            self.best, self.best_step = (value, best) if math.isfinite(value) else (math.inf, 0)
        self.best, self.best_step = broadcast((self.best, self.best_step))
        if self.step == 0:
            state, self.frozen = self.devices.create(self.training_step.initial)
            fresh = params_to_measure(state._replace(average=()), self.frozen)
            given = self.task.initial(fresh)
            if given is not fresh:
                state, self.frozen = self.training_step.with_params(state, self.devices.shard(given))
            self.checkpoints.save_frozen(self.frozen)
            return state
        abstract, abstract_frozen = self.devices.abstract(self.training_step.initial)
        state, position = self.checkpoints.restore(self.step, abstract)
        if abstract_frozen:
            self.frozen = self.checkpoints.restore_frozen(abstract_frozen)
        self.batches.seek(position)
        self.positions = [position]
        return state

    def run(self, state: State, log: MetricsLog | None, display: Display) -> State | None:
        """Train to the last step; None if the run was stopped before that, and saved."""
        config = self.config
        state = self.devices.enter(state)
        with ExitStack() as stack:
            stop = stack.enter_context(StopRequests())
            ready = stack.enter_context(prefetch(iter(self.batches), self.task.prefetch))
            while self.step < config.steps and not self.stopped_early:
                batch = next(ready)
                state = self._advance(state, batch.arrays)
                self.step += 1
                self.positions.append(batch.position)
                self.kept_memory.give_back()
                self.speed.count(self.task.tokens(batch.arrays) * self.devices.processes)
                display.advance(self.step)
                if self._due(config.log.every):
                    state = self._log(state, log, display)
                stopping = (stop.asked or stop_requested(self.step)) and self.step < config.steps
                self._evaluate_and_save(state, log, display, stopping)
                if stopping:
                    return None
        return self.devices.leave(state)

    @property
    def stopped_early(self) -> bool:
        """Whether the evaluations since the best step are as many as the task's patience; those before all layers are
        unfrozen do not count. It follows from the checkpoints alone, so a resumed run decides as an uninterrupted one.
        """
        if self.evaluator is None or self.best_step == 0:
            return False
        patience, every = self.evaluator.selection.patience, self.evaluator.every
        if not (patience and every):
            return False
        since = max(self.best_step, self.training_step.all_trained_from)
        return self.step // every - since // every >= patience

    def _advance(self, state: State, arrays: Any) -> State:
        """One step. The time to compile a new shape is left out of the rate."""
        shapes = tuple(array.shape for array in jax.tree.leaves(arrays))
        if shapes in self.compiled_shapes:
            return self.compiled(state, self.frozen, self.devices.put(arrays))
        if not self.compiled_shapes:
            self.speed.restart()  # leave out the wait for the first batch
        self.compiled_shapes.add(shapes)
        jax.block_until_ready(state.step)  # the time of earlier steps counts
        with self.speed.paused():
            return self.compiled(state, self.frozen, self.devices.put(arrays))

    def _due(self, every: int) -> bool:
        return every > 0 and (self.step % every == 0 or self.step == self.config.steps)

    def _evaluate_and_save(self, state: State, log: MetricsLog | None, display: Display, stopping: bool) -> None:
        """Run the evaluators that are due, then save if due, if stopping, or if the step is the best so far."""
        due = [evaluator for evaluator in self.task.evaluators if self._due(evaluator.every)]
        save = self._due(self.config.checkpoint.every) or stopping
        if not (due or save):
            return
        logical = self.devices.leave(state)
        self._check_finite(logical)  # outside the pause: it waits for the steps, and their time counts
        with self.speed.paused():
            params = self.devices.local(params_to_measure(logical, self.frozen)) if due else {}
            measured = {one.name: self._measure(one, params, log, display) for one in due if not one.is_page}
            metrics = measured.get(self.evaluator.name) if self.evaluator else None
            if self.evaluator and metrics:
                metrics |= {SELECTION: self.evaluator.selection.value(metrics)}
                if metrics[SELECTION] < self.best:
                    self.best, self.best_step, save = metrics[SELECTION], self.step, True
            if save or self.stopped_early:
                position = self.devices.whole_position(self.positions[-1])
                self.checkpoints.save(self.step, logical, position, metrics, self.files)
            for evaluator in () if stopping else due:
                if evaluator.is_page:
                    self._show_page(evaluator, params, display)

    def _measure(self, evaluator: Evaluator, params: Params, log: MetricsLog | None, display: Display) -> Metrics:
        """Evaluate on every process; the first process's metrics count for all."""
        metrics = evaluator(params, self.devices.local_devices, display.log)
        assert not isinstance(metrics, str), f"{evaluator.name} is no page"
        metrics = broadcast(metrics)
        self._write(evaluator.name, metrics, log, display)
        return metrics

    def _show_page(self, evaluator: Evaluator, params: Params, display: Display) -> None:
        """Let the first process make and show a page while the others wait."""
        on_first_process(lambda: display.log(str(evaluator(params, self.devices.local_devices, display.log))))

    def _log(self, state: State, log: MetricsLog | None, display: Display) -> State:
        self._check_finite(state)
        totals = jax.device_get(state.totals)
        means = {name: float(total) / max(float(weight), 1e-30) for name, (total, weight) in totals.terms.items()}
        rate = self.speed.rate()
        metrics = self.task.metrics(means) | {
            "learning_rate": float(self.rate(self.step - 1)),
            "gradient_norm": float(totals.gradient_norm),
            "tokens_per_second": rate,
        }
        devices = self.devices.devices
        if (peak := peak_flops(devices[0].device_kind, self.task.model.compute)) is not None:
            metrics["flops_utilization"] = rate * self.task.flops_per_token() / (peak * len(devices))
        self._write("train", metrics, log, display)
        self.speed.restart()
        return state._replace(totals=self.fresh_totals())

    def _write(self, split: str, metrics: Metrics, log: MetricsLog | None, display: Display) -> None:
        if log is not None:
            log.write(self.step, split, metrics)
        display.show(self.step, split, metrics)

    def _check_finite(self, state: State) -> None:
        """Raise NonFinite if a loss or gradient since the last check was not finite. Waits for the device."""
        bad = int(state.totals.bad)
        if bad >= 0:
            # One position a step; the last one is after the current step.
            before = self.step - bad + 2
            shown = "0 (the start)"
            if before <= len(self.positions):
                position = self.positions[-before].items()
                shown = "{" + ", ".join(f"{name}: {np.asarray(value).tolist()}" for name, value in position) + "}"
            self.checkpoints.wait()
            last = self.checkpoints.latest()
            raise NonFinite(
                f"step {bad}: the loss or its gradient is not finite. Its batch is the one after data position {shown}"
                ". Nothing was saved since; the last good checkpoint is "
                f"{'none' if last is None else f'step {last}'}. Try a lower optimizer.learning_rate or a "
                "smaller optimizer.clip_norm in a new run_dir"
            )
        self.positions = self.positions[-1:]


def train(
    config: RunConfig,
    task: Task,
    checkpoints: RunCheckpoints,
    log_line: Log,
    on_start: Callable[[], None] = lambda: None,
    files: Mapping[str, str] | None = None,
) -> bool:
    """Run the loop; True when the last step is done, False if stopped before. Raises NonFinite.

    `on_start` is called once the state is on the devices; `files` are copied into each checkpoint.
    """
    shown, log = is_first_process(), None
    with ExitStack() as stack:
        with stop_together():
            loop = Loop(config, task, checkpoints, files)
            state = loop.start()
            on_start()
            if shown:
                log = MetricsLog(Path(config.run_dir), loop.step, tensorboard=config.log.tensorboard)
                stack.enter_context(log)
                if loop.step == 0 and isinstance(task, DescribesData) and (numbers := task.data_metrics(config.steps)):
                    log.write(0, "data", numbers)
        if loop.step:
            log_line(f"resumed from step {loop.step}")
        display = stack.enter_context(Display(config.steps, loop.step, shown=shown))
        final = loop.run(state, log, display)
    checkpoints.wait()
    if loop.stopped_early and loop.step < config.steps and loop.evaluator is not None:
        chosen = loop.evaluator.selection
        log_line(
            f"stopped early at step {loop.step} of {config.steps}: {chosen.patience} evaluations were no better by "
            f"{chosen.metric} than step {loop.best_step}"
        )
    if final is None:
        log_line(f"stopped at step {loop.step} of {config.steps} and saved; the same command resumes it")
        return False
    return True
