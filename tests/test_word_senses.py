"""Senses by the nearest vectors: scorers against scikit-learn and slow loops, evaluators against a fake encoder whose
layer 0 knows no context."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from evaluation_sets import (
    SENSES,
    FakeEncoder,
    VectorFunction,
    of_spelling,
    write_coarse,
    write_framework,
    write_semcor,
    write_tar,
)
from toys.bag_of_characters import BagOfCharacters, ByteInputs

from ctx_jax.data.sense_files import read_coarse_wsd, read_framework, read_semcor
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.evaluation.all_words_senses import all_words_wsd
from ctx_jax.evaluation.nearest_senses import by_frequency, nearest_centroid, nearest_neighbour
from ctx_jax.evaluation.results import Result
from ctx_jax.evaluation.sense_scores import Answers, coarse_scores, framework_scores, macro_recall, wilson_interval
from ctx_jax.evaluation.target_vectors import LayerVectors, Targets
from ctx_jax.evaluation.word_senses import coarse_wsd
from ctx_jax.io.errors import InputError


def fake() -> Any:
    return FakeEncoder(2, VectorFunction())


def drawn(seed: int) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Training vectors [N, D] with their senses, and queries [M, D]."""
    random = np.random.default_rng(seed)
    senses = random.choice(["a", "b", "c", "d"], 40, p=[0.5, 0.3, 0.1, 0.1]).tolist()
    return random.normal(size=(40, 5)).astype(np.float32), senses, random.normal(size=(17, 5)).astype(np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_the_nearest_are_scikit_learns(seed: int) -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    train, senses, queries = drawn(seed)
    single = neighbors.KNeighborsClassifier(1, metric="cosine", algorithm="brute").fit(train, senses)
    assert nearest_neighbour(train, senses, queries) == single.predict(queries).tolist()
    labels = sorted({*senses})
    means = np.stack([train[np.array(senses) == label].mean(axis=0) for label in labels])
    centroid = neighbors.KNeighborsClassifier(1, metric="cosine", algorithm="brute").fit(means, labels)
    assert nearest_centroid(train, senses, queries) == centroid.predict(queries).tolist()


def test_equal_cosines_give_the_more_frequent_sense() -> None:
    """Also where the vectors differ by rounding, as those of a layer without context may."""
    random = np.random.default_rng(0)
    vectors = np.ones((9, 4), np.float32) + random.normal(size=(9, 4)).astype(np.float32) * np.float32(1e-6)
    senses = ["b", "a", "a", "b", "b"]
    for answer in (nearest_neighbour, nearest_centroid):
        assert answer(vectors[:5], senses, vectors[5:]) == ["b"] * 4
        assert answer(np.zeros((5, 4), np.float32), senses, vectors[5:]) == ["b"] * 4
    assert by_frequency(["c", "a", "b", "a", "b"]) == ["a", "b", "c"]


@pytest.mark.parametrize("seed", range(4))
def test_scores_of_senses_are_scikit_learns(seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(seed)
    words = [Answers(*random.choice(["a", "b", "c"], (2, size)).tolist()) for size in (30, 5, 11)]
    found = coarse_scores(words)
    true, given = (np.concatenate([word[side] for word in words]) for side in (0, 1))
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(true, given))
    assert found["word_accuracy"] == pytest.approx(np.mean([metrics.accuracy_score(*word) for word in words]))
    recalls = [metrics.recall_score(*word, labels=sorted({*word.true}), average="macro") for word in words]
    assert found["macro_recall"] == pytest.approx(np.mean(recalls))
    assert macro_recall(*words[0]) == pytest.approx(metrics.balanced_accuracy_score(*words[0]))


def test_pooled_accuracy_hides_what_macro_recall_shows() -> None:
    always = Answers(["a"] * 9 + ["b"], ["a"] * 10)
    assert coarse_scores([always]) == {"accuracy": 0.9, "word_accuracy": 0.9, "macro_recall": 0.5}


def test_the_framework_counts_shares_of_answers() -> None:
    """4 instances, 3 of them answered: one rightly, one half, one wrongly."""
    gold = {"1": ("a", "b"), "2": ("c",), "3": ("d",), "4": ("e",)}
    found = framework_scores(gold, {"1": ["b"], "2": ["c", "x"], "3": ["x"]})
    assert (found["precision"], found["recall"]) == (0.5, 0.375)
    assert found["f1"] == pytest.approx(2 * 0.5 * 0.375 / 0.875)
    assert framework_scores(gold, {}) == {"f1": 0.0, "precision": 0.0, "recall": 0.0}
    everything = framework_scores(gold, {name: [senses[0]] for name, senses in gold.items()})
    assert everything == {"f1": 1.0, "precision": 1.0, "recall": 1.0}


@pytest.mark.parametrize("hits, count", [(0, 5), (5, 5), (37, 50), (1400, 2614)])
def test_the_interval_is_scipys(hits: int, count: int) -> None:
    from scipy.stats import binomtest

    expected = binomtest(hits, count).proportion_ci(method="wilson")
    np.testing.assert_allclose(wilson_interval(hits, count), (expected.low, expected.high), atol=1e-12)


def test_vectors_of_targets_are_those_of_encode() -> None:
    """Spans averaged, layers in their order and their mean; sentences without targets, and a bad one."""
    encoder = fake()
    sentences = [Targets(["a", "b", "c"], [(0, 1), (1, 3)]), Targets(["d"], []), Targets(["b", "a"], [(1, 2)])]
    read = LayerVectors(encoder, "all")
    assert read.names == ("0", "1", "mean") and LayerVectors(encoder, -1).names == ("1",)
    found = list(read(sentences))
    whole = list(encoder.encode([each.words for each in sentences], layers=(0, 1)))
    assert [each.shape for each in found] == [(2, 3, 8), (0, 3, 8), (1, 3, 8)]
    np.testing.assert_allclose(found[0][0, :2], whole[0][:, 0])
    np.testing.assert_allclose(found[0][1, :2], whole[0][:, 1:3].mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(found[2][0, 2], whole[2][:, 1].mean(axis=0), rtol=1e-6)
    with pytest.raises(InputError, match="of a sentence of 1"):
        list(read([Targets(["d"], [(0, 2)])]))
    for layers, message in (("mix", "mix"), (2, "layers 0 to 1")):
        with pytest.raises(InputError, match=message):
            LayerVectors(encoder, layers)  # type: ignore[arg-type]


def slow_coarse(folder: Path, layer: int, method: str) -> dict[str, tuple[list[str], list[str]]]:
    """(true, answered) of every word, by loops over pairs of vectors."""
    function = VectorFunction()
    found = {}
    for word, train, test in read_coarse_wsd(folder):
        known = [(function(each.words, each.tags[0].start)[layer], each.tags[0].senses[0]) for each in train]
        if method == "centroid":
            means = defaultdict(list)
            for vector, sense in known:
                means[sense].append(vector)
            known = [(np.mean(vectors, axis=0), sense) for sense, vectors in means.items()]
        answers = []
        for each in test:
            query = function(each.words, each.tags[0].start)[layer]
            cosines = [query @ key / np.linalg.norm(query) / np.linalg.norm(key) for key, _ in known]
            answers.append(known[int(np.argmax(cosines))][1])
        found[word] = ([each.tags[0].senses[0] for each in test], answers)
    return found


def test_coarse_wsd_is_a_slow_loops(tmp_path: Path) -> None:
    folder = write_coarse(tmp_path)
    encoder = fake()
    result = coarse_wsd(encoder, write_tar(folder, tmp_path / "coarse.tar.xz"))
    assert encoder.read == 2 * (12 + 9), "every sentence once"
    assert result.counts == {"train": 24, "test": 18, "senses": 6, "words": 2} and [*result.scores] == [
        "0",
        "1",
        "mean",
    ]
    for method in ("centroid", "neighbour"):
        expected = slow_coarse(folder, 1, method)
        pairs = [pair for true, given in expected.values() for pair in zip(true, given, strict=True)]
        share = np.mean([true == given for true, given in pairs])
        assert result.scores["1"][f"{method}_accuracy"] == pytest.approx(share)
        assert result.parts["wug"].scores["1"][f"{method}_macro_recall"] == pytest.approx(
            macro_recall(*expected["wug"])
        )
    # Layer 0 sees the same word everywhere, and answers the most frequent sense.
    baseline = result.baselines["most_frequent"]
    frequent = [max(SENSES, key=Counter(s.tags[0].senses[0] for s in w.train).get) for w in read_coarse_wsd(folder)]  # type: ignore[arg-type]
    true = [[s.tags[0].senses[0] for s in word.test] for word in read_coarse_wsd(folder)]
    rates = [np.mean([sense == own for sense in senses]) for own, senses in zip(frequent, true, strict=True)]
    assert baseline["word_accuracy"] == pytest.approx(np.mean(rates)) and baseline["macro_recall"] == pytest.approx(
        1 / 3
    )
    for method in ("centroid", "neighbour"):
        for name, value in baseline.items():
            assert result.scores["0"][f"{method}_{name}"] == value < result.scores["1"][f"{method}_{name}"]


def test_coarse_wsd_of_chosen_layers_and_words(tmp_path: Path) -> None:
    folder = write_coarse(tmp_path)
    one = coarse_wsd(fake(), folder, layers=1, words=["dax"])
    assert [*one.scores] == ["1"] and [*one.parts] == ["dax"]
    assert one.parts["dax"].scores["1"] == coarse_wsd(fake(), folder).parts["dax"].scores["1"]
    with pytest.raises(InputError, match="lacks the words fep"):
        coarse_wsd(fake(), folder, words=["dax", "fep"])


def test_coarse_wsd_of_an_encoder_is_json(tmp_path: Path) -> None:
    toy = BagOfCharacters()
    encoder = Encoder(toy, toy.init(jax.random.key(0)), ByteInputs())
    found = json.loads(json.dumps(coarse_wsd(encoder, write_coarse(tmp_path)).json()))
    assert [*found["scores"]] == ["0", "1", "mean"] and 0 < found["scores"]["1"]["centroid_accuracy"] < 1
    assert found["scores"]["0"]["centroid_accuracy"] == found["baselines"]["most_frequent"]["accuracy"]
    assert found["parts"]["wug"]["counts"] == {"train": 12, "test": 9, "senses": 3}
    assert Result({"0": {"spearman": float("nan")}}, {}).json() == {"scores": {"0": {"spearman": None}}, "counts": {}}


def place(folder: Path) -> Path:
    write_semcor(folder)
    return write_framework(write_framework(folder), "senseval3")


def test_all_words_by_hand(tmp_path: Path) -> None:
    """Of five instances, `wug` has two senses in SemCor; `sharp` as a noun has none, but one as an adjective, which is
    wrong; `dax` is unseen; the adjective's only sense is another one than the gold one."""
    result = all_words_wsd(fake(), place(tmp_path), tests=["senseval2", "senseval3"])
    counts = {"instances": 5, "unseen": 2, "backed_off": 1, "unanswered": 1}
    assert result.parts["senseval2"].counts == counts and result.counts == {key: 2 * n for key, n in counts.items()}
    assert result.baselines["most_frequent"] == {"f1": 2 * 0.5 * 0.4 / 0.9, "precision": 0.5, "recall": 0.4}
    assert result.parts["senseval3"].scores == result.parts["senseval2"].scores
    function = VectorFunction()
    for layer in (0, 1):
        vectors = defaultdict(list)
        for sentence in read_semcor(tmp_path / "semcor3.0"):
            for tag in sentence.tags:
                for sense in tag.senses if tag.lemma == "wug" else ():
                    vectors[sense].append(function(sentence.words, tag.start)[layer])
        query = function(["The", "wug", "ran", "off", "."], 1)[layer]
        best = max(vectors, key=lambda sense: cosine(query, np.mean(vectors[sense], axis=0)))
        right = 1 + (best == "wug%1:05:00::")
        assert result.scores[str(layer)]["recall"] == pytest.approx(right / 5)
        assert result.scores[str(layer)]["precision"] == pytest.approx(right / 4)


def test_the_frameworks_semcor_is_read_where_semcor_3_is_not(tmp_path: Path) -> None:
    """A SemCor that is the test set knows every sense of it."""
    write_framework(write_framework(tmp_path), "semcor")
    result = all_words_wsd(fake(), tmp_path, tests=["senseval2"])
    assert result.counts == {"instances": 5, "unseen": 0, "backed_off": 0, "unanswered": 0}
    assert all(scores["f1"] == 1.0 for scores in result.scores.values())
    given = all_words_wsd(fake(), tmp_path, tests=["senseval2"], semcor=tmp_path / "semcor.data.xml.xz")
    assert given.json() == result.json()
    write_semcor(tmp_path)
    assert all_words_wsd(fake(), tmp_path, tests=["senseval2"]).counts["unseen"] == 2


def test_what_cannot_be_told_apart_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="senseval2"):
        all_words_wsd(fake(), place(tmp_path), tests=[])
    (tmp_path / "variants").mkdir()
    for variant in ("CoarseWSD-20", "CoarseWSD-20_balanced"):
        write_coarse(tmp_path / "variants" / variant)
    with pytest.raises(InputError, match="more than once"):
        coarse_wsd(fake(), tmp_path / "variants")


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


def test_only_the_sentences_that_are_needed_are_encoded(tmp_path: Path) -> None:
    """A context that tells the sense is used at layer 1; SemCor may lie elsewhere."""
    folder = place(tmp_path)
    path = folder / "semcor3.0" / "brown1" / "tagfiles" / "br-x01"
    path.write_text(path.read_text() + "<s snum=3>\n<wf cmd=ignore pos=DT>a</wf>\n</s>\n" * 3)
    elsewhere = folder / "semcor3.0"
    elsewhere.rename(tmp_path / "moved")
    encoder = fake()
    all_words_wsd(encoder, folder, tests=["senseval2"], layers=1, semcor=tmp_path / "moved")
    assert encoder.read == 2 + len(read_framework(folder, "senseval2"))


@pytest.mark.slow
def test_a_fake_encoder_is_what_it_says() -> None:
    """The law the tests above rest on: layer 0 depends on the word alone."""
    sentences: Sequence[Sequence[str]] = [["wug", "sings"], ["a", "wug", "hammer"]]
    first, second = fake().encode(sentences, layers=(0, 1))
    np.testing.assert_array_equal(first[0, 0], second[0, 1])
    np.testing.assert_allclose(first[0, 0], of_spelling("wug"), rtol=1e-6)
    assert not np.allclose(first[1, 0], second[1, 1])
