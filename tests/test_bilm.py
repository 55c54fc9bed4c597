"""The biLM as a model and as a task: its sizes, how it begins, one step on one device and on eight, whole runs."""

from dataclasses import fields, replace
from math import nan
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import ctx_jax
from ctx_jax.cli import main
from ctx_jax.commands.train import find, load, read
from ctx_jax.data.config import DataConfig
from ctx_jax.encoders.elmo import model as bilm
from ctx_jax.encoders.elmo.model import BiLM
from ctx_jax.tasks.bilm import BiLMTask, with_vocabulary
from ctx_jax.tokenizers.vocabulary import Vocabulary
from ctx_jax.training.config import DevicesConfig, check_config
from ctx_jax.training.devices import Devices
from ctx_jax.training.optimizer import Adagrad
from ctx_jax.training.step import State, initial_state, make_step

WORDS = Vocabulary(("<S>", "</S>", "<UNK>", *(f"{letter}{tail}" for letter in "abcdefgh" for tail in ("", "xyz"))))
TINY = BiLM(
    len(WORDS), max_characters=7, character_dim=3, filters=((1, 3), (2, 4)), dim=5, projection=4, layers=1,
    dropout=0.2, zero_start=0.3, negatives=5, long_words=0.5, table_factors=(1.0,),
)  # fmt: skip
RECIPE = Adagrad(learning_rate=0.3, loss_scale=3.0)


def sizes(model: BiLM) -> dict[str, int]:
    """Numbers of parameters by the first part of their names, from shapes alone."""
    shapes = jax.eval_shape(lambda: bilm.init(model, jax.random.key(0)))
    return {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in shapes.items()}


@pytest.mark.parametrize(
    ("name", "highways", "dim", "projection", "millions"),
    [("elmo_small", 1, 1024, 128, 13.6), ("elmo_medium", 1, 2048, 256, 28.0), ("elmo_original", 2, 4096, 512, 93.6)],
)
def test_the_published_sizes(name: str, highways: int, dim: int, projection: int, millions: float) -> None:
    model = load(find(name))[0].model
    assert isinstance(model, BiLM)
    assert (model.highways, model.dim, model.projection, model.layers) == (highways, dim, projection, 2)
    assert round(sum(sizes(replace(model, vocabulary=0)).values()) / 1e6, 1) == millions
    assert sizes(replace(model, vocabulary=793_471))["softmax"] == 793_471 * (projection + 1)


def uniform(values: np.ndarray, bound: float) -> None:
    """Even over -bound to bound: as many in each tenth, to 5 deviations."""
    counts, _ = np.histogram(values, 10, (-bound, bound))
    assert counts.sum() == values.size
    np.testing.assert_allclose(counts / values.size, 0.1, atol=5 * 0.3 / np.sqrt(values.size))


def normal(values: np.ndarray, deviation: float) -> None:
    """Normal and not cut off: mean, deviation, and the share beyond 1 and 2 deviations."""
    error = 5 / np.sqrt(values.size)
    assert abs(values.mean()) < error * deviation
    assert abs(values.std() / deviation - 1) < error
    for distance, share in ((1, 0.3173), (2, 0.0455)):
        assert abs((np.abs(values) > distance * deviation).mean() - share) < error * np.sqrt(share)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_parameters_begin_as_the_originals(activation: Any) -> None:
    model = BiLM(
        300, character_dim=8, filters=((1, 16), (3, 64)), activation=activation, dim=48, projection=32, layers=1
    )
    params = jax.device_get(bilm.init(model, jax.random.key(0)))
    uniform(params["characters"]["embedding"], 1.0)
    kernel = params["convolution_1"]["kernel"]  # 3 wide over 8
    uniform(kernel, 0.05) if activation == "relu" else normal(kernel, (3 * 8) ** -0.5)
    for name in ("gate_kernel", "kernel"):
        normal(params["highway_0"][name], 80**-0.5)
    normal(params["projection"]["kernel"], 80**-0.5)
    normal(params["softmax"]["kernel"], 32**-0.5)
    for name in ("forward_0", "backward_0"):
        uniform(params[name]["kernel"], (6 / (2 * 32 + 4 * 48)) ** 0.5)
        uniform(params[name]["projection"], (6 / (48 + 32)) ** 0.5)
    assert (params["highway_0"]["gate_bias"] == -2).all()
    biases = [params[name]["bias"] for name in params if name != "characters"]
    assert len(biases) == 7 and not any(bias.any() for bias in biases)


def test_a_table_of_words_begins_as_the_originals() -> None:
    params = bilm.init(BiLM(300, "words", dim=8, projection=32, layers=1, tied_softmax=True), jax.random.key(0))
    uniform(np.asarray(params["words"]["embedding"]), (6 / (300 + 32)) ** 0.5)
    assert set(params["softmax"]) == {"bias"} and not params["softmax"]["bias"].any()


def test_a_projection_may_be_wider_than_its_cell() -> None:
    model = replace(TINY, inputs="words", dim=3, projection=6, layers=2)
    params = jax.eval_shape(lambda: bilm.init(model, jax.random.key(0)))
    assert params["forward_1"]["projection"].shape == (3, 6)
    ids = np.array([[0, 4, 1]], np.int32)
    layers = jax.eval_shape(lambda params: ctx_jax.embed(model, params, {"token_ids": ids}), params)
    assert layers.values.shape == (3, 1, 1, 12)


def test_a_sentence_reversed_twice_is_the_same() -> None:
    lengths = np.array([0, 1, 3, 5], np.int32)
    places = np.asarray(bilm.reversal(lengths, 5))
    assert np.take_along_axis(places, places, 1).tolist() == [list(range(5))] * 4
    assert [row[:n].tolist() for row, n in zip(places, lengths, strict=True)] == [list(range(n))[::-1] for n in lengths]


NUMBERS = [field.name for field in fields(BiLM) if type(field.default) in (int, float)]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, value) for name in NUMBERS for value in (-1, nan)),
        *((name, 0) for name in ("layers", "dim", "projection", "character_dim", "cell_clip", "projection_clip")),
        *(("max_characters", 2), ("dropout", 1.0), ("zero_start", 1.1)),
    ],
)
def test_numbers_no_model_can_have_are_refused_by_flag(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field} .--model.{field.replace('_', '-')}. must be .*, got {value}"):
        replace(TINY, **{field: value})


@pytest.mark.slow
def test_in_64_bits_everything_stays_float32() -> None:
    random = np.random.default_rng(0)
    characters = random.integers(0, 90, (2, 3, TINY.max_characters), np.int32)
    targets = random.integers(0, len(WORDS), (2, 3), np.int32)
    batch = {"tokens_characters": characters, "tokens_characters_reverse": characters}
    batch |= {"next_token_id": targets, "next_token_id_reverse": targets}
    params = jax.tree.map(np.asarray, bilm.init(TINY, jax.random.key(0)))

    def everything(params: Any, carry: Any) -> Any:
        layers = ctx_jax.embed(TINY, params, {"char_ids": characters + 1}, carry=carry)
        terms = ctx_jax.losses.bilm(TINY, params, batch, carry)
        sampled = ctx_jax.losses.bilm(TINY, params, batch, carry, key=jax.random.key(1))
        return layers.values, layers.carry, terms, sampled

    with jax.enable_x64(True):
        begun = jax.eval_shape(everything, params, None)
        assert {leaf.dtype for leaf in jax.tree.leaves(begun)} == {np.dtype(np.float32)}
        assert jax.eval_shape(everything, params, begun[1]) == begun
        gradient = jax.eval_shape(jax.grad(lambda params: sum(everything(params, None)[3][0]["forward"])), params)
        assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {np.dtype(np.float32)}


def test_words_as_inputs_take_the_size_of_the_runs_vocabulary() -> None:
    config = read(["--model.inputs", "words"])
    check_config(config)
    assert isinstance(config.model, BiLM) and config.model.vocabulary == 0
    with pytest.raises(ValueError, match="set vocabulary"):
        bilm.init(config.model, jax.random.key(0))
    model = with_vocabulary(config.model, WORDS)
    assert sizes(model)["words"] == len(WORDS) * model.projection
    with pytest.raises(ValueError, match="leave it out"):
        with_vocabulary(replace(config.model, vocabulary=5), WORDS)


def sentences(seed: int, count: int) -> list[list[str]]:
    random = np.random.default_rng(seed)
    return [[WORDS.words[word] for word in random.integers(3, len(WORDS), random.integers(1, 6))] for _ in range(count)]


def trained(devices: DevicesConfig, model: BiLM = TINY) -> tuple[State, State]:
    """The state after one step and after three, with uneven weights and some rows without a target."""
    task = BiLMTask(model, DataConfig(lanes=8, window=3), 3, sentences(0, 40), None, WORDS)  # type: ignore[arg-type]
    where, windows = Devices(devices, 8), task.batches(0, 8)
    step = where.compile(make_step(task, RECIPE, 3, seed=3))
    state, seen = where.enter(where.create(lambda: initial_state(task, RECIPE, 3, 3, 8))), []
    for _ in range(3):
        arrays = next(windows).arrays
        weight = (arrays["next_token_id"] % 4 > 0).astype(np.float32)
        weight[:2] = 0
        state = step(state, where.put(arrays | {"weight": weight}))
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
    begun = jax.device_get(bilm.init(TINY, jax.random.fold_in(jax.random.key(3), 2**32 - 1)))
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
        model=BiLM(max_characters=8, character_dim=3, filters=((1, 4), (2, 4)), dim=6, projection=4, layers=1),
        data=DataConfig(train="{text}", lanes=4, window=5),
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
    del ours.params["softmax"]
    assert jax.tree.structure(ours.params) == jax.tree.structure(theirs.params)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, ours.params, theirs.params)))
    assert theirs.model == replace(ours.model, vocabulary=0, dropout=theirs.model.dropout)
    with pytest.raises(SystemExit):
        main(["export", str(run)])


@pytest.mark.slow
def test_a_run_over_words_goes_on_and_is_loaded(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", config, "--run-dir", str(tmp_path / "words"), "--model.inputs", "words"]
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
