"""The loop: batches through the step, and at its times a line of metrics, an evaluation, a checkpoint."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import jax
import numpy as np

from ctx_jax.checkpoints.runs import RunCheckpoints
from ctx_jax.data.prefetch import prefetch
from ctx_jax.training.config import TrainConfig
from ctx_jax.training.devices import Devices, is_first_host, stop_agreed
from ctx_jax.training.metrics import Display, Metrics, MetricsLog, Speed, peak_flops, recorded
from ctx_jax.training.optimizer import schedule
from ctx_jax.training.signals import StopRequests
from ctx_jax.training.step import State, begun_from, empty_window, initial_state, make_step, measured
from ctx_jax.training.task import Task

Position = dict[str, np.ndarray]


class NonFinite(ArithmeticError):
    """A loss or gradient that is not a number, with the step and the data position it came from."""


class Loop:
    """One run of a task, from wherever its directory says it is to `config.steps`."""

    def __init__(self, config: TrainConfig, task: Task, checkpoints: RunCheckpoints) -> None:
        self.config, self.task, self.checkpoints = config, task, checkpoints
        self.devices = Devices(config.devices, task.rows)
        body = make_step(task, config.optimizer, config.steps, config.seed, config.devices.micro_batches)
        self.compiled = self.devices.compile(body)
        self.fresh_window = self.devices.replicated(lambda: empty_window(task))
        self.rate = schedule(config.optimizer, config.steps)
        self.batches = task.batches(self.devices.first_row, self.devices.host_rows)
        self.speed = Speed()
        self.step = 0
        # Where the data stood before each step not yet known to be finite, and after the last one.
        self.places: list[Position] = []

    def start(self) -> State:
        """The state of the last complete checkpoint, or a new one; the data stands where that state left it."""

        def make() -> State:
            task, config = self.task, self.config
            return initial_state(task, config.optimizer, config.steps, config.seed, task.rows)

        self.step = self.checkpoints.latest() or 0
        if self.step == 0:
            state = self.devices.create(make)
            given = self.task.starting(state.params)
            return state if given is state.params else begun_from(state, self.devices.whole(given))
        state, position = self.checkpoints.restore(self.step, self.devices.abstract(make))
        self.batches.seek(position)
        self.places = [position]
        return state

    def run(self, state: State, log: MetricsLog | None, display: Display) -> State | None:
        """Train to the last step; None when asked to stop before, after saving."""
        config = self.config
        if self.step and self._due(config.evaluate.every) and not recorded(log_path(config), self.step, "valid"):
            self._evaluate(state, log, display)  # the run was stopped between this step and its evaluation
        state = self.devices.enter(state)
        with ExitStack() as stack:
            stop = stack.enter_context(StopRequests())
            ready = stack.enter_context(prefetch(iter(self.batches), max(config.data.prefetch, 1)))
            self.speed.restart()
            first = True
            while self.step < config.steps:
                batch = next(ready)
                state = self.compiled(state, self.devices.put(batch.arrays))
                self.step += 1
                self.places.append(batch.position)
                self.speed.count(self.task.tokens(batch.arrays) * jax.process_count())
                display.advance(self.step)
                if self._due(config.log.every):
                    state = self._log(state, log, display)
                elif first:  # it was compiled: that is not the rate of the steps to come
                    jax.block_until_ready(state.step)
                    self.speed.restart()
                first = False
                stopping = (stop.asked or stop_agreed(self.step)) and self.step < config.steps
                self._keep(state, log, display, stopping)
                if stopping:
                    return None
        return self.devices.leave(state)

    def _due(self, every: int) -> bool:
        return every > 0 and (self.step % every == 0 or self.step == self.config.steps)

    def _keep(self, state: State, log: MetricsLog | None, display: Display, stopping: bool) -> None:
        """Evaluate and save where it is time to; a run that is told to stop saves at once."""
        evaluate = self._due(self.config.evaluate.every) and not stopping
        save = self._due(self.config.checkpoint.every) or stopping
        if not (evaluate or save):
            return
        logical = self.devices.leave(state)
        with self.speed.paused():
            self._check(logical)
            metrics = self._evaluate(logical, log, display) if evaluate else None
            if save:
                self.checkpoints.save(self.step, logical, self.devices.whole_position(self.places[-1]), metrics)

    def _log(self, state: State, log: MetricsLog | None, display: Display) -> State:
        self._check(state)
        window = jax.device_get(state.window)
        means = {name: float(total) / max(float(weight), 1e-30) for name, (total, weight) in window.terms.items()}
        rate = self.speed.rate()
        metrics = self.task.metrics(means) | {
            "learning_rate": float(self.rate(self.step - 1)),
            "gradient_norm": float(window.gradient_norm),
            "tokens_per_second": rate,
        }
        if (peak := peak_flops(self.devices.devices[0])) is not None:
            metrics["flops_utilization"] = rate * self.task.flops_per_token() / (peak * len(self.devices.devices))
        self._write("train", metrics, log, display)
        self.speed.restart()
        return state._replace(window=self.fresh_window())

    def _evaluate(self, state: State, log: MetricsLog | None, display: Display) -> Metrics | None:
        metrics = self.task.evaluate(self.devices.local(measured(state)), self.devices.local_devices)
        if metrics is not None:
            self._write("valid", metrics, log, display)
        return metrics

    def _write(self, split: str, metrics: Metrics, log: MetricsLog | None, display: Display) -> None:
        if log is not None:
            log.write(self.step, split, metrics)
        display.show(self.step, split, metrics)

    def _check(self, state: State) -> None:
        """Stop at a loss or gradient that is not finite, before it is saved. Waits for the device."""
        bad = int(state.window.bad)
        if bad >= 0:
            # One place a step, and the last one is that of the current step.
            before = self.step - bad + 2
            place = self.places[-before] if before <= len(self.places) else None
            self.checkpoints.wait()
            last = self.checkpoints.latest()
            raise NonFinite(
                f"step {bad}: the loss or its gradient is not finite. Its batch is the one after data position "
                f"{_shown(place)}. Nothing was saved since; the last good checkpoint is "
                f"{'none' if last is None else f'step {last}'}. Try a lower --optimizer.learning-rate or a "
                "smaller --optimizer.clip-norm in a new --run-dir"
            )
        self.places = self.places[-1:]


def log_path(config: TrainConfig) -> Path:
    """Where the run's metrics are."""
    return Path(config.run_dir) / "metrics.jsonl"


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
) -> bool:
    """Run the loop on an opened run directory; True when the last step is done, False when stopped before.

    `begin` is called once the state is on the devices. Raises NonFinite, and what data and checkpoints raise.
    """
    loop = Loop(config, task, checkpoints)
    state = loop.start()
    begin()
    if loop.step:
        announce(f"resumed from step {loop.step}")
    shown = is_first_host()
    with ExitStack() as stack:
        run_dir = Path(config.run_dir)
        log = stack.enter_context(MetricsLog(run_dir, loop.step, tensorboard=config.log.tensorboard)) if shown else None
        display = stack.enter_context(Display(config.steps, loop.step, shown=shown))
        final = loop.run(state, log, display)
    checkpoints.wait()
    if final is None:
        announce(f"stopped at step {loop.step} of {config.steps} and saved; the same command goes on from there")
        return False
    if shown:
        task.report(loop.devices.local(measured(final)), announce)
    return True
