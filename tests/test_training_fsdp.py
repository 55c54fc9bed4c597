"""Mode fsdp: what lies where, and runs that go on from it and to it. That it computes the same is tested beside the
other modes, in test_training_step.py and test_transformer_task.py."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from ctx_jax.checkpoints.runs import RunCheckpoints
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.data.tokens import tokens_of
from ctx_jax.encoders.elmo.model import BiLM
from ctx_jax.encoders.transformer.model import Transformer
from ctx_jax.tasks.masked_lm import TransformerTask, with_tokenizer
from ctx_jax.tokenizers.subword_training import train as train_tokenizer
from ctx_jax.training.config import (
    CheckpointConfig,
    DevicesConfig,
    EvaluateConfig,
    LogConfig,
    TrainConfig,
    check_config,
)
from ctx_jax.training.devices import Devices
from ctx_jax.training.loop import train
from ctx_jax.training.optimizer import AdamW
from ctx_jax.training.step import State, initial_state, make_step

MODEL = Transformer(0, dim=8, layers=1, heads=2, feed_forward=16, max_positions=16, initial_scale=0.3, remat=True)
RECIPE = AdamW(learning_rate=0.02, warmup=1, average=0.5, epsilon=1e-3)
STEPS = 3


def text(seed: int, count: int) -> list[list[str]]:
    random = np.random.default_rng(seed)
    words = ["the", "a", "cat", "dog", "bird", "sat", "ran", "saw", "under", "over", "table", "house", "tree", "."]
    return [[words[word] for word in random.integers(0, len(words), random.integers(2, 9))] for _ in range(count)]


@pytest.fixture(scope="module")
def task() -> TransformerTask:
    sequences = SequenceConfig(length=16, rows=8, rate=0.3)
    subwords = train_tokenizer(text(0, 60), "wordpiece", 60)
    learned, measured = (tokens_of(text(seed, 60), np.arange(0, 60, 10), subwords) for seed in (0, 1))
    return TransformerTask(with_tokenizer(MODEL, sequences, subwords), sequences, 5, learned, measured, subwords)


def test_a_bilm_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a biLM .*--devices.mode shard"):
        check_config(TrainConfig(model=BiLM(), devices=DevicesConfig("fsdp")))


@pytest.mark.slow
def test_a_device_holds_its_part_before_and_after_a_step(task: TransformerTask) -> None:
    def make() -> State:
        return initial_state(task, RECIPE, STEPS, 7, task.rows)

    devices = Devices(DevicesConfig("fsdp", 8), task.rows)
    step = devices.compile(make_step(task, RECIPE, STEPS, seed=7))
    state = devices.create(make)
    layout = jax.tree.map(lambda leaf: leaf.sharding, devices.abstract(make))
    for _ in range(2):
        assert jax.tree.map(lambda leaf: leaf.sharding, state) == layout
        matrices = [leaf for leaf in jax.tree.leaves((state.params, state.average, state.optimizer)) if leaf.ndim > 1]
        assert len(matrices) == 4 * sum(leaf.ndim > 1 for leaf in jax.tree.leaves(state.params))
        for leaf in matrices:
            assert leaf.addressable_data(0).nbytes * 8 == leaf.nbytes > 0
        state = step(state, devices.put(next(task.batches(0, task.rows)).arrays))
    for leaf, whole in zip(*map(jax.tree.leaves, (state.params, devices.local(state.params))), strict=True):
        assert whole.devices() == {jax.devices()[0]}
        np.testing.assert_array_equal(whole, leaf)


def test_layers_that_differ_are_gathered_one_by_one_too(task: TransformerTask) -> None:
    """ModernBERT's, scanned: the first has no norm of its own, and a stack is made of all of them. Read in the program,
    where the body of the loop over layers stands once."""
    model = replace(
        task.model, layers=2, norm="pre", positions="rotary", gated=True, token_types=0, first_attention_norm=False,
        local_layers=(1,), window=2, attention_bias=False, scan=True, head="direct", vocabulary=64,
    )  # fmt: skip
    task, devices = replace(task, model=model), Devices(DevicesConfig("fsdp", 8), 8)
    state = devices.abstract(lambda: initial_state(task, RECIPE, STEPS, 7, task.rows))
    step = devices.compile(make_step(task, RECIPE, STEPS, seed=7))
    program = step.lower(state, devices.put(next(task.batches(0, task.rows)).arrays)).as_text()  # type: ignore[attr-defined]
    gathered = re.findall(r"stablehlo.all_gather.*-> tensor<([0-9x]+)xf32>", program)
    # The token table and seven kernels, twice each, not twice a layer: forward, and again in the backward pass.
    assert Counter(gathered) == {"64x8": 2, "8x8": 2 * 4, "8x16": 2 * 2, "16x8": 2}


def losses(task: TransformerTask, run_dir: Path, *stages: tuple[DevicesConfig, int]) -> list[tuple[str, float]]:
    """Of the lines of a run whose stages each begin anew and end at a step."""
    for devices, steps in stages:
        config = TrainConfig(
            model=task.model,
            sequences=task.sequences,
            optimizer=replace(RECIPE, schedule="constant"),
            devices=devices,
            checkpoint=CheckpointConfig(every=1),
            evaluate=EvaluateConfig(every=STEPS),
            log=LogConfig(every=1),
            run_dir=str(run_dir),
            steps=steps,
        )
        with RunCheckpoints(run_dir / "checkpoints", clean=True) as checkpoints:
            assert train(config, task, checkpoints, lambda line: None)
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [(line["split"], line["loss"]) for line in lines]


@pytest.mark.slow
def test_a_run_goes_on_from_fsdp_under_shard_and_back(task: TransformerTask, tmp_path: Path) -> None:
    expected = losses(task, tmp_path / "one", (DevicesConfig(count=1), STEPS))
    assert [split for split, _ in expected] == ["train"] * STEPS + ["valid"]
    modes = ((DevicesConfig("fsdp", 8), 1), (DevicesConfig(count=1), 2), (DevicesConfig("fsdp", 8), STEPS))
    found = losses(task, tmp_path / "three", *modes)  # evaluated where each stage ends
    assert [split for split, _ in found] == ["train", "valid"] * STEPS
    found = [*(line for line in found if line[0] == "train"), found[-1]]
    for (split, loss), (its_split, its_loss) in zip(found, expected, strict=True):
        assert split == its_split and loss == pytest.approx(its_loss, rel=3e-5)
