"""A Transformer's run: the same on any devices, resumed bit for bit, measured on a fixed mask."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from ctx_jax.encoders.transformer.word_pooling import embed_transformer

from ctx_jax import losses
from ctx_jax.checkpoints.runs import RunCheckpoints
from ctx_jax.commands.train import find, load
from ctx_jax.data.config import DataConfig
from ctx_jax.data.length_schedule import Phases
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.data.sequences import Sequences
from ctx_jax.data.tokens import Tokens, tokens_of
from ctx_jax.encoders.transformer.model import Transformer
from ctx_jax.evaluation.masked_lm_eval import first_sentences, held_out, rows_at_once
from ctx_jax.evaluation.pseudo_perplexity import pseudo_perplexity
from ctx_jax.tasks.masked_lm import TransformerTask, with_tokenizer
from ctx_jax.tokenizers.subword_training import TokenizerConfig
from ctx_jax.tokenizers.subword_training import train as train_tokenizer
from ctx_jax.tokenizers.subwords import Subwords
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

WORDS = ["the", "a", "cat", "dog", "bird", "sat", "ran", "saw", "under", "over", "table", "house", "tree", "."]
PAIRS = SequenceConfig("pairs", length=16, rows=8, rate=0.3)
PHASED = SequenceConfig(length=16, rows=8, rate=0.3, first_steps=2, first_length=8)
MODEL = Transformer(
    0, dim=8, layers=1, heads=2, feed_forward=8, max_positions=16, pooler=True, next_sentence=True, initial_scale=0.3
)
PLAIN = replace(MODEL, pooler=False, next_sentence=False)


def text(seed: int, count: int) -> list[list[str]]:
    random = np.random.default_rng(seed)
    return [[WORDS[word] for word in random.integers(0, len(WORDS), random.integers(2, 9))] for _ in range(count)]


def tokens(subwords: Subwords, seed: int = 0, count: int = 60) -> Tokens:
    return tokens_of(text(seed, count), np.arange(0, count, 10), subwords)


@pytest.fixture(scope="module")
def subwords() -> Subwords:
    return train_tokenizer(text(0, 60), "wordpiece", 60)


def task_of(subwords: Subwords, model: Transformer = MODEL, config: SequenceConfig = PAIRS) -> TransformerTask:
    model = with_tokenizer(model, config, subwords)
    return TransformerTask(model, config, 5, tokens(subwords), tokens(subwords, 1, 20), subwords, text(1, 20))


def stepped(task: TransformerTask, devices: DevicesConfig) -> State:
    made = Devices(devices, task.rows)
    # A key's bias has no gradient but rounding, which Adam with its own epsilon would blow up to whole steps.
    recipe = AdamW(learning_rate=0.02, warmup=1, average=0.9, epsilon=1e-3)
    step = made.compile(make_step(task, recipe, 2, seed=7, parts=devices.micro_batches))
    state = made.enter(made.create(lambda: initial_state(task, recipe, 2, 7, task.rows)))
    for _, batch in zip(range(2), task.batches(0, task.rows), strict=False):
        batch.arrays["predicted_weights"][:3] = 0  # devices and micro-batches without anything to predict
        assert len({*batch.arrays["predicted_weights"].sum(axis=1).tolist()}) > 2
        state = step(state, made.put(batch.arrays))
    return jax.device_get(made.leave(state))


@pytest.mark.slow
def test_eight_devices_in_every_mode_and_micro_batches_are_one_device(subwords: Subwords) -> None:
    task = task_of(subwords)
    assert task.model.embedding_dropout > 0
    expected = stepped(task, DevicesConfig(count=1))
    for config in (
        DevicesConfig("shard", 8),
        DevicesConfig("pmap", 8),
        DevicesConfig("shard", 2, micro_batches=2),
        DevicesConfig("fsdp", 4, micro_batches=2),
    ):
        found = stepped(task, config)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=3e-5, atol=3e-6), found, expected)
    assert expected.totals.terms["next_sentence"][1] == 16


def go(task: TransformerTask, run_dir: Path, stop: int = 0) -> tuple[dict, list[dict]]:
    """Train five steps, or until a batch `stop` raises what ends the process; parameters and metrics lines."""
    config = TrainConfig(
        model=task.model,
        sequences=task.sequences,
        optimizer=AdamW(learning_rate=0.02, warmup=1, average=0.5),
        devices=DevicesConfig(count=1),
        checkpoint=CheckpointConfig(every=1),
        evaluate=EvaluateConfig(every=5),
        log=LogConfig(every=1),
        run_dir=str(run_dir),
        steps=5,
    )
    taken = replace(task) if not stop else Stopping(**vars(task), left=[stop])
    with RunCheckpoints(run_dir / "checkpoints", clean=True) as checkpoints:
        train(config, taken, checkpoints, lambda line: None)
        params = jax.device_get(checkpoints.restore_params(5))
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return params, [{name: value for name, value in line.items() if name != "tokens_per_second"} for line in lines]


class Killed(Exception):
    """Stands for a process that ends."""


class Stopping(TransformerTask):
    def __init__(self, left: list[int], **fields: object) -> None:
        super().__init__(**fields)  # type: ignore[arg-type]
        object.__setattr__(self, "left", left)

    def tokens(self, arrays: dict[str, np.ndarray]) -> int:
        self.left[0] -= 1  # type: ignore[attr-defined]
        if self.left[0] == 0:  # type: ignore[attr-defined]
            raise Killed
        return super().tokens(arrays)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [2, 3, 5])
def test_a_killed_run_goes_on_bit_for_bit_in_either_phase(
    stop: int, subwords: Subwords, tmp_path: Path, whole: tuple[dict, list[dict]]
) -> None:
    task = task_of(subwords, PLAIN, PHASED)
    with pytest.raises(Killed):
        go(task, tmp_path, stop)
    params, lines = go(task, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, params, whole[0])
    assert lines == whole[1]


@pytest.fixture(scope="module")
def whole(subwords: Subwords, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, list[dict]]:
    return go(task_of(subwords, PLAIN, PHASED), tmp_path_factory.mktemp("whole"))


@pytest.mark.slow
def test_every_line_says_what_is_measured(whole: tuple[dict, list[dict]]) -> None:
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


def test_two_phases_hold_as_many_tokens_and_positions_find_either(subwords: Subwords) -> None:
    task = task_of(subwords, PLAIN, PHASED)
    source = task.batches(0, 8)
    batches = [next(source) for _ in range(5)]
    assert [batch.arrays["token_ids"].shape for batch in batches] == [(16, 8)] * 2 + [(8, 16)] * 3
    assert [batch.position["step"][0] for batch in batches] == [1, 2, 3, 4, 5]
    for place in (0, 1, 3):
        again = task.batches(0, 8)
        again.seek(batches[place].position)
        for name, array in next(again).arrays.items():
            np.testing.assert_array_equal(array, batches[place + 1].arrays[name])
    # The rows of two hosts are those of one.
    for host in range(2):
        own = task.batches(4 * host, 4)
        for batch in batches[1:3]:
            next(own) if batch is batches[1] else None
            part = next(own).arrays["token_ids"]
            size = len(part)
            np.testing.assert_array_equal(part, batch.arrays["token_ids"][host * size : (host + 1) * size])
    assert isinstance(source, Phases)
    with pytest.raises(ValueError, match="first-steps"):
        source.seek({"epoch": np.zeros(8), "index": np.zeros(8)})


def test_of_an_import_other_sequences_are_asked_for(subwords: Subwords) -> None:
    """No flag changes the shape of an import, so that none is named."""
    size = len(subwords)
    for model, config, said in (
        (replace(PLAIN, causal=True), PHASED, "set --sequences.form causal"),
        (PLAIN, replace(PHASED, form="causal"), "set --sequences.form full"),
        (replace(MODEL, token_types=1), PAIRS, "set --sequences.form full"),
        (replace(MODEL, positions_after_padding=True), PAIRS, "set --sequences.pairs none"),
        (replace(PLAIN, max_positions=15), PHASED, "set a shorter --sequences.length"),
    ):
        with pytest.raises(ValueError, match=said) as error:
            with_tokenizer(replace(model, vocabulary=size), config, subwords, imported=True)
        assert "--model" not in str(error.value)


def test_sequences_longer_than_rotary_positions_are_refused_too(subwords: Subwords) -> None:
    rotary = replace(PLAIN, positions="rotary", max_positions=15, token_types=0)
    with pytest.raises(ValueError, match=r"length 16 is longer than the 15 positions .*--model\.max-positions"):
        with_tokenizer(rotary, PHASED, subwords)
    with pytest.raises(ValueError, match="positions hold 2: take a model with more"):
        pseudo_perplexity(replace(rotary, max_positions=2), {}, subwords, [["cat"] * 14])
    inputs = {"token_ids": np.zeros((1, 16), np.int32), "token_mask": np.ones((1, 16), bool)}
    with pytest.raises(ValueError, match="longer than the 15"):
        embed_transformer(replace(rotary, vocabulary=len(subwords)), {}, inputs)


@pytest.mark.slow
def test_held_out_text_is_read_in_few_rows_whatever_the_batch(
    subwords: Subwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("roberta_base", "bert_large", "modern_base"):
        config, _ = load(find(name))
        assert config.sequences is not None
        for devices in (1, 8):
            rows = rows_at_once(config.sequences, devices)
            assert rows % devices == 0 and devices <= rows <= 32 * devices and rows < config.sequences.rows
    assert [rows_at_once(PHASED, devices) for devices in (1, 3, 8, 16)] == [8, 9, 8, 16]
    task = task_of(subwords)
    params = jax.jit(task.init)(jax.random.key(0))
    whole = task.evaluate(params, jax.devices()[:1], print)
    monkeypatch.setattr("ctx_jax.evaluation.masked_lm_eval.AT_ONCE", 48)  # three rows of 16 tokens instead of eight
    assert rows_at_once(task.sequences, 1) == 3
    few = task.evaluate(params, jax.devices()[:1], print)
    assert whole is not None and few is not None and whole.keys() == few.keys()
    np.testing.assert_allclose([*few.values()], [*whole.values()], rtol=1e-5)


@pytest.mark.slow
def test_held_out_text_is_measured_with_one_mask_on_any_devices(subwords: Subwords) -> None:
    task = task_of(subwords)
    params = jax.jit(task.init)(jax.random.key(0))
    one, two = (task.evaluate(params, jax.devices()[:count], print) for count in (1, 8))
    assert one is not None and two is not None
    assert one.keys() == {"loss", "perplexity", "accuracy", "masked_loss", "next_sentence_loss",
                          "next_sentence_accuracy"}  # fmt: skip
    np.testing.assert_allclose([*one.values()], [*two.values()], rtol=1e-5)
    other = replace(task, seed=99).evaluate(params, jax.devices()[:8], print)
    assert other == two, "the mask is the run's seed's"
    assert task.valid is not None
    sums = np.zeros(2)
    loss = jax.jit(lambda batch: losses.masked_lm(task.model, params, batch)[0])
    for batch in held_out(task.valid, subwords, task.model, task.sequences):
        sums += [float(part) for part in loss(batch.arrays)["masked"]]
    assert one["masked_loss"] == pytest.approx(sums[0] / sums[1], rel=1e-5)


def test_the_first_sentences_are_a_text_of_their_own(subwords: Subwords) -> None:
    some, alone = first_sentences(tokens(subwords), 25), tokens_of(text(0, 60)[:25], np.array([0, 10, 20]), subwords)
    for name in ("ids", "begins", "offsets", "documents"):
        np.testing.assert_array_equal(getattr(some, name), getattr(alone, name))
    assert first_sentences(some, 0) is some


@pytest.mark.slow
def test_pseudo_perplexity_masks_each_piece_in_turn(subwords: Subwords) -> None:
    task = task_of(subwords, PLAIN, PHASED)
    params = jax.jit(task.init)(jax.random.key(3))
    sentences = [["the", "cat", "sat"], ["a", "dog"]]
    found = pseudo_perplexity(task.model, params, subwords, sentences, batch=4)
    nats, count = 0.0, 0
    loss = jax.jit(lambda batch: losses.masked_lm(task.model, params, batch)[0]["masked"][0])
    for words in sentences:
        ids = subwords.add_special_tokens(subwords.tokenize_words([words])[0].ids)
        for place in range(1, len(ids) - 1):
            row = np.where(np.arange(len(ids)) == place, subwords.mask_id, ids)[None].astype(np.int32)
            one = {"predicted_positions": np.array([[place]]), "predicted_ids": ids[None, [place]]}
            nats += float(loss({"token_ids": row, "predicted_weights": np.ones((1, 1), np.float32), **one}))
            count += 1
    assert found.tokens == count
    assert found.perplexity == pytest.approx(np.exp(nats / count), rel=1e-5)
    # What no row holds is cut into rows that are full, and the rest.
    done: list[int] = []
    long = pseudo_perplexity(task.model, params, subwords, [["dog"] * 30, ["dog"]], batch=4, advance=done.append)
    parts = pseudo_perplexity(task.model, params, subwords, [*(["dog"] * n for n in (14, 14, 2)), ["dog"]], batch=4)
    assert sum(done) == 2
    assert (long.tokens, long.loss) == (parts.tokens, pytest.approx(parts.loss, rel=1e-6)) and long.tokens == 31


def test_roberta_positions_begin_behind_the_padding(subwords: Subwords) -> None:
    model = replace(PLAIN, positions_after_padding=True, max_positions=17)
    batch = next(task_of(subwords, model, replace(PHASED, first_steps=0)).batches(0, 8))
    places = batch.arrays["positions"]
    assert subwords.pad_id == 0 and places[:, 0].tolist() == [1] * 8
    assert (places[~batch.arrays["mask"]] == 0).all() and isinstance(batch.arrays, dict)
    with pytest.raises(ValueError, match="--model.max-positions"):
        task_of(subwords, replace(model, max_positions=16), PHASED)


def test_flops_of_bert_base_are_those_of_the_literature(subwords: Subwords) -> None:
    task = replace(task_of(subwords), model=Transformer(), sequences=SequenceConfig(length=128))
    assert task.flops_per_token() == pytest.approx(546e6, rel=0.01)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"sequences": None}, "needs sequences"),
        ({"model": replace(PLAIN, causal=True)}, "--sequences.form full"),
        ({"model": replace(PLAIN, head="none")}, "--model.head"),
        ({"model": MODEL}, "--model.no-next-sentence"),
        ({"sequences": PAIRS}, "--model.pooler --model.next-sentence"),
        ({"sequences": PAIRS, "model": replace(MODEL, token_types=0)}, "--model.token-types 2, or --sequences.form"),
        (
            {"sequences": PAIRS, "model": replace(MODEL, positions_after_padding=True)},
            "roberta.* --sequences.pairs none",
        ),
        ({"steps": 2}, "--sequences.first-steps 2"),
        ({"data": DataConfig(vocabulary_size=9)}, "--data.vocabulary-size is for a BiLM"),
    ],
)
def test_settings_that_do_not_fit_a_transformer_are_refused_by_flag(changes: dict, said: str) -> None:
    config = TrainConfig(model=PLAIN, sequences=PHASED, tokenizer=TokenizerConfig())
    check_config(config)
    with pytest.raises(ValueError, match=said):
        check_config(replace(config, **changes))


def test_a_vocabulary_of_another_size_than_the_tokenizers_is_refused(subwords: Subwords) -> None:
    with pytest.raises(ValueError, match=r"--model.vocabulary .* has a vocabulary of 7"):
        with_tokenizer(replace(PLAIN, vocabulary=7), PHASED, subwords)
    assert isinstance(task_of(subwords, PLAIN, replace(PHASED, first_steps=0)).batches(0, 8), Sequences)
