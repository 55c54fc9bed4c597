"""Masked LM as a task: the same on any devices, resumed bit for bit, measured on a fixed mask."""

import json
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from ctx_jax import losses
from ctx_jax.checkpoints.runs import RunCheckpoints
from ctx_jax.commands.train import find, load
from ctx_jax.data.batch import MaskedBatch, TokenRows
from ctx_jax.data.length_schedule import LengthSchedule
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.data.sequences import Sequences
from ctx_jax.data.tokens import Tokens, tokens_of
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.evaluation.masked_lm_eval import evaluation_batch_size, evaluation_sequences, first_sentences
from ctx_jax.evaluation.pseudo_perplexity import pseudo_perplexity
from ctx_jax.io.errors import ConfigError, InputError
from ctx_jax.io.progress import Progress
from ctx_jax.tasks import TrainConfig
from ctx_jax.tasks.masked_lm import MaskedLMConfig, MaskedLMEvaluate, MaskedLMTask
from ctx_jax.tokenizers.subword_training import train as train_tokenizer
from ctx_jax.tokenizers.subwords import Subwords
from ctx_jax.training.config import CheckpointConfig, DevicesConfig, LogConfig
from ctx_jax.training.devices import Devices
from ctx_jax.training.loop import train
from ctx_jax.training.optimizer import AdamW
from ctx_jax.training.step import State, TrainingStep

WORDS = ["the", "a", "cat", "dog", "bird", "sat", "ran", "saw", "under", "over", "table", "house", "tree", "."]
MODEL = Transformer(0, dim=8, depth=1, heads=2, feed_forward=8, max_positions=16, initial_scale=0.3)
PAIRS = SequenceConfig("pairs", length=16, batch_size=8, mask_rate=0.3)
PLAIN = SequenceConfig(length=16, batch_size=8, mask_rate=0.3)
SHORT_FIRST = replace(PLAIN, short_steps=2, short_length=8)


def text(seed: int, count: int) -> list[list[str]]:
    random = np.random.default_rng(seed)
    return [[WORDS[word] for word in random.integers(0, len(WORDS), random.integers(2, 9))] for _ in range(count)]


def tokens(subwords: Subwords, seed: int = 0, count: int = 60) -> Tokens:
    return tokens_of(text(seed, count), np.arange(0, count, 10), subwords)


@pytest.fixture(scope="module")
def subwords() -> Subwords:
    return train_tokenizer(text(0, 60), "wordpiece", 60)


def task_of(subwords: Subwords, sequences: SequenceConfig, model: Transformer = MODEL) -> MaskedLMTask:
    config = MaskedLMConfig(model=model, sequences=sequences, evaluate=MaskedLMEvaluate(every=5))
    train, valid = tokens(subwords), tokens(subwords, 1, 20)
    return MaskedLMTask(config.with_tokenizer(subwords), 5, train, valid, subwords, ())


def stepped(task: MaskedLMTask, config: DevicesConfig) -> State:
    """The state after two steps."""
    devices = Devices(config, task.batch_size)
    # A key's bias has no gradient but rounding, which Adam with its own epsilon would amplify to whole steps.
    optimizer = AdamW(learning_rate=0.02, warmup=1, average=0.9, epsilon=1e-3)
    step = TrainingStep(task, optimizer, 2, 7, config.micro_batches)
    compiled = devices.compile(step)
    state = devices.enter(devices.create(step.initial)[0])
    for batch in islice(task.batches(0, task.batch_size), 2):
        weights = batch.arrays.predicted_weights
        weights[:3] = 0  # devices and micro-batches without anything to predict
        assert len({*weights.sum(axis=1).tolist()}) > 2
        state = compiled(state, {}, devices.put(batch.arrays))
    return jax.device_get(devices.leave(state))


@pytest.mark.slow
def test_eight_devices_in_every_mode_and_micro_batches_are_one_device(subwords: Subwords) -> None:
    task = task_of(subwords, PAIRS)
    assert task.model.embedding_dropout > 0
    expected = stepped(task, DevicesConfig(count=1))
    for config in (
        DevicesConfig("shard", 8),
        DevicesConfig("pmap", 8),
        DevicesConfig("fsdp", 8),
        DevicesConfig("shard", 2, micro_batches=2),
    ):
        found = stepped(task, config)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=3e-5, atol=3e-6), found, expected)
    assert expected.totals.terms["next_sentence"][1] == 16


def go(task: MaskedLMTask, run_dir: Path) -> tuple[dict, list[dict]]:
    """Train five steps; the parameters and the lines of metrics."""
    config = TrainConfig(
        task=task.config,
        optimizer=AdamW(learning_rate=0.02, warmup=1, average=0.5),
        devices=DevicesConfig(count=1),
        checkpoint=CheckpointConfig(every=1),
        log=LogConfig(every=1),
        run_dir=str(run_dir),
        steps=5,
    )
    with RunCheckpoints(run_dir / "checkpoints", clean=True) as checkpoints:
        train(config, task, checkpoints, lambda line: None)
        params = jax.device_get(checkpoints.restore_params(5))
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return params, [{name: value for name, value in line.items() if name != "tokens_per_second"} for line in lines]


class Killed(Exception):
    """Stands for the end of a process."""


class KilledTask(MaskedLMTask):
    """Raises `Killed` in place of the last of `batches_left`."""

    batches_left = 0

    def tokens(self, arrays: Any) -> int:
        type(self).batches_left -= 1
        if self.batches_left == 0:
            raise Killed
        return super().tokens(arrays)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [2, 3, 5])
def test_a_killed_run_is_resumed_bit_for_bit_with_either_length(
    stop: int, subwords: Subwords, tmp_path: Path, whole: tuple[dict, list[dict]]
) -> None:
    task = task_of(subwords, SHORT_FIRST)
    killed = type("KilledTask", (KilledTask,), {"batches_left": stop})
    with pytest.raises(Killed):
        go(killed(*(getattr(task, field.name) for field in fields(task))), tmp_path)
    params, lines = go(task, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, params, whole[0])
    assert lines == whole[1]


@pytest.fixture(scope="module")
def whole(subwords: Subwords, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, list[dict]]:
    """An uninterrupted run."""
    return go(task_of(subwords, SHORT_FIRST), tmp_path_factory.mktemp("whole"))


@pytest.mark.slow
def test_every_line_has_loss_perplexity_and_accuracy(whole: tuple[dict, list[dict]]) -> None:
    _, lines = whole
    assert [line["split"] for line in lines] == ["train"] * 5 + ["valid"]
    assert {"loss", "perplexity", "accuracy"} <= lines[-1].keys()
    for line in lines:
        assert line["perplexity"] == pytest.approx(np.exp(line["loss"]), rel=1e-5)


def test_what_is_loaded_is_the_average_where_a_run_keeps_one(tmp_path: Path) -> None:
    states = {1: {"params": {"a": jax.numpy.zeros(2)}, "average": ()},
              2: {"params": {"a": jax.numpy.zeros(2)}, "average": {"a": jax.numpy.ones(2)}}}  # fmt: skip
    with RunCheckpoints(tmp_path, clean=True) as checkpoints:
        for step, state in states.items():
            checkpoints.save(step, state, {"row": np.int64(0)})
        checkpoints.wait()
        assert [checkpoints.restore_params(step)["a"].tolist() for step in states] == [[0.0, 0.0], [1.0, 1.0]]


def test_short_and_full_rows_hold_as_many_tokens_and_positions_find_either(subwords: Subwords) -> None:
    task = task_of(subwords, SHORT_FIRST)
    source = task.batches(0, 8)
    batches = list(islice(source, 5))
    assert [batch.arrays.tokens.token_ids.shape for batch in batches] == [(16, 8)] * 2 + [(8, 16)] * 3
    assert [batch.position["step"][0] for batch in batches] == [1, 2, 3, 4, 5]
    for number in (0, 1, 3):
        again = task.batches(0, 8)
        again.seek(batches[number].position)
        jax.tree.map(np.testing.assert_array_equal, next(again).arrays, batches[number + 1].arrays)
    # The rows of two hosts are those of one.
    for host in range(2):
        for own, batch in zip(task.batches(4 * host, 4), batches[:3], strict=False):
            part = own.arrays.tokens.token_ids
            np.testing.assert_array_equal(part, batch.arrays.tokens.token_ids[host * len(part) :][: len(part)])
    assert isinstance(source, LengthSchedule)
    with pytest.raises(InputError, match="short_steps"):
        source.seek({"epoch": np.zeros(8), "index": np.zeros(8)})
    assert isinstance(task_of(subwords, PLAIN).batches(0, 8), Sequences)


def measured(task: MaskedLMTask, params: dict, devices: int) -> dict[str, float]:
    """What the task's first evaluator measures."""
    return task.evaluators[0](params, jax.devices()[:devices], print)  # type: ignore[return-value]


@pytest.fixture(scope="module")
def pairs(subwords: Subwords) -> tuple[MaskedLMTask, dict]:
    """A task on pairs, and parameters."""
    task = task_of(subwords, PAIRS)
    return task, jax.jit(task.init)(jax.random.key(0))


@pytest.mark.slow
def test_validation_batches_are_small_whatever_the_batch_size_of_training(
    pairs: tuple[MaskedLMTask, dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("roberta_base", "bert_large", "modern_base"):
        sequences = load(find(name))[0].task.sequences
        for devices in (1, 8):
            rows = evaluation_batch_size(sequences, devices)
            assert rows % devices == 0 and devices <= rows <= 32 * devices and rows < sequences.batch_size
    assert [evaluation_batch_size(PLAIN, devices) for devices in (1, 3, 8, 16)] == [8, 9, 8, 16]
    task, params = pairs
    whole = measured(task, params, 1)
    monkeypatch.setattr("ctx_jax.evaluation.masked_lm_eval.TOKENS_PER_DEVICE", 48)  # three rows of 16, not eight
    assert evaluation_batch_size(PAIRS, 1) == 3
    few = measured(task, params, 1)
    assert few == pytest.approx(whole, rel=1e-5)


@pytest.mark.slow
def test_validation_text_is_measured_with_one_mask_on_any_devices(
    pairs: tuple[MaskedLMTask, dict], subwords: Subwords
) -> None:
    task, params = pairs
    one, eight = (measured(task, params, count) for count in (1, 8))
    assert one.keys() == {"loss", "perplexity", "accuracy", "masked_loss", "next_sentence_loss",
                          "next_sentence_accuracy"}  # fmt: skip
    assert one == pytest.approx(eight, rel=1e-5)
    assert measured(replace(task, seed=99), params, 8) == eight, "the mask does not depend on the run's seed"
    assert task.valid is not None
    sums = np.zeros(2)
    loss = jax.jit(lambda batch: losses.masked_lm(task.model, params, batch, head=task.config.head)[0])
    for batch in evaluation_sequences(task.valid, subwords, task.model, PAIRS):
        sums += [float(part) for part in loss(batch.arrays)["masked"]]
    assert one["masked_loss"] == pytest.approx(sums[0] / sums[1], rel=1e-5)


def test_the_first_sentences_are_a_text_of_their_own(subwords: Subwords) -> None:
    some, alone = first_sentences(tokens(subwords), 25), tokens_of(text(0, 60)[:25], np.array([0, 10, 20]), subwords)
    for name in ("ids", "begins", "offsets", "documents"):
        np.testing.assert_array_equal(getattr(some, name), getattr(alone, name))
    assert first_sentences(some, 0) is some


@pytest.mark.slow
def test_pseudo_perplexity_masks_each_piece_in_turn(subwords: Subwords, monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of(subwords, PLAIN)
    params, head = jax.jit(task.init)(jax.random.key(3)), task.config.head
    sentences = [["the", "cat", "sat"], ["a", "dog"]]
    found = pseudo_perplexity(task.model, params, subwords, sentences, head=head, batch_size=4)
    nats, count = 0.0, 0
    loss = jax.jit(lambda batch: losses.masked_lm(task.model, params, batch, head=head)[0]["masked"][0])
    for words in sentences:
        ids = subwords.add_special_tokens(subwords.tokenize_words([words])[0].ids)
        for place in range(1, len(ids) - 1):
            row = np.where(np.arange(len(ids)) == place, subwords.mask_id, ids)[None].astype(np.int32)
            weights = np.ones((1, 1), np.float32)
            nats += float(loss(MaskedBatch(TokenRows(row), np.array([[place]]), ids[None, [place]], weights)))
            count += 1
    assert found.tokens == count
    assert found.perplexity == pytest.approx(np.exp(nats / count), rel=1e-5)
    # A sentence too long for a row is cut into full rows and the rest.
    done: list[float] = []
    progress = Progress("measuring", "sentences")
    monkeypatch.setattr(progress, "add", lambda amount=1.0: done.append(amount))
    long, parts = (
        pseudo_perplexity(task.model, params, subwords, text, head=head, batch_size=4, progress=given)
        for text, given in (
            ([["dog"] * 30, ["dog"]], progress),
            ([*(["dog"] * n for n in (14, 14, 2)), ["dog"]], None),
        )
    )
    assert sum(done) == 2
    assert (long.tokens, long.loss) == (parts.tokens, pytest.approx(parts.loss, rel=1e-6)) and long.tokens == 31


def test_roberta_positions_begin_behind_the_padding(subwords: Subwords) -> None:
    model = replace(MODEL, positions_after_padding=True, max_positions=17)
    rows = next(task_of(subwords, PLAIN, model).batches(0, 8)).arrays.tokens
    assert subwords.pad_id == 0 and rows.positions[:, 0].tolist() == [1] * 8
    assert (rows.positions[~rows.mask] == 0).all() and not rows.mask.all()
    with pytest.raises(ConfigError, match=r"model\.max_positions"):
        task_of(subwords, PLAIN, replace(model, max_positions=16))


def test_flops_of_bert_base_are_those_of_the_literature(subwords: Subwords) -> None:
    config = MaskedLMConfig(sequences=SequenceConfig(length=128))
    assert replace(task_of(subwords, PLAIN), config=config).flops_per_token() == pytest.approx(546e6, rel=0.01)
