"""A run as a whole, in one process: what it writes, where it stops, how it goes on."""

import json
import os
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctx_jax import losses as losses_of
from ctx_jax.checkpoints.runs import RunCheckpoints
from ctx_jax.data.batch import Batch
from ctx_jax.data.config import DataConfig
from ctx_jax.encoders.elmo import model as bilm
from ctx_jax.encoders.elmo.model import BiLM
from ctx_jax.io.configs import differences
from ctx_jax.tasks.bilm import BiLMTask
from ctx_jax.tokenizers.vocabulary import Vocabulary
from ctx_jax.training import metrics
from ctx_jax.training.config import (
    CheckpointConfig,
    DevicesConfig,
    EvaluateConfig,
    LogConfig,
    TrainConfig,
    check_config,
    check_resume,
)
from ctx_jax.training.devices import Devices, fix_kernels
from ctx_jax.training.loop import Loop, NonFinite, train
from ctx_jax.training.optimizer import Adagrad, AdamW

WORDS = Vocabulary(("<S>", "</S>", "<UNK>", *"abcdefghijklm"))
STEPS = 6
EVERY_TRAIN = {"loss", "forward_perplexity", "backward_perplexity", "perplexity"}


def sentences(seed: int, count: int) -> list[list[str]]:
    random = np.random.default_rng(seed)
    return [[WORDS.words[word] for word in random.integers(3, 16, random.integers(1, 7))] for _ in range(count)]


def configured(run_dir: Path, **changes: object) -> TrainConfig:
    config = TrainConfig(
        model=BiLM(16, "words", dim=4, projection=3, layers=1, dropout=0.2, zero_start=0.3, negatives=5),
        data=DataConfig(lanes=8, window=3),
        optimizer=AdamW(learning_rate=0.02, warmup=2),
        devices=DevicesConfig(count=1),
        checkpoint=CheckpointConfig(every=2),
        evaluate=EvaluateConfig(every=3),
        log=LogConfig(every=1),
        run_dir=str(run_dir),
        steps=STEPS,
        seed=3,
    )
    return replace(config, **changes)


class Task(BiLMTask):
    """The biLM's task with hooks: a signal after a batch, or a batch that gives no number."""

    signal_after = 0
    stop_by = signal.SIGTERM
    weights_end_at = 0

    def batches(self, first: int, count: int):  # type: ignore[no-untyped-def]
        windows = super().batches(first, count)
        task = self

        class Hooked:
            given = 0

            def seek(self, position: dict) -> None:
                windows.seek(position)

            def __iter__(self) -> "Hooked":
                return self

            def __next__(self) -> Batch:
                batch, self.given = next(windows), self.given + 1
                weight = (batch.arrays["next_token_id"] % 5 > 0).astype(np.float32)  # uneven over lanes
                if self.given == task.weights_end_at:
                    weight[:] = np.inf
                return batch._replace(arrays=batch.arrays | {"weight": weight})

        return Hooked()

    def tokens(self, arrays: dict) -> int:
        if self.signal_after:
            type(self).signal_after -= 1
            if self.signal_after == 0:
                os.kill(os.getpid(), self.stop_by)
        return super().tokens(arrays)


def go(config: TrainConfig, kind: type[Task] = Task) -> tuple[bool, str]:
    task = kind(config.model, config.data, config.seed, sentences(0, 30), sentences(1, 12), WORDS)
    said: list[str] = []
    with RunCheckpoints(Path(config.run_dir) / "checkpoints", clean=True) as checkpoints:
        done = train(config, task, checkpoints, said.append)
    return done, "\n".join(said)


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
    """When the run of `whole` waited for its steps, and when its clock stood still."""
    return []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, clock: list[str]) -> Path:
    """A run that nothing interrupted, on devices whose peak is known."""
    run_dir = tmp_path_factory.mktemp("whole")
    check, pause = Loop._check, metrics.Speed.paused

    @contextmanager
    def paused(speed: metrics.Speed) -> Iterator[None]:
        clock.append("paused")
        with pause(speed):
            yield
        clock.append("counting")

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(metrics.PEAKS, jax.devices()[0].device_kind, (1.0, 5e9))
        patch.setattr(metrics.Speed, "paused", paused)
        patch.setattr(Loop, "_check", lambda loop, state: clock.append("waited") or check(loop, state))
        done, _ = go(configured(run_dir))
    assert done
    return run_dir


def test_every_line_has_the_fields_it_must_have(whole: Path) -> None:
    for number, line in enumerate(lines(whole), 1):
        fields = {"step", "split", "learning_rate", "gradient_norm", "tokens_per_second"} | EVERY_TRAIN
        assert line.keys() == fields | {"flops_utilization"} and line["step"] == number
        # Forward and backward pass, two directions: gates, projection, the target and 5 negatives; the float32 peak.
        flops = 6 * 2 * ((3 + 3) * 4 * 4 + 4 * 3 + 6 * 3)
        assert line["flops_utilization"] == pytest.approx(line["tokens_per_second"] * flops / 5e9)
        mean = (np.log(line["forward_perplexity"]) + np.log(line["backward_perplexity"])) / 2
        np.testing.assert_allclose([line["loss"], np.log(line["perplexity"])], mean, rtol=1e-6)
    assert lines(whole)[0]["learning_rate"] == pytest.approx(0.01)
    assert [line["step"] for line in lines(whole, "valid")] == [3, 6]
    assert all(line.keys() >= EVERY_TRAIN for line in lines(whole, "valid"))


def test_what_the_clock_leaves_out_begins_when_the_steps_are_done(whole: Path, clock: list[str]) -> None:
    """Waiting inside would leave out the time of steps whose tokens count. The first pause is the compilation's."""
    pauses = [at for at, what in enumerate(clock) if what == "paused"]
    assert len(pauses) == 1 + len({2, 3, 4, 6}), "checkpoints every 2 steps, evaluations every 3"
    assert all(clock[at + 1] == "counting" for at in pauses)
    assert all(clock[at - 1] == "waited" for at in pauses[1:])


def test_sigterm_saves_and_the_same_command_goes_on_as_if_nothing_had_been(whole: Path, tmp_path: Path) -> None:
    class Stopped(Task):
        signal_after = 3  # where an evaluation is due: it comes before the save

    done, said = go(configured(tmp_path), Stopped)
    assert not done and "stopped at step 3" in said
    with RunCheckpoints(tmp_path / "checkpoints") as checkpoints:
        assert [(3, checkpoints.metrics(3)["loss"])] == losses(tmp_path, "valid") == losses(whole, "valid")[:1]
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "split": "train", "loss": 1.0}\n{"step": 5, "spl')
    done, said = go(configured(tmp_path))
    assert done and "resumed from step 3" in said
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


def test_a_loss_that_is_not_finite_stops_and_nothing_of_it_is_saved(tmp_path: Path) -> None:
    class Broken(Task):
        weights_end_at = 5

    with pytest.raises(NonFinite, match=r"step 5: .*after data position \{epoch: .*last good checkpoint is step 4"):
        go(configured(tmp_path, log=LogConfig(every=4)), Broken)
    with RunCheckpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest() == 4
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(checkpoints.restore_params(4)))
    assert [line["step"] for line in lines(tmp_path)] == [4]


def test_a_line_holds_the_means_over_the_targets_since_the_line_before(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    class Timed(Task):
        def tokens(self, arrays: dict) -> int:
            clock[0] += 1
            return super().tokens(arrays)

    def compiled(self: Devices, body: object) -> object:
        step, cost = compile_step(self, body), [100]

        def run(*arguments: object) -> object:
            clock[0] += cost.pop() if cost else 0
            return step(*arguments)

        return run

    compile_step = Devices.compile
    monkeypatch.setattr(Devices, "compile", compiled)
    monkeypatch.setattr(metrics, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    config = configured(tmp_path, log=LogConfig(every=3))
    go(config, Timed)
    task = Task(config.model, config.data, config.seed, sentences(0, 30), None, WORDS)
    weights = [batch.arrays["weight"].sum() for batch in islice(task.batches(0, 8), STEPS)]
    assert len(set(weights)) > 1
    single = [loss for _, loss in losses(whole)]
    expected = [(last, np.average(single[last - 3 : last], weights=weights[last - 3 : last])) for last in (3, 6)]
    np.testing.assert_allclose(losses(tmp_path), expected, rtol=1e-5)
    tokens = [task.tokens(batch.arrays) for batch in islice(task.batches(0, 8), STEPS)]
    rates = [line["tokens_per_second"] for line in lines(tmp_path)]
    np.testing.assert_allclose(rates, [sum(tokens[:3]) / 3, sum(tokens[3:]) / 3])  # a second a step, none to compile


def test_a_window_may_begin_from_a_zero_state_row_by_row() -> None:
    model = BiLM(16, "words", dim=4, projection=3, layers=1, dropout=0.0, zero_start=0.5)
    names = ("token_ids", "token_ids_reverse", "next_token_id", "next_token_id_reverse")
    batch = dict.fromkeys(names, jnp.ones((8, 1), jnp.int32)) | {"row": jnp.arange(8, dtype=jnp.int32)}
    params, key = jax.jit(lambda: bilm.init(model, jax.random.key(0)))(), jax.random.key(1)

    def after(carry: object, key: jax.Array | None) -> np.ndarray:
        _, left = jax.jit(lambda: losses_of.bilm(model, params, batch, carry, key=key))()
        return np.asarray(left["forward"][0]["c"])

    ones = jax.tree.map(jnp.ones_like, bilm.zero_carry(model, 8))
    drawn, zero, carried = after(ones, key), after(None, key), after(ones, None)
    fresh = np.isclose(drawn, zero, atol=1e-6).all(axis=1)
    assert 0 < fresh.sum() < 8
    np.testing.assert_allclose(drawn[~fresh], carried[~fresh], atol=1e-6)


def test_the_best_checkpoint_is_the_one_with_the_lowest_validation_loss(whole: Path) -> None:
    with RunCheckpoints(whole / "checkpoints") as checkpoints:
        assert checkpoints.steps() == [3, 4, 6]  # 2, 4, 6 are due; 3 had the lowest validation loss so far
        assert checkpoints.metrics(3)["loss"] == losses(whole, "valid")[0][1]
        assert checkpoints.metrics(6)["loss"] == losses(whole, "valid")[-1][1]
        assert checkpoints.best() == 6


def refusal(old: TrainConfig, new: TrainConfig) -> str:
    try:
        check_resume(old, new, differences(old, new))
    except ValueError as error:
        return str(error)
    return ""


def test_only_the_settings_that_compute_nothing_may_change_on_resume(tmp_path: Path) -> None:
    old = configured(tmp_path)
    free = replace(
        old,
        devices=DevicesConfig("pmap", 2, 2),
        log=LogConfig(7),
        checkpoint=CheckpointConfig(9),
        evaluate=EvaluateConfig(8),
    )
    assert refusal(old, free) == ""
    said = refusal(old, replace(old, model=replace(old.model, dim=5), seed=4))
    assert "model.dim: the run has 4, this command 5" in said and "seed: the run has 3, this command 4" in said
    assert "steps: the run has 6, this command 7" in refusal(old, replace(old, steps=7))  # cosine
    constant = replace(old, optimizer=Adagrad())
    assert refusal(constant, replace(constant, steps=7)) == ""
    assert "steps" in refusal(constant, replace(constant, steps=5))
    assert "optimizer.type: the run has 'AdamW', this command 'Adagrad'" in refusal(old, constant)


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"steps": 0}, "--steps"),
        ({"seed": -1}, "--seed"),
        ({"seed": 2**32}, "--seed"),
        ({"log": LogConfig(every=0)}, "--log.every"),
        *(({"data": DataConfig(**{name: 0})}, f"--data.{name}") for name in ("lanes", "window", "prefetch")),
        ({"data": DataConfig(vocabulary_size=-1)}, "--data.vocabulary-size"),
        ({"data": DataConfig(minimum_count=0)}, "--data.minimum-count"),
        *(({"evaluate": EvaluateConfig(**{name: -1})}, f"--evaluate.{name}") for name in ("every", "sentences")),
        *(({"checkpoint": CheckpointConfig(**{name: 0})}, f"--checkpoint.{name}") for name in ("every", "keep")),
        ({"devices": DevicesConfig(count=-1)}, "--devices.count"),
        ({"devices": DevicesConfig(micro_batches=0)}, "--devices.micro-batches"),
        ({"optimizer": AdamW(clip_norm=-1.0)}, "--optimizer.clip-norm"),
        ({"optimizer": AdamW(learning_rate=float("nan"))}, "--optimizer.learning-rate"),
    ],
)
def test_settings_no_run_can_follow_are_refused_by_flag(changes: dict, named: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=named):
        check_config(configured(tmp_path, **changes))


def test_a_mesh_holds_the_devices_in_the_order_of_their_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    ordered = jax.devices()
    monkeypatch.setattr(jax, "devices", lambda: ordered[::-1])
    assert list(Devices(DevicesConfig(), 8).mesh.devices) == ordered


@pytest.mark.parametrize("name", ["plain", "with a space", "somebody's own"])
def test_deterministic_adds_to_the_flags_of_xla_and_keeps_its_choices(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / name
    monkeypatch.setenv("XLA_FLAGS", "--xla_one=1")
    fix_kernels(DevicesConfig(), run_dir)
    assert os.environ["XLA_FLAGS"] == "--xla_one=1"
    fix_kernels(DevicesConfig(deterministic=True), run_dir)
    first, operations, choices = shlex.split(os.environ["XLA_FLAGS"])  # XLA splits as a shell does
    assert (first, operations) == ("--xla_one=1", "--xla_gpu_deterministic_ops=true")
    assert Path(choices.split("=")[1]) == run_dir / "autotune"
