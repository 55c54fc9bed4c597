"""Mode fsdp: which arrays a device holds, and runs that move from it to other modes and back, for both families.

That it computes the same as one device is tested beside the other modes, in the tests of the step and of each task.
"""

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from ctx_jax.checkpoints.runs import RunCheckpoints
from ctx_jax.commands.train import find, load
from ctx_jax.data.config import BiLMData
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.data.tokens import tokens_of
from ctx_jax.encoders.elmo import BiLM
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.heads import VocabularyHead
from ctx_jax.tasks import TrainConfig
from ctx_jax.tasks.bilm import BiLMConfig, BiLMTask
from ctx_jax.tasks.masked_lm import MaskedLMConfig, MaskedLMEvaluate, MaskedLMTask
from ctx_jax.tokenizers.subword_training import train as train_tokenizer
from ctx_jax.tokenizers.vocabulary import Vocabulary
from ctx_jax.training.config import CheckpointConfig, DevicesConfig, LogConfig
from ctx_jax.training.devices import Devices
from ctx_jax.training.loop import train
from ctx_jax.training.optimizer import AdamW
from ctx_jax.training.parameter_groups import ParameterGroup, named
from ctx_jax.training.step import TrainingStep

WORDS = ["the", "a", "cat", "dog", "bird", "sat", "ran", "saw", "under", "over", "table", "house", "tree", "."]
STEPS = 3
TRANSFORMER = Transformer(0, dim=16, depth=1, heads=2, feed_forward=16, max_positions=16, initial_scale=0.3, remat=True)
ADAMW = AdamW(learning_rate=0.02, warmup=1, average=0.5, epsilon=1e-3, schedule="constant")


def text(seed: int, count: int) -> list[list[str]]:
    random = np.random.default_rng(seed)
    return [[WORDS[word] for word in random.integers(0, len(WORDS), random.integers(2, 9))] for _ in range(count)]


def masked_lm_task() -> MaskedLMTask:
    sequences = SequenceConfig(length=16, batch_size=8, mask_rate=0.3)
    subwords = train_tokenizer(text(0, 60), "wordpiece", 64)
    train, valid = (tokens_of(text(seed, 60), np.arange(0, 60, 10), subwords) for seed in (0, 1))
    config = MaskedLMConfig(model=TRANSFORMER, sequences=sequences, evaluate=MaskedLMEvaluate(every=STEPS))
    return MaskedLMTask(config.with_tokenizer(subwords), 5, train, valid, subwords, ())


def bilm_task() -> BiLMTask:
    model = BiLM(token_input="words", vocabulary=24, dim=16, projection=8, depth=1, dropout=0.2)
    words = Vocabulary(("<S>", "</S>", "<UNK>", *WORDS, *"uvwxyz", "!"))
    config = BiLMConfig(
        model=model,
        data=BiLMData(batch_size=8, unroll_steps=3),
        negatives=5,
        zero_start=0.3,
    )
    return BiLMTask(config, 5, text(0, 60), None, words)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def task() -> MaskedLMTask:
    return masked_lm_task()


def held(tree: Any) -> int:
    """Bytes of a tree's arrays on one device, by their shardings."""
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)
    )


@pytest.mark.parametrize("name", ["elmo_small", "elmo_original", "mlm_22m"])
def test_a_device_of_eight_holds_under_a_sixth_of_parameters_and_optimizer(name: str) -> None:
    config = load(find(name))[0]
    vocabulary = Vocabulary(("<S>", "</S>", "<UNK>", *map(str, range(8000 - 3))))
    if isinstance(config.task, BiLMConfig):
        made: Any = BiLMTask(config.task, 0, [], None, vocabulary)  # type: ignore[arg-type]
    else:
        task_config = replace(config.task, model=replace(config.task.model, vocabulary=8000))
        made = MaskedLMTask(task_config, 0, None, None, None, ())  # type: ignore[arg-type]
    step = TrainingStep(made, config.optimizer, 10, 0)
    sharded, replicated = (
        Devices(DevicesConfig(mode, 8), made.batch_size).abstract(step.initial)[0] for mode in ("fsdp", "shard")
    )
    for part in ("params", "optimizer"):
        assert held(getattr(sharded, part)) * 6 < held(getattr(replicated, part)) > 0, part


@pytest.mark.slow
@pytest.mark.parametrize("make", [masked_lm_task, bilm_task], ids=["transformer", "bilm"])
def test_a_device_holds_its_shard_before_and_after_a_step(make: Callable[[], Any]) -> None:
    task = make()
    devices = Devices(DevicesConfig("fsdp", 8), task.batch_size)
    step = TrainingStep(task, ADAMW, STEPS, TrainConfig().seed)  # the program of the runs below
    compiled, (state, _) = devices.compile(step), devices.create(step.initial)
    layout = jax.tree.map(lambda leaf: leaf.sharding, devices.abstract(step.initial)[0])
    for _ in range(2):
        assert jax.tree.map(lambda leaf: leaf.sharding, state) == layout
        matrices = [leaf for leaf in jax.tree.leaves((state.params, state.average, state.optimizer)) if leaf.ndim > 1]
        assert len(matrices) == 4 * sum(leaf.ndim > 1 for leaf in jax.tree.leaves(state.params))
        for leaf in matrices:
            assert leaf.addressable_data(0).nbytes * 8 == leaf.nbytes > 0
        state = compiled(state, {}, devices.put(next(task.batches(0, task.batch_size)).arrays))
    for leaf, whole in zip(*map(jax.tree.leaves, (state.params, devices.local(state.params))), strict=True):
        assert whole.devices() == {jax.devices()[0]}
        np.testing.assert_array_equal(whole, leaf)


def test_layers_that_differ_are_gathered_one_by_one_too(task: MaskedLMTask) -> None:
    """ModernBERT's, scanned: the first has no norm of its own, and a stack is made of all of them. Read in the program,
    where the body of the loop over layers stands once."""
    model = replace(
        task.model, dim=8, depth=2, norm="pre", positions="rotary", gated=True, token_types=0, vocabulary=64,
        first_attention_norm=False, local_layers=(1,), window=2, attention_bias=False, scan=True,
    )  # fmt: skip
    config = replace(task.config, model=model, head=VocabularyHead(transform=False))
    task, devices = replace(task, config=config), Devices(DevicesConfig("fsdp", 8), 8)
    step = TrainingStep(task, ADAMW, STEPS, 7)
    state, _ = devices.abstract(step.initial)
    batch = devices.put(next(task.batches(0, 8)).arrays)
    program = devices.compile(step).lower(state, {}, batch).as_text()  # type: ignore[attr-defined]
    gathered = re.findall(r"stablehlo.all_gather.*-> tensor<([0-9x]+)xf32>", program)
    # The token table and seven kernels, twice each, not twice a layer: forward, and again in the backward pass.
    assert Counter(gathered) == {"64x8": 2, "8x8": 2 * 4, "8x16": 2 * 2, "16x8": 2}


def losses(task: Any, run_dir: Path, *stages: tuple[DevicesConfig, int], optimizer: AdamW = ADAMW) -> Any:
    """(split, loss) of every line of a run in stages, each on devices of its own and up to a step."""
    for devices, steps in stages:
        config = TrainConfig(
            task=task.config,
            optimizer=optimizer,
            devices=devices,
            checkpoint=CheckpointConfig(every=1),
            log=LogConfig(every=1),
            run_dir=str(run_dir),
            steps=steps,
        )
        with RunCheckpoints(run_dir / "checkpoints", clean=True) as checkpoints:
            assert train(config, task, checkpoints, lambda line: None)
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [(line["split"], line["loss"]) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize(
    "make, between",
    [(masked_lm_task, DevicesConfig(count=1)), (bilm_task, DevicesConfig("pmap", 4))],
    ids=["transformer", "bilm"],
)
def test_a_run_goes_on_from_fsdp_in_another_mode_and_back(
    make: Callable[[], Any], between: DevicesConfig, tmp_path: Path
) -> None:
    """Of a biLM the carry moves too: eight rows on as many devices, then two on each of four."""
    task = make()
    valid = ["valid"] if task.evaluators else []
    expected = losses(task, tmp_path / "one", (DevicesConfig(count=1), STEPS))
    assert [split for split, _ in expected] == ["train"] * STEPS + valid
    fsdp = DevicesConfig("fsdp", 8)
    found = losses(task, tmp_path / "three", (fsdp, 1), (between, 2), (fsdp, STEPS))
    assert [split for split, _ in found] == ["train", *valid] * STEPS, "evaluated where each stage ends"
    found = [*(line for line in found if line[0] == "train"), *(found[-1:] if valid else [])]
    for (split, loss), (its_split, its_loss) in zip(found, expected, strict=True):
        assert split == its_split and loss == pytest.approx(its_loss, rel=3e-5)


FROZEN_NAMES = r"encoder/(embeddings|layer_0/(query|key|value|output|attention_norm))/"
FROZEN = replace(ADAMW, groups=(ParameterGroup(f"^{FROZEN_NAMES}", frozen=True),))


def params_of(run_dir: Path, step: int) -> dict[str, np.ndarray]:
    with RunCheckpoints(run_dir / "checkpoints") as checkpoints:
        return {name: np.asarray(leaf) for name, leaf in named(checkpoints.restore_params(step)).items()}


def stored(run_dir: Path, step: int, part: str) -> set[str]:
    """Names, as paths, of the arrays that a checkpoint holds of a part of the state."""
    with RunCheckpoints(run_dir / "checkpoints") as checkpoints:
        leaves = jax.tree.leaves_with_path(checkpoints.tree(step)[part])
    return {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves}


def is_frozen(name: str) -> bool:
    return re.match(FROZEN_NAMES, name) is not None


@pytest.mark.slow
def test_a_frozen_part_of_a_transformer_stays_as_it_is_and_is_saved_once(task: MaskedLMTask, tmp_path: Path) -> None:
    task = replace(task, valid=None)
    step, after = TrainingStep(task, FROZEN, STEPS, 7), []
    for devices, stages in (
        (DevicesConfig(count=1), [(DevicesConfig(count=1), STEPS)]),
        (DevicesConfig("fsdp", 8), [(DevicesConfig("fsdp", 8), 1), (DevicesConfig("fsdp", 8), STEPS)]),
    ):
        run_dir = tmp_path / devices.mode
        losses(task, run_dir, *stages, optimizer=FROZEN)
        first, last = params_of(run_dir, 1), params_of(run_dir, STEPS)
        assert first.keys() == last.keys() == named(jax.eval_shape(task.init, jax.random.key(0))).keys()
        for name in first:
            assert np.array_equal(first[name], last[name]) == is_frozen(name), name
        for part in ("params", "average", "optimizer"):
            names = stored(run_dir, STEPS, part)
            assert names and not [name for name in names if re.search(FROZEN_NAMES, name)], part
        _, frozen = Devices(devices, 8).create(step.initial)
        assert frozen and all(map(is_frozen, named(frozen)))
        for name, leaf in named(frozen).items():
            shards = 8 if devices.mode == "fsdp" and leaf.ndim > 1 else 1
            assert leaf.addressable_data(0).nbytes * shards == leaf.nbytes, name
        after.append(last)
    for name, value in after[0].items():
        np.testing.assert_allclose(after[1][name], value, rtol=3e-5, atol=3e-6, err_msg=name)
    losses(task, tmp_path / "whole", (DevicesConfig("fsdp", 8), STEPS), optimizer=FROZEN)
    for name, value in params_of(tmp_path / "whole", STEPS).items():
        np.testing.assert_array_equal(after[1][name], value, err_msg=name)
