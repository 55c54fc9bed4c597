"""ELECTRA's pretraining: the laws of its samples and labels, any devices, resuming, fifty steps of torch, and files."""

import json
import re
import shutil
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_replaced_token_parity import both_models

import ctx_jax
from ctx_jax.cli import main
from ctx_jax.commands.train import find, load
from ctx_jax.data.batch import MaskedBatch, TokenRows
from ctx_jax.data.config import TextConfig
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.data.tokens import tokens_of
from ctx_jax.encoders.transformer import Transformer, last_hidden
from ctx_jax.io.errors import ConfigError, InputError
from ctx_jax.losses.replaced_token import noise, replace_tokens, row_keys, sample_tokens
from ctx_jax.tasks import TrainConfig, exporting
from ctx_jax.tasks.replaced_token import (
    GENERATOR,
    HEAD,
    GeneratorConfig,
    ReplacedTokenConfig,
    ReplacedTokenTask,
    generator_of,
)
from ctx_jax.tasks.setup import EvaluateConfig
from ctx_jax.tokenizers.subword_training import TokenizerConfig
from ctx_jax.tokenizers.subword_training import train as train_tokenizer
from ctx_jax.tokenizers.subwords import Subwords
from ctx_jax.training.config import CheckpointConfig, DevicesConfig, LogConfig
from ctx_jax.training.devices import Devices
from ctx_jax.training.optimizer import AdamW
from ctx_jax.training.run import run
from ctx_jax.training.step import State, TrainingStep
from ctx_jax.training.task import TaskContext

WORDS = ["the", "a", "cat", "dog", "bird", "sat", "ran", "saw", "under", "over", "table", "house", "tree", "."]
MODEL = Transformer(0, dim=8, depth=1, heads=2, feed_forward=16, embedding_dim=6, max_positions=16, initial_scale=0.3)
ROWS = SequenceConfig(length=16, batch_size=8, mask_rate=0.3, mask_token_probability=0.85, random_token_probability=0.0)


def text(seed: int, count: int) -> list[list[str]]:
    random = np.random.default_rng(seed)
    return [[WORDS[word] for word in random.integers(0, len(WORDS), random.integers(2, 9))] for _ in range(count)]


@pytest.fixture(scope="module")
def subwords() -> Subwords:
    return train_tokenizer(text(0, 60), "wordpiece", 60)


def task_of(subwords: Subwords, model: Transformer = MODEL, **changes: Any) -> ReplacedTokenTask:
    config = ReplacedTokenConfig(model=model, sequences=ROWS, generator=GeneratorConfig(width=0.5), **changes)
    train, valid = (tokens_of(text(seed, 60), np.arange(0, 60, 10), subwords) for seed in (0, 1))
    return ReplacedTokenTask(config.with_tokenizer(subwords), 5, train, valid, subwords, ())


def test_published_sizes() -> None:
    small = load(find("electra_small"))[0].task
    assert isinstance(small, ReplacedTokenConfig) and small.discriminator_weight == 50
    generator = small.heads()[GENERATOR].model
    assert (generator.dim, generator.heads, generator.feed_forward, generator.depth) == (64, 1, 256, 12)
    assert generator.embedding_dim == 128
    base = GeneratorConfig(width=1 / 3).model_of(Transformer())
    assert (base.dim, base.heads, base.feed_forward, base.embedding_dim) == (256, 4, 1024, 768)
    large = GeneratorConfig().model_of(Transformer(dim=1024, depth=24, heads=16, feed_forward=4096))
    assert (large.dim, large.heads, large.feed_forward, large.depth) == (256, 4, 1024, 24)
    equal = GeneratorConfig(width=0.5).model_of(replace(MODEL, embedding_dim=4))
    assert equal.dim == 4 and equal.embedding_dim is None, "no projection where the widths are equal"


def test_samples_stand_where_tokens_were_masked_and_a_hit_is_no_replacement() -> None:
    original = np.array([[2, 10, 11, 12, 3], [2, 20, 21, 3, 0]])
    positions, weights = np.array([[1, 3, 0], [2, 0, 0]]), np.array([[1, 1, 0], [1, 0, 0]], np.float32)
    masked = original.copy()
    masked[0, 1], masked[1, 2] = 4, 4  # the other masked token was left as it is
    predicted = np.array([[10, 12, 0], [21, 0, 0]])
    batch = MaskedBatch(TokenRows(masked), positions, predicted, weights)
    rows = replace_tokens(batch, jnp.array([[10, 77, 55], [66, 55, 55]]))
    np.testing.assert_array_equal(rows.token_ids, [[2, 10, 11, 77, 3], [2, 20, 66, 3, 0]])
    np.testing.assert_array_equal(rows.replaced, np.asarray(rows.token_ids) != original)


@pytest.mark.slow
def test_samples_have_the_distribution_of_the_softmax_and_depend_on_the_row_alone() -> None:
    bias = jnp.array([0.0, 1.0, 2.0, -jnp.inf])
    hidden, matrix = jnp.zeros((1, 4000, 2)), jnp.zeros((4, 2))
    keys = row_keys(jax.random.key(1), TokenRows(jnp.zeros((1, 5), jnp.int32)))
    shares = np.bincount(np.asarray(sample_tokens(hidden, matrix, bias, keys))[0], minlength=4) / 4000
    np.testing.assert_allclose(shares, jax.nn.softmax(bias), atol=0.03)
    ids, rows = jnp.zeros((4, 5), jnp.int32), jnp.array([7, 3, 5, 4])
    draw = partial(sample_tokens, jnp.zeros((4, 6, 2)), matrix, bias)
    one = draw(row_keys(jax.random.key(1), TokenRows(ids, rows=rows)))
    other = draw(row_keys(jax.random.key(1), TokenRows(ids, rows=rows[::-1])))
    np.testing.assert_array_equal(one, other[::-1])
    assert len({*map(tuple, np.asarray(one).tolist())}) == 4


@pytest.mark.slow
def test_the_loss_is_a_few_lines_of_numpy_and_no_gradient_passes_through_the_samples(subwords: Subwords) -> None:
    task = task_of(subwords)
    params = jax.jit(task.init)(jax.random.key(0))
    batch: MaskedBatch = next(task.batches(0, 8)).arrays
    frequent = np.bincount(batch.predicted_ids[batch.predicted_weights > 0]).argmax()
    decoder = params["head"][GENERATOR]["masked_lm"]["decoder"]
    decoder["bias"] = decoder["bias"].at[frequent].set(6.0)  # so that some samples hit the original

    def discriminator(params: Any) -> Any:
        terms, _ = task.loss(params, batch, (), None)
        return terms["discriminator"][0], terms

    gradient, terms = jax.jit(jax.grad(discriminator, has_aux=True))(params)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient["head"][GENERATOR]))
    assert np.any(gradient["encoder"]["embeddings"]["tokens"]) and np.any(gradient["head"][HEAD]["out"]["kernel"])

    generator, own = task.heads[GENERATOR], params["head"][GENERATOR]
    shared = {name: params["encoder"]["embeddings"][name] for name in ("tokens", "positions", "types", "norm")}
    body = own["encoder"] | {"embeddings": shared | own["encoder"]["embeddings"]}
    of_rows = jax.jit(last_hidden, static_argnums=0)
    last = np.asarray(of_rows(generator.model, body, batch.tokens.token_ids, lengths=batch.tokens.lengths))
    scores = np.asarray(generator.head.logits(own["masked_lm"], last, shared["tokens"]))
    rows = np.arange(8)[:, None]
    chosen = scores[rows, batch.predicted_positions]  # [B, K, V]
    real = batch.predicted_weights > 0
    logs = chosen - np.log(np.exp(chosen).sum(-1, keepdims=True))
    nats = -np.take_along_axis(logs, batch.predicted_ids[:, :, None], 2)[:, :, 0]
    np.testing.assert_allclose(terms["generator"], (nats[real].sum(), real.sum()), rtol=1e-5)

    keys = row_keys(None, batch.tokens)
    drawn = np.asarray(jax.vmap(lambda key: noise(key, *chosen.shape[1:]))(keys))
    samples = np.argmax(chosen + drawn, -1)
    ids, labels = np.array(batch.tokens.token_ids), np.zeros(batch.tokens.token_ids.shape, bool)
    for row, place in zip(*np.nonzero(real), strict=True):
        position = batch.predicted_positions[row, place]
        ids[row, position] = samples[row, place]
        labels[row, position] = samples[row, place] != batch.predicted_ids[row, place]
    hidden = of_rows(task.model, params["encoder"], ids, lengths=batch.tokens.lengths)
    logits = np.asarray(task.heads[HEAD].logits(params["head"][HEAD], hidden))[..., 0]
    loss = np.log1p(np.exp(np.where(labels, -logits, logits)))
    mask = np.asarray(batch.tokens.mask)
    expected = {
        "discriminator": loss,
        "discriminator_accuracy": (logits > 0) == labels,
        "replaced": labels,
        "found": (logits > 0) & labels,
    }
    for name, values in expected.items():
        np.testing.assert_allclose(terms[name], (values[mask].sum(), mask.sum()), rtol=1e-5, err_msg=name)
    assert not mask.all() and 0 < labels.sum() < real.sum()


def stepped(task: ReplacedTokenTask, config: DevicesConfig) -> State:
    """The state after two steps."""
    devices = Devices(config, task.batch_size)
    step = TrainingStep(task, AdamW(learning_rate=0.02, warmup=1, epsilon=1e-3), 2, 7, config.micro_batches)
    compiled = devices.compile(step)
    state = devices.enter(devices.create(step.initial)[0])
    for batch in islice(task.batches(0, task.batch_size), 2):
        batch.arrays.predicted_weights[:3] = 0  # devices and micro-batches without anything masked
        state = compiled(state, {}, devices.put(batch.arrays))
    return jax.device_get(devices.leave(state))


@pytest.mark.slow
def test_eight_devices_in_every_mode_and_micro_batches_are_one_device(subwords: Subwords) -> None:
    task = task_of(subwords)
    assert task.model.embedding_dropout > 0
    expected = stepped(task, DevicesConfig(count=1))
    for config in (DevicesConfig("fsdp", 8), DevicesConfig("shard", 2, micro_batches=2)):
        found = stepped(task, config)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=3e-5, atol=3e-6), found, expected)


@pytest.mark.slow
def test_metrics_of_a_text_are_the_same_on_any_devices(subwords: Subwords) -> None:
    task = task_of(subwords)
    params = jax.jit(task.init)(jax.random.key(0))
    one, eight = (task.evaluators[0](params, jax.devices()[:count], print) for count in (1, 8))
    assert one == pytest.approx(eight, rel=1e-5)
    assert isinstance(one, dict)
    assert one["loss"] == pytest.approx(one["generator_loss"] + 50 * one["discriminator_loss"], rel=1e-6)
    assert 0 < one["replaced"] < 0.3 and 0 <= one["replaced_recall"] <= 1


def settings(folder: Path, **changes: Any) -> TrainConfig:
    return TrainConfig(
        task=ReplacedTokenConfig(
            model=MODEL,
            generator=GeneratorConfig(width=0.5),
            data=TextConfig(train=str(folder / "train.txt"), valid=str(folder / "valid.txt")),
            sequences=replace(ROWS, batch_size=4),
            tokenizer=TokenizerConfig(kind="wordpiece", size=60),
            evaluate=EvaluateConfig(every=2),
            **changes,
        ),
        optimizer=AdamW(learning_rate=0.02, warmup=1),
        devices=DevicesConfig(count=1),
        checkpoint=CheckpointConfig(every=2, keep=9),
        log=LogConfig(every=1),
        run_dir=str(folder / "run"),
        steps=4,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with texts and a run."""
    folder = tmp_path_factory.mktemp("electra")
    for name, seed in (("train", 0), ("valid", 1)):
        (folder / f"{name}.txt").write_text("\n".join(" ".join(words) for words in text(seed, 40)) + "\n")
    run(settings(folder))
    return folder


def lines(run_dir: Path) -> list[dict]:
    found = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "tokens_per_second"} for line in found]


@pytest.mark.slow
def test_a_stopped_run_is_resumed_bit_for_bit(place: Path, tmp_path: Path) -> None:
    first = replace(settings(place), run_dir=str(tmp_path / "run"))
    stored = TokenizerConfig(file=str(place / "run" / "tokenizer.json"))  # two trainings may differ
    first = replace(first, task=replace(first.task, tokenizer=stored))
    run(first)
    again = replace(first, run_dir=str(tmp_path / "again"))
    run(again)
    for left in ("checkpoints/4", "checkpoints/4.sha256.json"):
        path = tmp_path / "again" / left
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    run(again)
    whole, resumed = (ctx_jax.load(tmp_path / name, step=4).run_params for name in ("run", "again"))
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)
    assert lines(tmp_path / "again")[-2:] == lines(tmp_path / "run")[-2:]


def test_a_run_loads_as_its_discriminator_and_its_metrics_are_named(place: Path) -> None:
    encoder = ctx_jax.load(place / "run")
    assert (encoder.model.width, encoder.architecture) == (8, "electra") and {*encoder.heads} == {HEAD, GENERATOR}
    assert next(iter(encoder.encode(["the cat sat"]))).shape == (2, 3, 8)
    generator = generator_of(encoder)
    assert generator.model.width == 4 and {*generator.heads} == {"masked_lm"}
    tables, shared = encoder.params["embeddings"], generator.params["embeddings"]
    assert all(shared[name] is tables[name] for name in ("tokens", "positions", "types", "norm"))
    with pytest.raises(InputError, match="no generator.*masked_lm"):
        generator_of(generator)
    names = {
        "loss",
        "generator_loss",
        "generator_accuracy",
        "discriminator_loss",
        "discriminator_accuracy",
        "replaced_recall",
    }
    assert all(names <= line.keys() for line in lines(place / "run"))
    assert {line["split"] for line in lines(place / "run")} == {"train", "valid"}


def test_evaluate_prints_what_the_run_measured(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured = lines(place / "run")[-1]
    assert main(["evaluate", str(place / "run"), str(place / "valid.txt"), "--step", "latest"]) == 0
    assert f"{measured['discriminator_loss']:,.4f}" in capsys.readouterr().out
    assert main(["evaluate", str(place / "run"), str(place / "valid.txt"), "--pseudo-perplexity"]) == 1
    assert "--pseudo-perplexity" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_starts_from_an_exported_discriminator(place: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=GENERATOR):
        exporting.export(place / "run", tmp_path / "electra")
    source = ctx_jax.load(place / "run")
    for init, kept in ((tmp_path / "electra", False), (place / "run", True)):
        config = replace(settings(place), run_dir=str(tmp_path / "again")).task
        task = replace(config, init=str(init)).open(TaskContext(tmp_path, 0, 4, False, lambda line: None))
        fresh = task.init(jax.random.key(3))
        params = task.initial(fresh)
        jax.tree.map(np.testing.assert_array_equal, params["encoder"], source.params)
        jax.tree.map(np.testing.assert_array_equal, params["head"][HEAD], source.heads[HEAD].params)
        expected = source.heads[GENERATOR].params if kept else fresh["head"][GENERATOR]
        jax.tree.map(np.testing.assert_array_equal, params["head"][GENERATOR], expected)
    other = replace(config, init=str(place / "run"), generator=GeneratorConfig(width=1.0))
    with pytest.raises(ConfigError, match=r"generator\.width.*width 4"):
        other.open(TaskContext(tmp_path, 0, 4, False, lambda line: None))


@pytest.mark.slow
def test_exported_parts_are_the_same_models_in_transformers_and_read_back(place: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    for part, name in (("encoder", "discriminator"), ("generator", "generator")):
        assert main(["export", str(place / "run"), str(tmp_path / name), "--part", part]) == 0
    generator, discriminator = both_models(tmp_path)
    encoder = ctx_jax.load(place / "run")
    inputs = encoder.tokenize(["the cat sat over a dog", "a tree"], level="tokens")
    arrays = {
        "input_ids": torch.tensor(inputs["token_ids"].astype(np.int64)),
        "attention_mask": torch.tensor(inputs["token_mask"].astype(np.int64)),
    }
    real = inputs["token_mask"]
    for theirs, head, name in ((discriminator, HEAD, "discriminator"), (generator, "masked_lm", "generator")):
        read = ctx_jax.load(tmp_path / name)
        assert {*read.heads} == {head}
        hidden = ctx_jax.embed(read.model, read.params, inputs).values[-1]
        module, params = read.heads[head]
        table = (read.params["embeddings"]["tokens"],) if head == "masked_lm" else ()
        ours = np.asarray(module.logits(params, hidden, *table))
        with torch.no_grad():
            logits = theirs(**arrays).logits.numpy()
        np.testing.assert_allclose(ours[real].squeeze(), logits[real], atol=2e-5)
    jax.tree.map(np.testing.assert_array_equal, ctx_jax.load(tmp_path / "discriminator").params, encoder.params)


@pytest.mark.parametrize(
    "field, changes",
    [
        ("generator.width", {"generator": {"width": 1.5}}),
        ("generator.width", {"model": {"dim": 100, "heads": 4}, "generator": {"width": 0.51}}),
        ("sequences.pair_label", {"sequences": {"packing": "pairs"}}),
        ("model.causal", {"model": {"causal": True}}),
        ("discriminator_weight", {"discriminator_weight": -1.0}),
        ("head.tied", {"head": {"tied": False}}),
    ],
)
def test_settings_that_do_not_fit_are_named(field: str, changes: dict[str, Any]) -> None:
    config = ReplacedTokenConfig(model=MODEL)
    with pytest.raises(ConfigError, match=re.escape(field)):
        replace(
            config,
            **{
                name: replace(getattr(config, name), **value) if isinstance(value, dict) else value
                for name, value in changes.items()
            },
        ).check(5)
