"""The biLM as a task: one step on one device and on eight, whole runs, export."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import ctx_jax
from ctx_jax.cli import main
from ctx_jax.commands.train import find, load, read
from ctx_jax.data.config import DataConfig
from ctx_jax.encoders.elmo.model import BiLM
from ctx_jax.tasks.bilm import BiLMTask, with_vocabulary
from ctx_jax.tokenizers.vocabulary import Vocabulary
from ctx_jax.training.config import DevicesConfig, check_config
from ctx_jax.training.devices import Devices
from ctx_jax.training.optimizer import Adagrad
from ctx_jax.training.step import State, initial_state, make_step

WORDS = Vocabulary(("<S>", "</S>", "<UNK>", *(f"{letter}{tail}" for letter in "abcdefgh" for tail in ("", "xyz"))))
TINY = BiLM(
    max_characters=7, character_dim=3, filters=((1, 3), (2, 4)), dim=5, projection=4, depth=1, dropout=0.2,
    long_word_share=0.5, dedup_table_factors=(1.0,),
)  # fmt: skip
RECIPE = Adagrad(learning_rate=0.3, loss_scale=3.0)


@pytest.mark.parametrize(
    ("name", "highways", "dim", "projection"),
    [("elmo_small", 1, 1024, 128), ("elmo_medium", 1, 2048, 256), ("elmo_original", 2, 4096, 512)],
)
def test_the_shipped_configs_have_the_published_sizes(name: str, highways: int, dim: int, projection: int) -> None:
    model = load(find(name))[0].model
    assert isinstance(model, BiLM)
    assert (model.highways, model.dim, model.projection, model.depth) == (highways, dim, projection, 2)


def test_word_inputs_take_the_size_of_the_runs_vocabulary() -> None:
    config = read(["--model.token-input", "words"])
    check_config(config)
    assert isinstance(config.model, BiLM) and config.model.vocabulary == 0
    model = with_vocabulary(config.model, WORDS)
    assert model.vocabulary == len(WORDS)
    with pytest.raises(ValueError, match="leave it out"):
        with_vocabulary(replace(config.model, vocabulary=5), WORDS)


def sentences(seed: int, count: int) -> list[list[str]]:
    random = np.random.default_rng(seed)
    return [[WORDS.words[word] for word in random.integers(3, len(WORDS), random.integers(1, 6))] for _ in range(count)]


def task(model: BiLM = TINY) -> BiLMTask:
    data = DataConfig(batch_size=8, unroll_steps=3)
    return BiLMTask(model, data, 3, sentences(0, 40), None, WORDS, negatives=5, zero_start=0.3)  # type: ignore[arg-type]


def trained(devices: DevicesConfig, model: BiLM = TINY) -> tuple[State, State]:
    """The state after one step and after three, with uneven weights and some rows without a target."""
    trained_task = task(model)
    where, batches = Devices(devices, 8), trained_task.batches(0, 8)
    step = where.compile(make_step(trained_task, RECIPE, 3, seed=3))
    state, seen = where.enter(where.create(lambda: initial_state(trained_task, RECIPE, 3, 3, 8))), []
    for _ in range(3):
        arrays = next(batches).arrays
        weight = (arrays.forward_targets % 4 > 0).astype(np.float32)
        weight[:2] = 0
        state = step(state, where.put(arrays._replace(weights=weight)))
        seen.append(jax.device_get(where.leave(state)))
    return seen[0], seen[-1]


@pytest.fixture(scope="module")
def alone() -> tuple[State, State]:
    return trained(DevicesConfig(count=1))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["shard", "pmap"])
def test_eight_devices_equal_one(mode: Any, alone: tuple[State, State]) -> None:
    """Characters, dropout, sampled softmax, fresh states, uneven weights: parameters, moments, carry and losses."""
    for found, expected in zip(trained(DevicesConfig(mode, 8)), alone, strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), found, expected)


@pytest.mark.slow
def test_bfloat16_goes_the_same_way_within_its_precision(alone: tuple[State, State]) -> None:
    first, last = trained(DevicesConfig(count=1), replace(TINY, compute="bfloat16"))
    assert last.totals.bad == -1
    assert all(leaf.dtype == np.float32 and np.isfinite(leaf).all() for leaf in jax.tree.leaves(last.params))
    for name, (total, weight) in alone[0].totals.terms.items():
        assert first.totals.terms[name][1] == weight > 0
        np.testing.assert_allclose(first.totals.terms[name][0], total, rtol=5e-3)
    np.testing.assert_allclose(first.totals.gradient_norm, alone[0].totals.gradient_norm, rtol=2e-2)
    begun = jax.device_get(task().init(jax.random.fold_in(jax.random.key(3), 2**32 - 1)))
    way, expected = (
        np.concatenate([(b - a).ravel() for a, b in zip(*map(jax.tree.leaves, (begun, state.params)), strict=True)])
        for state in (first, alone[0])
    )
    assert np.linalg.norm(way - expected) < 0.05 * np.linalg.norm(expected)


CONFIG = '''
"""Tiny."""
from ctx_jax.data.config import DataConfig
from ctx_jax.encoders.elmo.model import BiLM
from ctx_jax.training.config import DevicesConfig, TrainConfig

def config():
    return TrainConfig(
        model=BiLM(max_characters=8, character_dim=3, filters=((1, 4), (2, 4)), dim=6, projection=4, depth=1),
        data=DataConfig(train="{text}", batch_size=4, unroll_steps=5),
        devices=DevicesConfig(count=1),
        steps=2,
    )
'''


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / "text.txt").write_text("".join(f"{' '.join(words)}\n" for words in sentences(1, 30)))
    (tmp_path / "tiny.py").write_text(CONFIG.format(text=tmp_path / "text.txt"))
    return str(tmp_path / "tiny.py")


@pytest.mark.slow
def test_a_run_is_exported_to_files_that_load_reads_as_the_same_encoder(config: str, tmp_path: Path) -> None:
    run, folder = tmp_path / "run", tmp_path / "exported"
    assert main(["train", config, "--run-dir", str(run)]) == 0
    assert main(["export", str(run), str(folder)]) == 0
    names = {"options.json", "weights.hdf5", "softmax.hdf5", "vocabulary.txt"}
    assert {path.name for path in folder.iterdir()} == names
    assert (folder / "vocabulary.txt").read_bytes() == (run / "vocabulary.txt").read_bytes()
    ours, theirs = ctx_jax.load(run), ctx_jax.load(folder)
    assert jax.tree.structure(ours.params) == jax.tree.structure(theirs.params)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, ours.params, theirs.params)))
    assert theirs.model == replace(ours.model, dropout=theirs.model.dropout)
    with pytest.raises(SystemExit):
        main(["export", str(run)])


@pytest.mark.slow
def test_a_run_over_words_goes_on_and_is_loaded(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", config, "--run-dir", str(tmp_path / "words"), "--model.token-input", "words"]
    assert main(command) == 0
    assert main(command) == 0
    assert "nothing to train" in capsys.readouterr().out
    encoder = ctx_jax.load(tmp_path / "words")
    assert encoder.params["words"]["embedding"].shape == (encoder.model.vocabulary, 4)
    assert next(iter(encoder.encode([["a", "bxyz"]]))).shape == (2, 2, 8)


@pytest.mark.slow
def test_the_quickstart_trains_and_shows_what_counting_reaches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--steps", "2", "--devices.count", "1", "--evaluate.sentences", "100"]
    assert main(["train", "quickstart", "--run-dir", str(tmp_path / "run"), *flags]) == 0
    said = capsys.readouterr().out
    for part in ("interpolated trigram model: ", "unigram model: ", "<UNK> among the validation targets: "):
        assert part in said
    assert "fitted on the first" not in said  # all of it
