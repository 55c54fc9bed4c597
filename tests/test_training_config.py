"""The settings of a run: refused by field, compared on resume; where its devices and its kernels come from."""

import os
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import pytest

from ctx_jax.data.config import BiLMData
from ctx_jax.encoders.elmo import BiLM
from ctx_jax.io.configs import differences
from ctx_jax.io.errors import ConfigError
from ctx_jax.tasks import TrainConfig
from ctx_jax.tasks.bilm import BiLMConfig, BiLMEvaluate
from ctx_jax.training.config import CheckpointConfig, DevicesConfig, LogConfig, check_config, check_resume
from ctx_jax.training.devices import Devices, fix_kernels
from ctx_jax.training.optimizer import Adagrad, AdamW

CONFIG = TrainConfig(task=BiLMConfig(model=BiLM(dim=4, projection=3)), optimizer=AdamW(warmup=2), steps=6, seed=3)


def refusal(old: TrainConfig, new: TrainConfig) -> tuple[str, str]:
    """(field, message) of the ConfigError of a resume; empty where it is allowed."""
    try:
        check_resume(old, new, differences(old, new))
    except ConfigError as error:
        return error.field, str(error)
    return "", ""


def test_only_the_settings_that_compute_nothing_may_change_on_resume() -> None:
    old, task = CONFIG, CONFIG.task
    assert isinstance(task, BiLMConfig)
    free = replace(
        old,
        task=replace(task, evaluate=BiLMEvaluate(every=8, neighbours=3)),
        devices=DevicesConfig("pmap", 2, 2),
        log=LogConfig(7),
        checkpoint=CheckpointConfig(9),
    )
    assert refusal(old, free) == ("", "")
    wider = replace(task, model=replace(task.model, dim=5))
    field, message = refusal(old, replace(old, task=wider, seed=4))
    assert field == "model.dim"
    assert "model.dim: the run has 4, this command 5" in message and "seed: the run has 3, this command 4" in message
    field, message = refusal(old, replace(old, steps=7))  # cosine
    assert field == "steps" and "the run has 6, this command 7" in message
    constant = replace(old, optimizer=Adagrad())
    assert refusal(constant, replace(constant, steps=7)) == ("", "")
    assert refusal(constant, replace(constant, steps=5))[0] == "steps"
    for warmup, refused in ((0.1, "steps"), (0, ""), (1, ""), (3, "")):
        warm = replace(constant, optimizer=Adagrad(warmup=warmup))
        assert refusal(warm, replace(warm, steps=70))[0] == refused, warmup
    field, message = refusal(old, constant)
    assert field == "optimizer.type" and "the run has 'AdamW', this command 'Adagrad'" in message


@pytest.mark.parametrize(
    "field, make",
    [
        ("steps", lambda: {"steps": 0}),
        ("seed", lambda: {"seed": -1}),
        ("seed", lambda: {"seed": 2**32}),
        ("log.every", lambda: {"log": LogConfig(every=0)}),
        ("checkpoint.every", lambda: {"checkpoint": CheckpointConfig(every=0)}),
        ("checkpoint.keep", lambda: {"checkpoint": CheckpointConfig(keep=0)}),
        ("devices.count", lambda: {"devices": DevicesConfig(count=-1)}),
        ("devices.micro_batches", lambda: {"devices": DevicesConfig(micro_batches=0)}),
        ("data.batch_size", lambda: {"task": BiLMConfig(data=BiLMData(batch_size=0))}),
        ("data.unroll_steps", lambda: {"task": BiLMConfig(data=BiLMData(unroll_steps=0))}),
        ("data.prefetch", lambda: {"task": BiLMConfig(data=BiLMData(prefetch=0))}),
        ("data.vocabulary_size", lambda: {"task": BiLMConfig(data=BiLMData(vocabulary_size=-1))}),
        ("data.minimum_count", lambda: {"task": BiLMConfig(data=BiLMData(minimum_count=0))}),
        ("evaluate.every", lambda: {"task": BiLMConfig(evaluate=BiLMEvaluate(every=-1))}),
        ("evaluate.sentences", lambda: {"task": BiLMConfig(evaluate=BiLMEvaluate(sentences=-1))}),
        ("evaluate.neighbours", lambda: {"task": BiLMConfig(evaluate=BiLMEvaluate(neighbours=-1))}),
        ("negatives", lambda: {"task": BiLMConfig(negatives=-1)}),
        ("zero_start", lambda: {"task": BiLMConfig(zero_start=1.5)}),
        ("tied_softmax", lambda: {"task": BiLMConfig(tied_softmax=True)}),
        ("optimizer.clip_norm", lambda: {"optimizer": AdamW(clip_norm=-1.0)}),
        ("optimizer.learning_rate", lambda: {"optimizer": AdamW(learning_rate=float("nan"))}),
    ],
)
def test_settings_no_run_can_follow_are_refused_by_field(field: str, make: Callable[[], dict[str, Any]]) -> None:
    with pytest.raises(ConfigError) as error:
        check_config(replace(CONFIG, **make()))
    assert error.value.field == field


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
