"""Training of `classify` and `tag` on a small BERT and on a table: frozen and fine-tuned, stopped and resumed, on one
and on eight devices; and what the trained runs predict."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from label_runs import CRF, arrays, config, lines, make_place, with_task

import ctx_jax
from ctx_jax import tasks
from ctx_jax.checkpoints.runs import RunCheckpoints
from ctx_jax.data.batch import LabelBatch
from ctx_jax.io.errors import ConfigError, InputError, InputTypeError
from ctx_jax.tasks import TrainConfig
from ctx_jax.tasks.classify import ClassifyConfig
from ctx_jax.tasks.label_network import Scored
from ctx_jax.tasks.label_options import LabelEvaluate
from ctx_jax.tasks.pairs import PairsConfig
from ctx_jax.tasks.tag import TagConfig
from ctx_jax.tasks.tuning import TuningOptions
from ctx_jax.training.config import CheckpointConfig, DevicesConfig
from ctx_jax.training.run import run
from ctx_jax.training.task import TaskContext


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("labelled"))


@pytest.fixture(scope="module")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a BERT of one layer, which compiles faster for many devices."""
    return make_place(tmp_path_factory.mktemp("shallow"), depth=1)


KINDS = pytest.mark.parametrize("kind", [ClassifyConfig, TagConfig])


SEVERAL = {"files": "several", "target": "several", "pooling": "attention"}
NUMBERS = {"files": "numbers", "target": "number", "pooling": "concat"}
CROSS = {"style": "cross", "pooling": "first"}
SIMILAR = {"files": "similar", "target": "number", "compare": "cosine"}
RANKED = {"files": "ranked", "target": "ranking"}
NORMED = {"tuning": TuningOptions(mix_norm=True)}
GRADUAL = {"tuning": TuningOptions(mix_penalty=0.1, unfreeze_every=0.2)}
"""A layer joins at each of the first steps."""


@pytest.mark.parametrize(
    "kind, frozen, changes",
    [
        (ClassifyConfig, True, {}),
        (ClassifyConfig, True, SEVERAL),
        (ClassifyConfig, True, NUMBERS),
        (TagConfig, True, {}),
        (TagConfig, True, CRF),
        (PairsConfig, True, SIMILAR),
        (PairsConfig, True, RANKED),
        pytest.param(ClassifyConfig, False, GRADUAL, marks=pytest.mark.slow),
        pytest.param(TagConfig, False, {}, marks=pytest.mark.slow),
        pytest.param(PairsConfig, False, CROSS, marks=pytest.mark.slow),
    ],
)
def test_stopped_and_resumed_is_uninterrupted(
    place: Path, tmp_path: Path, kind: type, frozen: bool, changes: dict[str, Any]
) -> None:
    whole = config(place, tmp_path / "whole", kind, frozen=frozen, **changes)
    parts = replace(whole, run_dir=str(tmp_path / "parts"))
    assert run(whole) and run(replace(parts, steps=2)) and run(parts)
    expected, found = arrays(tmp_path / "whole", 4), arrays(tmp_path / "parts", 4)
    assert expected.keys() == found.keys() and all(np.array_equal(expected[name], found[name]) for name in expected)
    for split in ("train", "valid"):
        clocks = {"tokens_per_second"}
        both = [
            [
                {name: value for name, value in line.items() if name not in clocks}
                for line in lines(tmp_path / side, split)
            ]
            for side in ("whole", "parts")
        ]
        assert both[0] == both[1]


@pytest.mark.parametrize(
    "kind, mode, frozen, changes",
    [
        (ClassifyConfig, "shard", False, {"tuning": TuningOptions(mix_norm=True, freeze=("types",))}),
        (ClassifyConfig, "shard", True, SEVERAL),
        (ClassifyConfig, "shard", True, NUMBERS),
        (TagConfig, "fsdp", False, GRADUAL),
        (TagConfig, "shard", True, {}),
        (TagConfig, "shard", True, CRF),
        (TagConfig, "fsdp", True, CRF),
        (PairsConfig, "shard", False, CROSS),
        (PairsConfig, "shard", True, SIMILAR),
        (PairsConfig, "pmap", False, RANKED),
        (PairsConfig, "fsdp", False, RANKED),
    ],
)
@pytest.mark.slow
def test_eight_devices_are_one(
    shallow: Path, tmp_path: Path, kind: type, mode: Any, frozen: bool, changes: dict[str, Any]
) -> None:
    devices = DevicesConfig(mode, 8)
    same_on(devices, tmp_path, config(shallow, tmp_path / "one", kind, frozen=frozen, **changes))


@pytest.mark.slow
def test_every_text_of_a_batch_is_ranked_in_micro_batches_too(shallow: Path, tmp_path: Path) -> None:
    devices = DevicesConfig("shard", 2, micro_batches=2)
    same_on(devices, tmp_path, config(shallow, tmp_path / "one", PairsConfig, frozen=False, **RANKED))


def same_on(devices: DevicesConfig, tmp_path: Path, one: TrainConfig) -> None:
    """A run on one device, in one piece, is the same run on others."""
    # Adam divides by the size of a gradient, however small: with a small epsilon rounding decides about its sign.
    one = replace(one, optimizer=replace(one.optimizer, epsilon=1e-3))
    assert run(one) and run(replace(one, run_dir=str(tmp_path / "other"), devices=devices))
    expected, found = arrays(tmp_path / "one", 4), arrays(tmp_path / "other", 4)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], atol=2e-4, err_msg=name)
    for one_line, other in zip(*(lines(tmp_path / side, "train") for side in ("one", "other")), strict=True):
        assert other["loss"] == pytest.approx(one_line["loss"], rel=1e-4)


@pytest.mark.slow
@KINDS
def test_frozen_parameters_stay_and_are_in_no_checkpoint(place: Path, tmp_path: Path, kind: type) -> None:
    assert run(config(place, tmp_path, kind, frozen=True))
    original = ctx_jax.load(place / "bert")
    trained = ctx_jax.load(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, trained.params, original.params)
    assert {*trained.heads} == {"labels", "mix"}
    with RunCheckpoints(tmp_path / "checkpoints") as checkpoints:
        assert set(checkpoints.tree(4)["params"]) == {"head"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, changes",
    [(kind, {"layers": layers}) for kind in (ClassifyConfig, TagConfig) for layers in ("mix", 1)]
    + [
        (TagConfig, CRF),
        (ClassifyConfig, {"pooling": "concat"}),
        (ClassifyConfig, NORMED),
        (PairsConfig, CROSS),
        (PairsConfig, {"layers": 1}),
    ],
)
def test_stored_vectors_give_the_losses_of_computed_ones(
    place: Path, tmp_path: Path, kind: type, changes: dict[str, Any]
) -> None:
    stored = config(place, tmp_path / "stored", kind, frozen=True, **changes)
    computed = with_task(
        replace(stored, run_dir=str(tmp_path / "computed")), data=replace(stored.task.data, cache_vectors=False)
    )
    assert run(stored) and run(computed)
    for split in ("train", "valid"):
        for one, other in zip(lines(tmp_path / "stored", split), lines(tmp_path / "computed", split), strict=True):
            for name in ("loss", "accuracy"):
                assert one[name] == pytest.approx(other[name], rel=1e-5), name
    assert [*(tmp_path / "stored" / "cache").glob("vectors-*")] and not (tmp_path / "computed" / "cache").exists()


@pytest.mark.slow
def test_a_run_learns_what_it_is_told_and_keeps_its_best_step(place: Path, tmp_path: Path) -> None:
    seldom = {"evaluate": LabelEvaluate(every=20)}
    for number, (kind, changes) in enumerate(((ClassifyConfig, {}), (TagConfig, {}), (TagConfig, CRF | seldom))):
        run_dir = tmp_path / str(number)
        settings = config(place, run_dir, kind, "table.vec", frozen=True, dropout=0.0, **changes)
        settings = replace(settings, steps=60)
        optimizer = replace(settings.optimizer, learning_rate=0.05)
        assert run(replace(settings, optimizer=optimizer, checkpoint=CheckpointConfig(every=100, keep=1)))
        measured = lines(run_dir, "valid")
        best = max(line["accuracy"] for line in measured)
        assert best == 1.0
        first = min(measured, key=lambda line: (-line["accuracy"], line["loss"]))["step"]
        with RunCheckpoints(run_dir / "checkpoints") as checkpoints:
            assert checkpoints.best() == first, "of equal accuracy the one with less loss"


def test_a_run_that_stopped_early_stays_stopped(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rate of zero: nothing becomes better after the first evaluation."""
    settings = config(place, tmp_path, encoder="table.vec", frozen=True, evaluate=LabelEvaluate(every=2, patience=2))
    settings = replace(settings, optimizer=replace(settings.optimizer, learning_rate=0.0), steps=50)
    assert run(settings)
    with RunCheckpoints(tmp_path / "checkpoints") as checkpoints:
        assert (checkpoints.best(), checkpoints.latest()) == (2, 6)
    written = (tmp_path / "metrics.jsonl").read_bytes()
    assert run(settings)
    assert (tmp_path / "metrics.jsonl").read_bytes() == written
    assert capsys.readouterr().out.count("stopped early at step 6") == 2


@pytest.mark.slow
def test_without_steps_a_run_does_its_epochs(place: Path, tmp_path: Path) -> None:
    settings = config(place, tmp_path, encoder="table.vec", frozen=True, epochs=6, evaluate=LabelEvaluate(patience=0))
    assert run(replace(settings, steps=0))
    assert [line["step"] for line in lines(tmp_path, "valid")] == [5, 10, 15, 20, 25, 30], "40 texts are 5 batches"


@pytest.mark.slow
def test_only_a_run_without_steps_stops_early_unless_it_is_told_to(place: Path, tmp_path: Path) -> None:
    settings = config(
        place, tmp_path / "a", encoder="table.vec", frozen=True, epochs=6, evaluate=LabelEvaluate(every=5)
    )
    still = replace(settings, optimizer=replace(settings.optimizer, learning_rate=0.0))
    for name, steps, last in (("a", 0, 20), ("b", 30, 30)):
        assert run(replace(still, steps=steps, run_dir=str(tmp_path / name)))
        assert lines(tmp_path / name, "valid")[-1]["step"] == last
    assert run(replace(still, steps=0)), "resumed, it stays as it is"
    assert lines(tmp_path / "a", "valid")[-1]["step"] == 20
    other = with_task(still, evaluate=LabelEvaluate(every=5, metric="loss"))
    with pytest.raises(ConfigError) as caught:
        run(replace(other, steps=0))
    assert caught.value.field == "evaluate.metric"


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["mean", "max", "first", "last", "attention", "concat"])
def test_a_classifier_computes_mix_pooling_and_a_linear_layer(place: Path, tmp_path: Path, pooling: Any) -> None:
    assert run(replace(config(place, tmp_path, pooling=pooling, frozen=True), steps=2))
    predictor = tasks.load(tmp_path)
    encoder, texts = predictor.encoder, ["the film was good", "", "bad"]
    layers = ctx_jax.embed(encoder.model, encoder.params, encoder.tokenize(texts, level="tokens"))
    mixed = ctx_jax.mix(layers.values, encoder.heads["mix"].params)
    match pooling:
        case "attention":
            logits = np.asarray(mixed) @ np.asarray(encoder.heads["pooling"].params["query"]["kernel"])[:, 0]
            weights = np.exp(logits) * np.asarray(layers.mask)
            vectors = np.einsum("bt,btd->bd", weights / np.maximum(weights.sum(1, keepdims=True), 1e-9), mixed)
        case "concat":
            vectors = np.concatenate([ctx_jax.pool(mixed, layers.mask, how) for how in ("last", "max", "mean")], 1)
        case how:
            vectors = ctx_jax.pool(mixed, layers.mask, how)
    scores = encoder.heads["labels"].params["scores"]
    logits = np.asarray(vectors) @ np.asarray(scores["kernel"]) + np.asarray(scores["bias"])
    odds = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    answers = predictor.predict(texts)
    assert [answer["label"] for answer in answers] == ["01"[number] for number in odds.argmax(1)]
    found = [[answer["probabilities"][label] for label in "01"] for answer in answers]
    np.testing.assert_allclose(found, odds, atol=1e-5)


@pytest.mark.parametrize("pieces", ["mean", "first", "last"])
def test_a_tagger_reads_the_pieces_it_is_told(place: Path, tmp_path: Path, pieces: Any) -> None:
    encoder = ctx_jax.load(place / "bert")
    words = ["film", "awfulplot", "it"]
    split = encoder.processor.split([words])[0]
    assert len(split.ids) > 4, "a word has several pieces"
    tokens = ctx_jax.embed(encoder.model, encoder.params, encoder.tokenize([words], level="tokens")).values[:, 0, 1:-1]
    chosen = encoder.processor.with_pieces(pieces)
    inputs = chosen.pad(chosen.split([words]), 1, 16)
    found = ctx_jax.embed(encoder.model, encoder.params, inputs).values[:, 0]
    for number in range(3):
        own = np.asarray(tokens)[:, split.words == number]
        expected = {"mean": own.mean(1), "first": own[:, 0], "last": own[:, -1]}[pieces]
        np.testing.assert_allclose(found[:, number], expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("pieces", ["first", "last"])
def test_a_loaded_tagger_gives_the_vectors_that_its_head_was_trained_on(
    place: Path, tmp_path: Path, pieces: Any
) -> None:
    assert run(replace(config(place, tmp_path, TagConfig, frozen=True, pieces=pieces), steps=2))
    encoder, words = ctx_jax.load(tmp_path), ["the", "awfulplot", "film"]
    layers = ctx_jax.embed(encoder.model, encoder.params, encoder.tokenize([words]))
    scores = encoder.heads["labels"].params["scores"]
    vectors = np.asarray(ctx_jax.mix(layers.values, encoder.heads["mix"].params))[0]
    best = (vectors @ np.asarray(scores["kernel"]) + np.asarray(scores["bias"])).argmax(axis=1)
    labels = encoder.heads["labels"].module.labels
    (answer,) = tasks.load(tmp_path).predict([words])
    assert answer["labels"] == [labels[number] for number in best]
    assert encoder.processor.pieces == pieces


@pytest.mark.slow
def test_a_sentence_longer_than_the_encoder_is_tagged_in_parts(place: Path, tmp_path: Path) -> None:
    assert run(replace(config(place, tmp_path, TagConfig, frozen=True), steps=2))
    tagger, words = tasks.load(tmp_path), ["the", "film", "was", "good"] * 9
    (answer,) = tagger.predict([words])
    assert answer["words"] == words and len(answer["labels"]) == 36
    assert tagger.predict([[]]) == [{"words": [], "labels": []}] and tagger.predict([]) == []
    with pytest.raises(InputError, match="shorten it"):
        tagger.predict([["awful" * 12]])
    (string,) = tagger.predict(["the film was good"])
    assert string["words"] == words[:4]


@pytest.mark.slow
def test_a_text_longer_than_the_encoder_is_cut(place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert run(replace(config(place, tmp_path, frozen=True), steps=2))
    predictor = tasks.load(tmp_path)
    with caplog.at_level("INFO", "ctx_jax"):
        long, short = predictor.predict(["q " * 50, "q " * 22])
    assert long == short and "1 of 2 texts" in caplog.text
    for wrong in ("a bare string", [["words"]], [3]):
        with pytest.raises(InputTypeError):
            predictor.predict(wrong)  # type: ignore[arg-type]


def test_class_weights_are_those_of_the_training_file(place: Path, tmp_path: Path) -> None:
    rows = (place / "train.tsv").read_text().splitlines()
    (tmp_path / "train.tsv").write_text("\n".join([row for row in rows if row.endswith("1")] + rows[1:6:2]) + "\n")
    settings = config(place, tmp_path / "run", encoder="table.vec", frozen=True, class_weights="balanced")
    settings = with_task(settings, data=replace(settings.task.data, train=str(tmp_path / "train.tsv")))
    task = settings.task.open(TaskContext(tmp_path / "run", 0, 1, False, lambda line: None))
    logits, labels = (
        np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32),
        np.array([0, 1, 1, 0, 1, 1], np.int32),
    )
    ones = np.ones(6, np.float32)
    batch = LabelBatch({}, labels, ones, np.arange(6), ones)
    total, count = task.label_terms(Scored(jnp.asarray(logits), np.ones(6, bool)), batch)["label"]
    weights = np.array([23 / (2 * 3), 23 / (2 * 20)])[labels]  # of 23 texts 3 have the label 0
    nats = np.log(np.exp(logits).sum(1)) - logits[np.arange(6), labels]
    assert total / count == pytest.approx((weights * nats).sum() / weights.sum(), rel=1e-5)
