"""The biLM as a task: one step on one device and on eight, whole runs, pages, export."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ctx_jax
from ctx_jax import losses
from ctx_jax.cli import main
from ctx_jax.commands.train import find, load
from ctx_jax.data.batch import BiLMBatch
from ctx_jax.data.config import BiLMData
from ctx_jax.encoders.elmo import BiLM, zero_carry
from ctx_jax.encoders.elmo.init import init_softmax
from ctx_jax.io.errors import ConfigError
from ctx_jax.tasks.bilm import BiLMConfig, BiLMTask
from ctx_jax.tokenizers.vocabulary import Vocabulary
from ctx_jax.training.config import DevicesConfig
from ctx_jax.training.devices import Devices
from ctx_jax.training.optimizer import Adagrad
from ctx_jax.training.parameter_groups import named
from ctx_jax.training.step import INIT, State, TrainingStep
from ctx_jax.training.task import TaskContext

WORDS = Vocabulary(("<S>", "</S>", "<UNK>", *(f"{letter}{tail}" for letter in "abcdefgh" for tail in ("", "xyz"))))
TINY = BiLM(
    max_characters=7, character_dim=8, filters=((1, 8), (2, 8)), dim=16, projection=8, depth=1, dropout=0.2,
    long_word_share=0.5, dedup_table_factors=(1.0,),
)  # fmt: skip
ROWS = 16
OPTIMIZER = Adagrad(learning_rate=0.3, loss_scale=3.0)


@pytest.mark.parametrize(
    ("name", "highways", "dim", "projection"),
    [("elmo_small", 1, 1024, 128), ("elmo_medium", 1, 2048, 256), ("elmo_original", 2, 4096, 512)],
)
def test_the_shipped_configs_have_the_published_sizes(name: str, highways: int, dim: int, projection: int) -> None:
    model = load(find(name))[0].task.model
    assert isinstance(model, BiLM)
    assert (model.highways, model.dim, model.projection, model.depth) == (highways, dim, projection, 2)


def sentences(seed: int, count: int) -> list[list[str]]:
    random = np.random.default_rng(seed)
    return [[WORDS.words[word] for word in random.integers(3, len(WORDS), random.integers(1, 6))] for _ in range(count)]


def task_of(model: BiLM = TINY, **settings: Any) -> BiLMTask:
    data = BiLMData(batch_size=ROWS, unroll_steps=3)
    config = BiLMConfig(model=model, data=data, negatives=5, zero_start=0.3, **settings)
    return BiLMTask(config, 3, sentences(0, 40), None, WORDS)  # type: ignore[arg-type]


def trained(config: DevicesConfig, model: BiLM = TINY) -> tuple[State, State]:
    """The states after one step and after three, with uneven weights and some rows without a target."""
    task = task_of(model)
    devices, batches = Devices(config, ROWS), task.batches(0, ROWS)
    step = TrainingStep(task, OPTIMIZER, 3, 3, config.micro_batches)
    compiled, states = devices.compile(step), []
    state = devices.enter(devices.create(step.initial)[0])
    for _ in range(3):
        arrays = next(batches).arrays
        weights = (arrays.forward_targets % 4 > 0).astype(np.float32)
        weights[:2] = 0
        state = compiled(state, {}, devices.put(arrays._replace(weights=weights)))
        states.append(jax.device_get(devices.leave(state)))
    return states[0], states[-1]


@pytest.fixture(scope="module")
def one_device() -> tuple[State, State]:
    return trained(DevicesConfig(count=1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [DevicesConfig("shard", 8), DevicesConfig("pmap", 8), DevicesConfig("fsdp", 8, micro_batches=2)],
    ids=lambda config: config.mode,
)
def test_eight_devices_equal_one(config: DevicesConfig, one_device: tuple[State, State]) -> None:
    """Characters, dropout, sampled softmax, zero starts, uneven weights: parameters, moments, carry and losses."""
    for found, expected in zip(trained(config), one_device, strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), found, expected)


@pytest.mark.slow
def test_bfloat16_goes_the_same_way_within_its_precision(one_device: tuple[State, State]) -> None:
    first, last = trained(DevicesConfig(count=1), replace(TINY, compute="bfloat16"))
    assert last.totals.bad == -1
    assert all(leaf.dtype == np.float32 and np.isfinite(leaf).all() for leaf in jax.tree.leaves(last.params))
    for name, (total, weight) in one_device[0].totals.terms.items():
        assert first.totals.terms[name][1] == weight > 0
        np.testing.assert_allclose(first.totals.terms[name][0], total, rtol=5e-3)
    np.testing.assert_allclose(first.totals.gradient_norm, one_device[0].totals.gradient_norm, rtol=2e-2)
    initial = jax.device_get(task_of().init(jax.random.fold_in(jax.random.key(3), INIT)))
    update, expected = (
        np.concatenate([(b - a).ravel() for a, b in zip(*map(jax.tree.leaves, (initial, state.params)), strict=True)])
        for state in (first, one_device[0])
    )
    assert np.linalg.norm(update - expected) < 0.05 * np.linalg.norm(expected)


@pytest.mark.slow
def test_zero_start_begins_some_rows_from_a_zero_state() -> None:
    model = BiLM(token_input="words", vocabulary=16, dim=4, projection=3, depth=1, dropout=0.0)
    ids = jnp.ones((8, 1), jnp.int32)
    batch = BiLMBatch(ids, ids, ids, ids, jnp.arange(8, dtype=jnp.int32))
    key = jax.random.key(1)
    params = {
        "encoder": jax.jit(model.init)(jax.random.key(0)),
        "head": {"softmax": init_softmax(model, jax.random.key(2), vocabulary=16)},
    }

    def after(carry: object, key: jax.Array | None) -> np.ndarray:
        _, left = jax.jit(lambda: losses.bilm(model, params, batch, carry, key=key, zero_start=0.5))()
        return np.asarray(left["forward"][0]["c"])

    ones = jax.tree.map(jnp.ones_like, zero_carry(model, 8))
    some, zero, carried = after(ones, key), after(None, key), after(ones, None)
    fresh = np.isclose(some, zero, atol=1e-6).all(axis=1)
    assert 0 < fresh.sum() < 8
    np.testing.assert_allclose(some[~fresh], carried[~fresh], atol=1e-6)


CONFIG = '''
"""Tiny."""
from ctx_jax.data.batch import BiLMBatch
from ctx_jax.data.config import BiLMData
from ctx_jax.encoders.elmo import BiLM, zero_carry
from ctx_jax.encoders.elmo.init import init_softmax
from ctx_jax.tasks import TrainConfig
from ctx_jax.tasks.bilm import BiLMConfig, BiLMEvaluate
from ctx_jax.training.config import DevicesConfig

def config():
    return TrainConfig(
        task=BiLMConfig(
            model=BiLM(max_characters=8, character_dim=3, filters=((1, 4), (2, 4)), dim=6, projection=4, depth=1),
            data=BiLMData(train="{text}", valid="{text}", batch_size=4, unroll_steps=5),
            evaluate=BiLMEvaluate(every=2),
        ),
        devices=DevicesConfig(count=1),
        steps=2,
    )
'''


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / "text.txt").write_text("".join(f"{' '.join(words)}\n" for words in sentences(1, 30)))
    (tmp_path / "tiny.py").write_text(CONFIG.format(text=tmp_path / "text.txt"))
    return str(tmp_path / "tiny.py")


PAGES = {"ngrams": "trigram model", "neighbours": "in two sentences"}


def pages(printed: str) -> set[str]:
    return {name for name, part in PAGES.items() if part in printed}


@pytest.mark.slow
def test_a_run_is_exported_to_files_that_load_reads_as_the_same_encoder(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, folder = tmp_path / "run", tmp_path / "exported"
    assert main(["train", config, "--run-dir", str(run), "--evaluate.ngrams", "9"]) == 0
    assert pages(capsys.readouterr().out) == {"ngrams"}, "once at the end"
    assert main(["export", str(run), str(folder)]) == 0
    names = {"options.json", "weights.hdf5", "softmax.hdf5", "vocabulary.txt", "README.md"}
    assert {path.name for path in folder.iterdir()} == names
    assert (folder / "vocabulary.txt").read_bytes() == (run / "vocabulary.txt").read_bytes()
    ours, theirs = ctx_jax.load(run), ctx_jax.load(folder)
    assert named(ours.params).keys() == named(theirs.params).keys()
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, ours.params, theirs.params)))
    assert theirs.model == replace(ours.model, dropout=theirs.model.dropout)
    assert set(ours.heads) == {"softmax"}
    with pytest.raises(SystemExit):
        main(["export", str(run)])


@pytest.mark.slow
def test_a_run_over_words_is_resumed_and_loaded(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", config, "--run-dir", str(tmp_path / "words"), "--model.token-input", "words"]
    command += ["--evaluate.neighbours", "1"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert pages(printed) == {"neighbours"} and printed.count(PAGES["neighbours"]) == 2, "after each step"
    assert main(command) == 0
    assert "nothing to train" in capsys.readouterr().out
    encoder = ctx_jax.load(tmp_path / "words")
    assert encoder.params["words"]["embedding"].shape == (encoder.model.vocabulary, 4)
    assert next(iter(encoder.encode([["a", "bxyz"]]))).shape == (2, 2, 8)


def test_a_task_is_opened_with_the_size_of_its_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("a b c\na d\n")
    (tmp_path / "words.txt").write_text(WORDS.text())
    data = BiLMData(str(tmp_path / "text.txt"), vocabulary=str(tmp_path / "words.txt"))
    config = BiLMConfig(model=BiLM(token_input="words"), data=data)
    context = TaskContext(tmp_path / "run", 0, 3, False, lambda line: None)
    opened = config.open(context)
    assert opened.model.vocabulary == len(WORDS) == 19 and opened.evaluators == ()
    assert config.merged(opened.config) == opened.config, "a resumed run goes on with the size it found"
    for wrong, field in (
        (replace(config, model=replace(config.model, vocabulary=5)), "model.vocabulary"),
        (replace(config, negatives=19), "negatives"),
    ):
        with pytest.raises(ConfigError, match="19") as error:
            wrong.open(context)
        assert error.value.field == field


@pytest.mark.slow
def test_the_quickstart_trains_and_shows_what_counting_reaches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--steps", "2", "--devices.count", "1", "--evaluate.sentences", "100"]
    assert main(["train", "quickstart", "--run-dir", str(tmp_path / "run"), *flags]) == 0
    printed = capsys.readouterr().out
    for part in ("interpolated trigram model: ", "unigram model: ", "<UNK> among the validation targets: "):
        assert part in printed
    assert "fitted on the first" not in printed, "on all of the text"
    assert pages(printed) == {"ngrams", "neighbours"}
    valid = [json.loads(line)["split"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert valid == ["train", "valid"]
