"""A family, a head and a task of somebody's own (`toys/`) go through load, embed, training, resume and evaluation
without a line changed inside the package."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys.bag_of_characters import FAMILY, BagOfCharacters
from toys.linear_head import LinearHead
from toys.sentence_length import LengthConfig, LengthRun, LengthTask

import ctx_jax
from ctx_jax.checkpoints.frozen import frozen_digests
from ctx_jax.checkpoints.runs import RunCheckpoints
from ctx_jax.commands.evaluate import Evaluate, evaluate
from ctx_jax.commands.flags import parse
from ctx_jax.encoders import FAMILIES
from ctx_jax.heads import HEADS
from ctx_jax.io.errors import ConfigError, InputError
from ctx_jax.training.config import CheckpointConfig, DevicesConfig, LogConfig
from ctx_jax.training.loop import Loop
from ctx_jax.training.optimizer import AdamW
from ctx_jax.training.run import run
from ctx_jax.training.step import TrainingStep

SENTENCES = ("a cat", "the dog ran far away", "no", "one two three four", "it is", "we all saw the old house", "x y z")
CONFIG = LengthRun(
    task=LengthConfig(sentences=SENTENCES),
    optimizer=AdamW(learning_rate=0.05, warmup=0),
    devices=DevicesConfig(count=1),
    checkpoint=CheckpointConfig(every=2, keep=9),
    log=LogConfig(every=1),
    steps=4,
)


def load(path: Path, **choices: Any) -> ctx_jax.Encoder:
    return ctx_jax.load(path, families=(*FAMILIES, FAMILY), heads=(*HEADS, LinearHead), **choices)


def arrays(path: Path, step: int) -> dict[str, np.ndarray]:
    with RunCheckpoints(path / "checkpoints") as checkpoints:
        params = checkpoints.restore_params(step)
    return {jax.tree_util.keystr(name): np.asarray(leaf) for name, leaf in jax.tree.leaves_with_path(params)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("toys") / "run"
    assert run(replace(CONFIG, run_dir=str(run_dir)))
    return run_dir


@pytest.mark.slow
def test_a_run_is_loaded_embedded_and_its_head_used(trained: Path) -> None:
    encoder = load(trained, step="latest")
    assert encoder.model == BagOfCharacters()
    inputs = encoder.tokenize(list(SENTENCES), length=8)
    layers = jax.jit(ctx_jax.embed, static_argnums=0)(encoder.model, encoder.params, inputs)
    head = encoder.heads["longer"]
    logits = head.module.apply({"params": head.params}, ctx_jax.pool(layers.values[-1], layers.mask))
    # The head learns what the run's own evaluation measured.
    losses = -jax.nn.log_softmax(logits)[jnp.arange(7), jnp.array([int(len(each.split()) > 3) for each in SENTENCES])]
    with RunCheckpoints(trained / "checkpoints") as checkpoints:
        metrics = checkpoints.metrics(4)
    assert metrics is not None
    np.testing.assert_allclose(losses.mean(), metrics["loss"], rtol=1e-5)


@pytest.mark.slow
def test_stopped_and_resumed_is_uninterrupted(trained: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, run_dir=str(tmp_path), optimizer=replace(CONFIG.optimizer, schedule="constant"))
    run(replace(config, run_dir=str(tmp_path / "whole")))
    run(replace(config, run_dir=str(tmp_path / "parts"), steps=2))
    run(replace(config, run_dir=str(tmp_path / "parts")))
    whole, parts = (arrays(tmp_path / name, 4) for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(np.array_equal(whole[name], parts[name]) for name in whole)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["shard", "fsdp"])
def test_eight_devices_are_one(trained: Path, tmp_path: Path, mode: Any) -> None:
    run(replace(CONFIG, run_dir=str(tmp_path), devices=DevicesConfig(mode, 8)))
    one, eight = arrays(trained, 4), arrays(tmp_path, 4)
    for name in one:
        np.testing.assert_allclose(eight[name], one[name], atol=1e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("mode, count", [("shard", 1), ("fsdp", 8)])
def test_a_frozen_encoder_stays_as_it_is_and_is_saved_once(tmp_path: Path, mode: Any, count: int) -> None:
    config = replace(
        CONFIG,
        run_dir=str(tmp_path),
        devices=DevicesConfig(mode, count),
        task=replace(CONFIG.task, frozen=True),
        optimizer=replace(CONFIG.optimizer, schedule="constant"),
    )
    run(replace(config, steps=2))
    run(config)  # resumes
    first, last = arrays(tmp_path, 2), arrays(tmp_path, 4)
    encoder = [name for name in first if "encoder" in name]
    assert encoder and all(np.array_equal(first[name], last[name]) for name in encoder)
    assert not all(np.array_equal(first[name], last[name]) for name in first if "head" in name)
    with RunCheckpoints(tmp_path / "checkpoints") as checkpoints:
        tree = checkpoints.tree(4)
    # Neither parameters nor optimizer of a step hold anything of the encoder.
    assert set(tree["params"]) == {"head"}
    assert not [
        name for name, _ in jax.tree.leaves_with_path(tree["optimizer"]) if "encoder" in jax.tree_util.keystr(name)
    ]
    np.testing.assert_array_equal(load(tmp_path).params["layer_0"]["kernel"], last["['encoder']['layer_0']['kernel']"])


@pytest.mark.slow
def test_frozen_parameters_of_another_run_are_refused(tmp_path: Path) -> None:
    config = replace(CONFIG, task=replace(CONFIG.task, frozen=True), steps=2)
    run(replace(config, run_dir=str(tmp_path / "one")))
    run(replace(config, run_dir=str(tmp_path / "other"), seed=1))
    frozen = next((tmp_path / "one" / "frozen").rglob("*.sha256.json"))
    name = frozen.relative_to(tmp_path / "one")
    (tmp_path / "one" / "frozen").rename(tmp_path / "away")
    (tmp_path / "other" / "frozen").rename(tmp_path / "one" / "frozen")
    with pytest.raises(ValueError, match=str(name.name)):
        load(tmp_path / "one")


def test_a_parameter_that_no_group_meets_is_named() -> None:
    class Odd(LengthTask):
        def init(self, key: jax.Array) -> Any:
            return {"encoder": {"layer_0": {"wavelet": jnp.zeros(3)}}, "head": {}}

    with pytest.raises(ConfigError, match="encoder/layer_0/wavelet"):
        TrainingStep(Odd(CONFIG.task, 0), AdamW(), 1, 0).initial()


def test_a_run_killed_before_its_first_step_leaves_no_frozen_parameters_behind(tmp_path: Path) -> None:
    config = replace(CONFIG, run_dir=str(tmp_path), steps=2)

    class Killed(Exception):
        pass

    def kill(*_: Any) -> None:
        raise Killed

    frozen = replace(config, task=replace(config.task, frozen=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "run", kill)
        with pytest.raises(Killed):
            run(frozen)
    assert frozen_digests(tmp_path) and not (tmp_path / "checkpoints" / "2").exists()
    run(config)  # nothing is frozen now
    assert not frozen_digests(tmp_path)
    load(tmp_path)  # refuses frozen parameters that the step was not saved with


def test_evaluate_reports_a_run_of_ones_own(trained: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(SENTENCES) + "\n")
    options = Evaluate(trained, (str(text),), step="latest")
    table = evaluate(options, LengthRun, (*FAMILIES, FAMILY), (*HEADS, LinearHead))
    with RunCheckpoints(trained / "checkpoints") as checkpoints:
        metrics = checkpoints.metrics(4)
    assert metrics is not None
    number = float(re.findall(r"accuracy\s+(\S+)", table)[0])
    np.testing.assert_allclose(number, metrics["accuracy"], atol=6e-4)


def test_its_settings_are_flags() -> None:
    read = parse(LengthRun, args=["--longer-than", "5", "--frozen"])
    assert read.task == LengthConfig(longer_than=5, frozen=True)


@pytest.mark.slow
def test_bad_settings_name_their_field(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        run(replace(CONFIG, run_dir=str(tmp_path), task=replace(CONFIG.task, sentences=())))
    assert caught.value.field == "sentences"
    run(replace(CONFIG, run_dir=str(tmp_path), steps=2))
    with pytest.raises(InputError, match="BagOfCharacters"):  # without the family, whose name the file holds
        ctx_jax.load(tmp_path)
