"""A whole run in one process: what it writes, where it stops, how it resumes."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from ctx_jax.checkpoints.runs import RunCheckpoints
from ctx_jax.data.batch import Batch, BiLMBatch
from ctx_jax.data.config import BiLMData
from ctx_jax.encoders.elmo import BiLM
from ctx_jax.tasks import TrainConfig
from ctx_jax.tasks.bilm import BiLMConfig, BiLMEvaluate, BiLMTask
from ctx_jax.tokenizers.vocabulary import Vocabulary
from ctx_jax.training import metrics
from ctx_jax.training.config import CheckpointConfig, DevicesConfig, LogConfig
from ctx_jax.training.devices import Devices
from ctx_jax.training.loop import Loop, NonFinite, train
from ctx_jax.training.optimizer import AdamW
from ctx_jax.training.task import Selection

WORDS = Vocabulary(("<S>", "</S>", "<UNK>", *"abcdefghijklm"))
STEPS = 6
METRICS = {"loss", "forward_perplexity", "backward_perplexity", "perplexity"}


def sentences(seed: int, count: int) -> list[list[str]]:
    random = np.random.default_rng(seed)
    return [[WORDS.words[word] for word in random.integers(3, 16, random.integers(1, 7))] for _ in range(count)]


def configured(run_dir: Path, **changes: object) -> TrainConfig:
    config = TrainConfig(
        task=BiLMConfig(
            model=BiLM(token_input="words", vocabulary=16, dim=4, projection=3, depth=1, dropout=0.2),
            data=BiLMData(batch_size=8, unroll_steps=3),
            evaluate=BiLMEvaluate(every=3),
            zero_start=0.3,
            negatives=5,
        ),
        optimizer=AdamW(learning_rate=0.02, warmup=2),
        devices=DevicesConfig(count=1),
        checkpoint=CheckpointConfig(every=2),
        log=LogConfig(every=1),
        run_dir=str(run_dir),
        steps=STEPS,
        seed=3,
    )
    return replace(config, **changes)


class Task(BiLMTask):
    """The biLM's task with uneven weights, and hooks: a signal after a batch, or a batch whose loss is not finite."""

    signal_after = 0
    stop_by = signal.SIGTERM
    infinite_batch = 0

    def batches(self, first: int, count: int) -> Any:
        plain, task = super().batches(first, count), self

        class Hooked:
            given = 0

            def seek(self, position: dict) -> None:
                plain.seek(position)

            def __iter__(self) -> "Hooked":
                return self

            def __next__(self) -> Batch:
                batch, self.given = next(plain), self.given + 1
                weights = (batch.arrays.forward_targets % 5 > 0).astype(np.float32)  # uneven over the rows
                if self.given == task.infinite_batch:
                    weights[:] = np.inf
                return batch._replace(arrays=batch.arrays._replace(weights=weights))

        return Hooked()

    def tokens(self, arrays: BiLMBatch) -> int:
        if self.signal_after:
            type(self).signal_after -= 1
            if self.signal_after == 0:
                os.kill(os.getpid(), self.stop_by)
        return super().tokens(arrays)


def opened(config: TrainConfig, kind: type[Task] = Task) -> Task:
    assert isinstance(config.task, BiLMConfig)
    return kind(config.task, config.seed, sentences(0, 30), sentences(1, 12), WORDS)  # type: ignore[arg-type]


def go(config: TrainConfig, kind: type[Task] = Task) -> tuple[bool, str]:
    logged: list[str] = []
    with RunCheckpoints(Path(config.run_dir) / "checkpoints", clean=True) as checkpoints:
        done = train(config, opened(config, kind), checkpoints, logged.append)
    return done, "\n".join(logged)


def lines(run_dir: Path, split: str = "train") -> list[dict]:
    found = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["split"] == split]


def losses(run_dir: Path, split: str = "train") -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in lines(run_dir, split)]


def parameters(run_dir: Path, step: int = STEPS) -> dict:
    with RunCheckpoints(run_dir / "checkpoints") as checkpoints:
        return jax.device_get(checkpoints.restore_params(step))


@pytest.fixture(scope="module")
def clock() -> list[str]:
    """When the run of `whole` waited for its steps, and when its clock was paused."""
    return []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, clock: list[str]) -> Path:
    """An uninterrupted run, on devices whose peak is known."""
    run_dir = tmp_path_factory.mktemp("whole")
    check, pause = Loop._check_finite, metrics.Speed.paused

    @contextmanager
    def paused(speed: metrics.Speed) -> Iterator[None]:
        clock.append("paused")
        with pause(speed):
            yield
        clock.append("counting")

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(metrics.PEAKS, jax.devices()[0].device_kind, (1.0, 5e9))
        patch.setattr(metrics.Speed, "paused", paused)
        patch.setattr(Loop, "_check_finite", lambda loop, state: clock.append("waited") or check(loop, state))
        done, _ = go(configured(run_dir))
    assert done
    return run_dir


@pytest.mark.slow
def test_every_line_has_the_fields_it_must_have(whole: Path) -> None:
    for number, line in enumerate(lines(whole), 1):
        fields = {"step", "split", "learning_rate", "gradient_norm", "tokens_per_second"} | METRICS
        assert line.keys() == fields | {"flops_utilization"} and line["step"] == number
        # Forward and backward pass, two directions: gates, projection, the target and 5 negatives; the float32 peak.
        flops = 6 * 2 * ((3 + 3) * 4 * 4 + 4 * 3 + 6 * 3)
        assert line["flops_utilization"] == pytest.approx(line["tokens_per_second"] * flops / 5e9)
        mean = (np.log(line["forward_perplexity"]) + np.log(line["backward_perplexity"])) / 2
        np.testing.assert_allclose([line["loss"], np.log(line["perplexity"])], mean, rtol=1e-6)
    assert lines(whole)[0]["learning_rate"] == pytest.approx(0.01)
    assert [line["step"] for line in lines(whole, "valid")] == [3, 6]
    assert all(line.keys() >= METRICS for line in lines(whole, "valid"))


def test_the_clock_is_paused_only_after_waiting_for_the_steps(whole: Path, clock: list[str]) -> None:
    """Waiting inside would leave out the time of steps whose tokens count. The first pause is the compilation's."""
    pauses = [at for at, what in enumerate(clock) if what == "paused"]
    assert len(pauses) == 1 + len({2, 3, 4, 6}), "checkpoints every 2 steps, evaluations every 3"
    assert all(clock[at + 1] == "counting" for at in pauses)
    assert all(clock[at - 1] == "waited" for at in pauses[1:])


@pytest.mark.slow
def test_sigterm_saves_and_a_resumed_run_equals_an_uninterrupted_one(whole: Path, tmp_path: Path) -> None:
    class Stopped(Task):
        signal_after = 3  # where an evaluation is due: it comes before the save

    done, logged = go(configured(tmp_path), Stopped)
    assert not done and "stopped at step 3" in logged
    with RunCheckpoints(tmp_path / "checkpoints") as checkpoints:
        assert [(3, checkpoints.metrics(3)["loss"])] == losses(tmp_path, "valid") == losses(whole, "valid")[:1]
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "split": "train", "loss": 1.0}\n{"step": 5, "spl')
    done, logged = go(configured(tmp_path))
    assert done and "resumed from step 3" in logged
    for split in ("train", "valid"):
        assert losses(tmp_path, split) == losses(whole, split)
    jax.tree.map(np.testing.assert_array_equal, parameters(tmp_path), parameters(whole))


@pytest.mark.slow
def test_eight_devices_then_four_under_pmap_then_one_give_the_same_losses(whole: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)  # ignored, where a shell started the tests in the background
    for mode, count, stop in (("shard", 8, 2), ("pmap", 4, 2), ("shard", 1, 0)):
        # Ctrl-C on a run of its own, after which SIGTERM and Ctrl-C do again what they did before.
        kind = type("Stopped", (Task,), {"signal_after": stop, "stop_by": signal.SIGINT})
        config = configured(tmp_path, devices=DevicesConfig(mode, count))  # type: ignore[arg-type]
        assert go(config, kind)[0] == (stop == 0)
        assert signal.getsignal(signal.SIGINT) is before
    np.testing.assert_allclose(losses(tmp_path), losses(whole), rtol=2e-5)
    np.testing.assert_allclose(losses(tmp_path, "valid"), losses(whole, "valid"), rtol=2e-5)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_and_nothing_of_it_is_saved(tmp_path: Path) -> None:
    class Broken(Task):
        infinite_batch = 5

    with pytest.raises(NonFinite, match=r"step 5: .*after data position \{epoch: .*last good checkpoint is step 4"):
        go(configured(tmp_path, log=LogConfig(every=4)), Broken)
    with RunCheckpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest() == 4
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(checkpoints.restore_params(4)))
    assert [line["step"] for line in lines(tmp_path)] == [4]


@pytest.mark.slow
def test_a_line_holds_the_means_over_the_targets_since_the_line_before(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    class Timed(Task):
        def tokens(self, arrays: BiLMBatch) -> int:
            clock[0] += 1
            return super().tokens(arrays)

    def compiled(self: Devices, step: Any) -> object:
        run_step, cost = compile_step(self, step), [100]

        def run(*arguments: object) -> object:
            clock[0] += cost.pop() if cost else 0
            return run_step(*arguments)

        return run

    compile_step = Devices.compile
    monkeypatch.setattr(Devices, "compile", compiled)
    monkeypatch.setattr(metrics, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    config = configured(tmp_path, log=LogConfig(every=3))
    go(config, Timed)
    task = opened(config)
    weights = [batch.arrays.weights.sum() for batch in islice(task.batches(0, 8), STEPS)]
    assert len(set(weights)) > 1
    single = [loss for _, loss in losses(whole)]
    expected = [(last, np.average(single[last - 3 : last], weights=weights[last - 3 : last])) for last in (3, 6)]
    np.testing.assert_allclose(losses(tmp_path), expected, rtol=1e-5)
    tokens = [task.tokens(batch.arrays) for batch in islice(task.batches(0, 8), STEPS)]
    rates = [line["tokens_per_second"] for line in lines(tmp_path)]
    np.testing.assert_allclose(rates, [sum(tokens[:3]) / 3, sum(tokens[3:]) / 3])  # a second a step, none to compile


def test_the_best_checkpoint_is_the_one_with_the_lowest_validation_loss(whole: Path) -> None:
    with RunCheckpoints(whole / "checkpoints") as checkpoints:
        assert checkpoints.steps() == [3, 4, 6]  # 2, 4, 6 are due; 3 had the lowest validation loss so far
        assert checkpoints.metrics(3)["loss"] == losses(whole, "valid")[0][1]
        assert checkpoints.metrics(6)["loss"] == losses(whole, "valid")[-1][1]
        assert checkpoints.best() == 6


class Recorded(NamedTuple):
    """An evaluator that records its calls; its metrics are lowest at the second."""

    name: str
    every: int
    is_page: bool
    calls: list[dict]
    selection: Selection = Selection()

    def __call__(self, params: dict, devices: object, log: Callable[[str], None]) -> dict[str, float] | str:
        self.calls.append(params)
        return f"page {self.name}" if self.is_page else {"loss": abs(len(self.calls) - 2.0)}


@pytest.mark.slow
def test_each_evaluator_runs_by_its_own_every_and_never_with_0(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = {"page": (4, True), "valid": (2, False), "other": (3, False), "no_page": (0, True), "none": (0, False)}
    recorded = [Recorded(name, every, is_page, []) for name, (every, is_page) in rates.items()]

    class Evaluated(Task):
        evaluators = recorded  # type: ignore[assignment]

    assert go(configured(tmp_path), Evaluated)[0]
    for split, steps in {"valid": [2, 4, 6], "other": [3, 6], "page": [], "none": []}.items():
        assert [line["step"] for line in lines(tmp_path, split)] == steps
    printed = capsys.readouterr().out
    assert printed.count("page page") == 2 and "no_page" not in printed  # after step 4 and at the end
    assert [len(each.calls) for each in recorded] == [2, 3, 2, 0, 0]
    for found in (each.calls[-1] for each in recorded[:3]):
        jax.tree.map(np.testing.assert_array_equal, found, parameters(tmp_path))
    with RunCheckpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.best() == 4, "the first evaluator that gives metrics decides"
    assert losses(tmp_path) == losses(whole), "evaluators change nothing of the training"


@pytest.mark.slow
def test_a_run_told_to_stop_is_measured_and_shows_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Stopped(Task):
        signal_after = 2
        evaluators = [Recorded("page", 2, True, []), Recorded("valid", 2, False, [])]  # noqa: RUF012

    assert not go(configured(tmp_path), Stopped)[0]
    assert [line["step"] for line in lines(tmp_path, "valid")] == [2]
    assert "page page" not in capsys.readouterr().out
