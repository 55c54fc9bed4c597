"""Vectors that a siamese run hands on: `load(run).encode_array` gives those that its training compared."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_runs import config, make_place

import ctx_jax
from ctx_jax import cli, tasks
from ctx_jax.embedding.encoder_digest import encoder_digest
from ctx_jax.embedding.similarity import similarity
from ctx_jax.io.errors import InputError
from ctx_jax.tasks.label_rows import SplitRows
from ctx_jax.tasks.pairs import PairsConfig
from ctx_jax.tasks.setup import origin_of
from ctx_jax.tasks.tuning import TuningOptions
from ctx_jax.training.run import run

FIRST = ["the film was good", "it", "", "good " * 40]
SECOND = ["bad", "", "it was bad", "the plot"]
SIMILAR = {"files": "similar", "target": "number"}
RANKED = {"files": "ranked", "target": "ranking"}
FAR = {"mix_rate": 50.0}
"""The mix goes far from the plain mean, whatever the random encoder."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("labelled"))


def trained(place: Path, run_dir: Path, encoder: str = "bert", **changes: Any) -> Path:
    assert run(config(place, run_dir, PairsConfig, encoder, **changes))
    return run_dir


def network_vectors(predictor: Any) -> list[np.ndarray]:
    """The vectors of both texts of each pair, by the pure functions that training calls."""
    processor = predictor.encoder.processor
    texts = [
        text
        for own in predictor.config.split(processor, list(zip(FIRST, SECOND, strict=True)), print)
        for text, _ in own
    ]
    rows = predictor.config.rows(texts, lambda _, part: SplitRows(processor, part))
    inputs = rows.batch(range(len(texts)), len(texts), int(rows.sizes.max()))
    return [np.asarray(each) for each in predictor.network.texts(predictor.encoder.run_params, inputs)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "encoder, changes",
    [
        ("bert", FAR),
        ("bert", {"layers": "last", "pooling": "first"}),
        ("bert", {"layers": 1, "pooling": "concat", "length": 9}),
        ("bert", {**FAR, "pooling": "max"}),
        ("bert", {"layers": "last", "pooling": "last"}),
        ("table.vec", {}),
    ],
    ids=["mix mean", "last first", "1 concat", "mix max", "last last", "table"],
)
def test_encode_array_gives_the_vectors_that_training_compared(
    place: Path, tmp_path: Path, encoder: str, changes: Any
) -> None:
    run_dir = trained(place, tmp_path / "run", encoder, **{**RANKED, **changes})
    predictor, loaded = tasks.load(run_dir), ctx_jax.load(run_dir)
    if "mix_rate" in changes:
        assert np.ptp(loaded.heads["mix"].params["weights"]) > 0.1
    for texts, expected in zip((FIRST, SECOND), network_vectors(predictor), strict=True):
        np.testing.assert_allclose(loaded.encode_array(texts), expected, atol=1e-5)
        np.testing.assert_allclose(loaded.encode_array(texts[:1])[0], expected[0], atol=1e-5)
        assert not loaded.encode_array([""]).any()
    expected_cosines = [answer["cosine"] for answer in predictor.predict(list(zip(FIRST, SECOND, strict=True)))]
    np.testing.assert_allclose(similarity(loaded, FIRST, SECOND), expected_cosines, atol=1e-5)
    own = loaded.encode_array(FIRST[:2], layers="last", pooling="mean")  # what a call asks for counts
    np.testing.assert_allclose(
        own, replace(loaded, sentence=None).encode_array(FIRST[:2], length=changes.get("length")), atol=1e-6
    )


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{**SIMILAR, "compare": "cosine"}, {}], ids=["cosine", "features"])
def test_labels_and_numbers_of_siamese_runs_hand_their_vectors_on(place: Path, tmp_path: Path, changes: Any) -> None:
    predictor = tasks.load(trained(place, tmp_path / "run", **changes))
    for texts, expected in zip((FIRST, SECOND), network_vectors(predictor), strict=True):
        np.testing.assert_allclose(ctx_jax.load(tmp_path / "run").encode_array(texts), expected, atol=1e-5)


@pytest.mark.slow
def test_commands_use_the_vectors_of_the_run(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir, corpus = trained(place, tmp_path / "run", **RANKED), tmp_path / "lines.txt"
    lines = ["the plot was bad", "it was good", "the film"]
    corpus.write_text("".join(f"{line}\n" for line in lines))
    answers = tasks.load(run_dir).predict([("a good film", line) for line in lines])
    cosines = {line: answer["cosine"] for line, answer in zip(lines, answers, strict=True)}
    capsys.readouterr()
    assert cli.main(["search", str(run_dir), str(corpus), "--query", "a good film", "--json"]) == 0
    hits = json.loads(capsys.readouterr().out)["hits"]
    assert [hit["text"] for hit in hits] == sorted(lines, key=cosines.__getitem__, reverse=True)
    np.testing.assert_allclose([hit["score"] for hit in hits], sorted(cosines.values(), reverse=True), atol=1e-5)
    assert cli.main(["similarity", str(run_dir), "a good film", lines[0], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cosine"] == pytest.approx([cosines[lines[0]]], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"pooling": "attention"}, {"tuning": TuningOptions(mix_norm=True)}], ids=["attention", "norm"]
)
def test_vectors_that_encode_cannot_compute_are_refused(place: Path, tmp_path: Path, changes: Any) -> None:
    loaded = ctx_jax.load(trained(place, tmp_path / "run", **RANKED, **changes))
    for settings in ({}, {"pooling": "mean"}, {"layers": "last"}):
        with pytest.raises(InputError, match="layers="):
            loaded.encode_array(FIRST, **settings)
    other = loaded.encode_array(["it"], layers="last", pooling="mean")
    np.testing.assert_allclose(other, replace(loaded, sentence=None).encode_array(["it"]), atol=1e-6)
    next(loaded.encode(["it"]))  # of words, whose vectors are the encoder's


@pytest.mark.slow
def test_a_run_is_exported_with_its_pooling_or_not_at_all(place: Path, tmp_path: Path) -> None:
    last = trained(place, tmp_path / "last", **RANKED, layers="last", pooling="first")
    form = ["--format", "sentence-transformers"]
    assert cli.main(["export", str(last), str(tmp_path / "out"), *form]) == 0
    texts = [text for text in FIRST if text]
    expected = ctx_jax.load(last).encode_array(texts)
    np.testing.assert_allclose(ctx_jax.load(tmp_path / "out").encode_array(texts), expected, atol=1e-5)
    beyond = trained(place, tmp_path / "beyond", **RANKED, layers="last", pooling="first", length=1024)
    assert cli.main(["export", str(beyond), str(tmp_path / "short"), *form]) == 0
    (written,) = (tmp_path / "short").glob("sentence_*_config.json")
    assert json.loads(written.read_text())["max_seq_length"] == 24, "the model has no more positions"
    mixed = trained(place, tmp_path / "mixed", **RANKED)
    for flags in ([], ["--encoder-only"]):
        assert cli.main(["export", str(mixed), str(tmp_path / "none"), *form, *flags]) != 0
        assert not (tmp_path / "none").exists()
    library = pytest.importorskip("sentence_transformers")
    theirs = library.SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(texts)
    np.testing.assert_allclose(theirs, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_a_mix_belongs_to_the_digest_and_to_its_run_alone(place: Path, tmp_path: Path) -> None:
    loaded = ctx_jax.load(trained(place, tmp_path / "run", **RANKED))
    mix = loaded.heads["mix"]
    changed = replace(loaded, heads={"mix": mix._replace(params=mix.params | {"gamma": mix.params["gamma"] * 2})})
    assert encoder_digest(loaded, sentence=True) != encoder_digest(changed, sentence=True)
    assert encoder_digest(loaded) == encoder_digest(changed)
    said: list[str] = []
    assert origin_of(loaded, "run", said.append).sentence is None and "mix" in said[0]
    with pytest.raises(InputError, match="mix"):
        replace(loaded, heads={}).encode_array(["it"])
