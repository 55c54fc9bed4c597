"""WiC: the inflected word is found, the threshold is the best one, and only half of the pairs choose it."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_sets import FakeEncoder, VectorFunction, of_spelling, write_release, write_wic

from ctx_jax.data.context_pairs import ContextPair, read_wic
from ctx_jax.evaluation.inflection import find_word, inflections
from ctx_jax.evaluation.nearest_senses import cosine
from ctx_jax.evaluation.word_in_context import best_threshold, word_in_context
from ctx_jax.io.errors import InputError


@pytest.mark.parametrize(
    "word, form",
    [("wall", "Walls"), ("study", "studies"), ("study", "studied"), ("carry", "carrying"), ("make", "making"),
     ("make", "made"), ("stop", "stopped"), ("die", "dying"), ("panic", "panicked"), ("half", "halves"),
     ("knife", "knives"), ("woman", "women"), ("analysis", "analyses"), ("index", "indices"), ("go", "went"),
     ("large", "largest"), ("happy", "happier"), ("be", "were"), ("box", "boxes"), ("free", "freed"),
     ("Absence", "absence")],
)  # fmt: skip
def test_a_word_is_found_in_its_forms(word: str, form: str) -> None:
    assert find_word(word, ["the", "x", form, "."]) == 2


def test_the_word_itself_comes_first_and_others_are_not_taken() -> None:
    assert find_word("make", ["He", "made", "us", "make", "it"]) == 3
    assert find_word("make", ["makings", "of", "remade", "makeshift"]) is None
    assert find_word("a", []) is None and find_word("", ["x"]) is None
    assert "hold" not in inflections("hole") and "taken" in inflections("take")


def slow_threshold(cosines: np.ndarray, same: np.ndarray) -> float:
    """The greatest share of pairs that some threshold puts on the right side."""
    ranked = sorted({*cosines.tolist()})
    thresholds = [ranked[0] - 1, *((a + b) / 2 for a, b in pairwise(ranked)), ranked[-1] + 1]
    return max(float(np.mean((cosines > threshold) == same)) for threshold in thresholds)


@pytest.mark.parametrize("seed", range(20))
def test_the_threshold_is_the_best_of_all(seed: int) -> None:
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 12))
    same = random.random(count) < 0.5
    cosines = np.round(random.normal(size=count) + same, int(random.integers(0, 3)))  # with equal ones
    threshold, share = best_threshold(cosines, same)
    assert share == pytest.approx(np.mean((cosines > threshold) == same))
    assert share == pytest.approx(slow_threshold(cosines, same))


def test_no_threshold_tells_equal_vectors_apart() -> None:
    # A layer without context: a word has one vector, and the cosine of the vector with itself is 1 but for rounding.
    random = np.random.default_rng(2)
    vectors = random.normal(size=(200, 128)).astype(np.float32)
    same = random.random(200) < 0.5
    cosines = cosine(vectors, vectors.copy())
    assert len(set(cosines.tolist())) > 1
    assert best_threshold(cosines, same)[1] == pytest.approx(max(same.mean(), 1 - same.mean()))


def test_close_cosines_are_told_apart() -> None:
    cosines = 0.9999 + 1e-8 * np.arange(4)
    same = np.array([False, False, True, True])
    threshold, share = best_threshold(cosines, same)
    assert share == 1.0 and ((cosines > threshold) == same).all()


def pairs(count: int) -> list[tuple[str, str, str, int]]:
    """A word with the same word after it where the label is 1; in every fifth pair it is missing."""
    random = np.random.default_rng(0)
    found = []
    for number in range(count):
        same = bool(random.random() < 0.5)
        form = "fep" if number % 5 == 4 else ("wugs", "wug")[number % 2]
        after = "sings" if same else "hammer"
        found.append(("wug", f"a{number} wug sings .", f"b{number} {form} {after} .", int(same)))
    return found


def test_context_tells_senses_apart(tmp_path: Path) -> None:
    path = write_wic(tmp_path / "wic.jsonl.xz", pairs(40))
    encoder: Any = FakeEncoder(2, VectorFunction())
    result = word_in_context(encoder, path)
    assert encoder.read == 2 * 32 and result.counts["not_found"] == 8
    assert (result.counts["pairs"], result.counts["test_pairs"]) == (40, 20)
    lost = result.counts["test_not_found"]
    assert 0 < lost < 8
    top = result.scores["1"]
    assert top["threshold_accuracy"] == 1.0 and top["accuracy"] == (20 - lost) / 20, "what is not found is wrong"
    assert top["low"] < top["accuracy"] < top["high"] and 0 < top["threshold"] < 1
    assert result.scores["0"]["accuracy"] < top["accuracy"]
    assert word_in_context(encoder, path).json() == result.json(), "the same halves every time"
    assert word_in_context(encoder, path, layers=1).scores == {"1": top}


def test_places_that_the_files_tell_are_used(tmp_path: Path) -> None:
    """The second place of a word, and forms in which it is not found."""
    given = []
    for _, first, second, label in pairs(40):
        words = ["dax", *first.replace("wug", "dax").split()]
        given.append(ContextPair("dax", words, second.split(), bool(label), (2, 1)))
    encoder: Any = FakeEncoder(2, VectorFunction())
    found = word_in_context(encoder, write_release(tmp_path / "WiC", given))
    assert found.counts["not_found"] == 0
    function, right = VectorFunction(), 0
    for number in np.random.default_rng(0).permutation(40)[20:]:
        pair = given[number]
        one, other = function(pair.first, 2)[1], function(pair.second, 1)[1]
        cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
        right += (cosine > found.scores["1"]["threshold"]) == pair.same
    assert found.scores["1"]["accuracy"] == right / 20 > 0.9


def test_nothing_is_found_in_random_labels(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    given = [(*pair[:3], int(random.random() < 0.5)) for pair in pairs(200) if "fep" not in pair[2]]
    encoder: Any = FakeEncoder(2, VectorFunction())
    for scores in word_in_context(encoder, write_wic(tmp_path / "wic.jsonl.xz", given)).scores.values():
        assert scores["low"] < 0.5 < scores["high"] and scores["threshold_accuracy"] >= 0.5


def test_the_tested_half_chooses_nothing(tmp_path: Path) -> None:
    """With the labels of the tested half turned round, thresholds stay and accuracies turn round."""
    given = pairs(40)
    encoder: Any = FakeEncoder(2, VectorFunction())
    before = word_in_context(encoder, write_wic(tmp_path / "wic.jsonl.xz", given))
    tested = np.random.default_rng(0).permutation(40)[20:]
    for number in tested:
        word, first, second, label = given[number]
        given[number] = (word, first, second, 1 - label)
    after = word_in_context(encoder, write_wic(tmp_path / "wic.jsonl.xz", given))
    for layer, scores in before.scores.items():
        assert after.scores[layer]["threshold"] == scores["threshold"]
        together = after.scores[layer]["accuracy"] + scores["accuracy"]
        assert together == pytest.approx(1 - before.counts["test_not_found"] / 20)
    frequent = [run.baselines["most_frequent"]["accuracy"] for run in (before, after)]
    assert sum(frequent) == pytest.approx(1.0)


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    encoder: Any = FakeEncoder(2, VectorFunction())
    with pytest.raises(InputError, match="has 1 pairs"):
        word_in_context(encoder, write_wic(tmp_path / "wic.jsonl.xz", pairs(1)))
    lost = [("dax", "a wug .", "the wug .", 1)] * 4
    with pytest.raises(InputError, match="no pair of the half"):
        word_in_context(encoder, write_wic(tmp_path / "wic.jsonl.xz", lost))


def test_words_of_the_real_pairs_are_found(shared: Path) -> None:
    data = read_wic(shared / "data" / "wsd" / "wic_part_5228.jsonl.xz")
    places = [find_word(pair.word, sentence) for pair in data for sentence in (pair.first, pair.second)]
    assert len(places) == 2 * 5228 and None not in places


@pytest.mark.slow
def test_vectors_are_random_by_spelling() -> None:
    assert not np.allclose(of_spelling("sings"), of_spelling("hammer"))
