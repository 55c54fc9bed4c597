"""The loop: batches through the step, and at its times a line of metrics, an evaluation, a checkpoint.

A step at which an evaluation is due is evaluated before it is saved, also when the run is told to stop there, and is
saved where its validation loss is the lowest so far, checkpoint due or not: the best checkpoint is the best step that
was ever measured. A step saved between two evaluations was not measured, and is not the best.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import jax
import numpy as np

from ctx_jax.checkpoints.runs import RunCheckpoints
from ctx_jax.data.prefetch import prefetch
from ctx_jax.distributed.processes import broadcast_numbers, stop_together
from ctx_jax.io.errors import CtxJaxError
from ctx_jax.training.config import TrainConfig
from ctx_jax.training.devices import Devices, agreed_step, is_first_host, stop_agreed
from ctx_jax.training.metrics import Display, Metrics, MetricsLog, Speed, peak_flops
from ctx_jax.training.optimizer import schedule
from ctx_jax.training.signals import StopRequests
from ctx_jax.training.step import State, begun_from, initial_state, make_step, params_to_measure, zero_totals
from ctx_jax.training.task import Task

Position = dict[str, np.ndarray]


class NonFinite(CtxJaxError, ArithmeticError):
    """A loss or gradient that is not a number, with the step and the data position it came from."""


class Loop:
    """One run of a task, from wherever its directory says it is to `config.steps`."""

    def __init__(
        self, config: TrainConfig, task: Task, checkpoints: RunCheckpoints, files: Mapping[str, str] | None = None
    ) -> None:
        """`files`: what each checkpoint keeps beside the state, see `RunCheckpoints.save`."""
        self.config, self.task, self.checkpoints, self.files = config, task, checkpoints, files
        self.devices = Devices(config.devices, task.rows)
        body = make_step(task, config.optimizer, config.steps, config.seed, config.devices.micro_batches)
        self.compiled = self.devices.compile(body)
        self.fresh_totals = self.devices.replicated(lambda: zero_totals(task))
        self.rate = schedule(config.optimizer, config.steps)
        self.batches = task.batches(self.devices.first_row, self.devices.host_rows)
        self.speed = Speed()
        self.step = 0
        self.best_loss = math.inf  # validation loss of a step that was saved
        self.compiled_shapes: set[tuple[tuple[int, ...], ...]] = set()  # of batches
        # Where the data stood before each step not yet known to be finite, and after the last one.
        self.positions: list[Position] = []

    def start(self) -> State:
        """The state of the last complete checkpoint, or a new one; the data stands where that state left it."""

        def make() -> State:
            task, config = self.task, self.config
            return initial_state(task, config.optimizer, config.steps, config.seed, task.rows)

        self.step = agreed_step(self.checkpoints.latest()) or 0
        best = self.checkpoints.best()
        losses = self.checkpoints.metrics(best) if best is not None else None
        self.best_loss = broadcast_numbers({"loss": _finite((losses or {}).get("loss", math.inf))})["loss"]
        if self.step == 0:
            state = self.devices.create(make)
            given = self.task.starting(state.params)
            return state if given is state.params else begun_from(state, self.devices.lay(given))
        state, position = self.checkpoints.restore(self.step, self.devices.abstract(make))
        self.batches.seek(position)
        self.positions = [position]
        return state

    def run(self, state: State, log: MetricsLog | None, display: Display) -> State | None:
        """Train to the last step; None when asked to stop before, after saving."""
        config = self.config
        state = self.devices.enter(state)
        with ExitStack() as stack:
            stop = stack.enter_context(StopRequests())
            ready = stack.enter_context(prefetch(iter(self.batches), config.data.prefetch))
            while self.step < config.steps:
                batch = next(ready)
                state = self._advance(state, batch.arrays)
                self.step += 1
                self.positions.append(batch.position)
                self.speed.count(self.task.tokens(batch.arrays) * self.devices.hosts)
                display.advance(self.step)
                if self._due(config.log.every):
                    state = self._log(state, log, display)
                stopping = (stop.asked or stop_agreed(self.step)) and self.step < config.steps
                self._keep(state, log, display, stopping)
                if stopping:
                    return None
        return self.devices.leave(state)

    def _advance(self, state: State, arrays: dict[str, np.ndarray]) -> State:
        """One step. New shapes are compiled here, which is not the rate of the steps to come."""
        shapes = tuple(array.shape for array in arrays.values())
        if shapes in self.compiled_shapes:
            return self.compiled(state, self.devices.put(arrays))
        if not self.compiled_shapes:
            self.speed.restart()  # the first batch is here
        self.compiled_shapes.add(shapes)
        jax.block_until_ready(state.step)  # the steps before do count
        with self.speed.paused():
            return self.compiled(state, self.devices.put(arrays))

    def _due(self, every: int) -> bool:
        return every > 0 and (self.step % every == 0 or self.step == self.config.steps)

    def _keep(self, state: State, log: MetricsLog | None, display: Display, stopping: bool) -> None:
        """Evaluate, then save, where it is time to; a run that is told to stop saves."""
        evaluate = self._due(self.config.evaluate.every)
        save = self._due(self.config.checkpoint.every) or stopping
        if not (evaluate or save):
            return
        logical = self.devices.leave(state)
        self._check(logical)  # before the pause: it waits for the steps, whose time counts as their tokens do
        with self.speed.paused():
            metrics = self._evaluate(logical, log, display) if evaluate else None
            if metrics is not None and metrics["loss"] < self.best_loss:
                self.best_loss, save = metrics["loss"], True
            if save:
                position = self.devices.whole_position(self.positions[-1])
                self.checkpoints.save(self.step, logical, position, metrics, self.files)

    def _log(self, state: State, log: MetricsLog | None, display: Display) -> State:
        self._check(state)
        totals = jax.device_get(state.totals)
        means = {name: float(total) / max(float(weight), 1e-30) for name, (total, weight) in totals.terms.items()}
        rate = self.speed.rate()
        metrics = self.task.metrics(means) | {
            "learning_rate": float(self.rate(self.step - 1)),
            "gradient_norm": float(totals.gradient_norm),
            "tokens_per_second": rate,
        }
        devices = self.devices.devices
        if (peak := peak_flops(devices[0].device_kind, self.config.model.compute)) is not None:
            metrics["flops_utilization"] = rate * self.task.flops_per_token() / (peak * len(devices))
        self._write("train", metrics, log, display)
        self.speed.restart()
        return state._replace(totals=self.fresh_totals())

    def _evaluate(self, state: State, log: MetricsLog | None, display: Display) -> Metrics | None:
        params = self.devices.local(params_to_measure(state))
        metrics = self.task.evaluate(params, self.devices.local_devices, display.say)
        if metrics is not None:
            metrics = broadcast_numbers(metrics)
            self._write("valid", metrics, log, display)
        return metrics

    def _write(self, split: str, metrics: Metrics, log: MetricsLog | None, display: Display) -> None:
        if log is not None:
            log.write(self.step, split, metrics)
        display.show(self.step, split, metrics)

    def _check(self, state: State) -> None:
        """Stop at a loss or gradient that is not finite, before it is saved. Waits for the device."""
        bad = int(state.totals.bad)
        if bad >= 0:
            # One position a step, and the last one is that of the current step.
            before = self.step - bad + 2
            position = self.positions[-before] if before <= len(self.positions) else None
            self.checkpoints.wait()
            last = self.checkpoints.latest()
            raise NonFinite(
                f"step {bad}: the loss or its gradient is not finite. Its batch is the one after data position "
                f"{_shown(position)}. Nothing was saved since; the last good checkpoint is "
                f"{'none' if last is None else f'step {last}'}. Try a lower --optimizer.learning-rate or a "
                "smaller --optimizer.clip-norm in a new --run-dir"
            )
        self.positions = self.positions[-1:]


def _finite(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


def _shown(place: Position | None) -> str:
    if place is None:
        return "0 (the start)"
    return "{" + ", ".join(f"{name}: {np.asarray(value).tolist()}" for name, value in place.items()) + "}"


def train(
    config: TrainConfig,
    task: Task,
    checkpoints: RunCheckpoints,
    announce: Callable[[str], None],
    begin: Callable[[], None] = lambda: None,
    files: Mapping[str, str] | None = None,
) -> bool:
    """Run the loop on an opened run directory; True when the last step is done, False when stopped before.

    `begin` is called once the state is on the devices; `files` are kept with each checkpoint. Raises NonFinite, and
    what data and checkpoints raise.
    """
    shown, log = is_first_host(), None
    with ExitStack() as stack:
        with stop_together():
            loop = Loop(config, task, checkpoints, files)
            state = loop.start()
            begin()
            if shown:
                log = MetricsLog(Path(config.run_dir), loop.step, tensorboard=config.log.tensorboard)
                stack.enter_context(log)
        if loop.step:
            announce(f"resumed from step {loop.step}")
        display = stack.enter_context(Display(config.steps, loop.step, shown=shown))
        final = loop.run(state, log, display)
    checkpoints.wait()
    if final is None:
        announce(f"stopped at step {loop.step} of {config.steps} and saved; the same command goes on from there")
        return False
    params = loop.devices.local(params_to_measure(final))
    if shown:
        task.report(params, announce)
    return True
