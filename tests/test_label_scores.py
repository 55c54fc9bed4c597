"""Scores of labels against scikit-learn and seqeval, and by hand."""

import math
import warnings

import numpy as np
import pytest

from ctx_jax.evaluation.correlation import pearson, spearman
from ctx_jax.evaluation.label_scores import accuracy, macro_f1, matthews, several_scores, span_f1
from ctx_jax.evaluation.ranking_scores import ranking_scores, ranks
from ctx_jax.losses.labels import balanced_weights, label_loss, number_loss, several_loss

BIO = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
BIOES = (*BIO, "E-LOC", "S-LOC", "E-PER", "S-PER")


def drawn(seed: int, count: int, labels: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """True labels, and predictions of which some are right."""
    random = np.random.default_rng(seed)
    true = random.choice(labels, count)
    return true.tolist(), np.where(random.random(count) < 0.6, true, random.choice(labels, count)).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_accuracy_and_macro_f1_are_scikit_learns(seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    true, predicted = drawn(seed, 30, ("a", "b", "c", "d", "e", "f", "g"))
    predicted[0] = "never true"
    assert accuracy(true, predicted) == pytest.approx(metrics.accuracy_score(true, predicted))
    assert macro_f1(true, predicted) == pytest.approx(
        metrics.f1_score(true, predicted, average="macro", zero_division=0)
    )


@pytest.mark.parametrize("labels", [("a", "b"), ("a", "b", "c", "d")])
def test_matthews_is_scikit_learns(labels: tuple[str, ...]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    true, predicted = drawn(len(labels), 40, labels)
    assert matthews(true, predicted) == pytest.approx(metrics.matthews_corrcoef(true, predicted))
    assert matthews(true, ["a"] * 40) == 0.0 and math.isnan(matthews([], []))


def test_scores_of_several_labels_are_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    random, names = np.random.default_rng(0), ("a", "b", "c", "d")
    sides = random.random((2, 50, 4)) < [[[0.4]], [[0.5]]]
    sides[:, :, 3] = False  # a label that no side has
    found = several_scores(*([[n for n, has in zip(names, row, strict=True) if has] for row in side] for side in sides))
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(*sides))
    assert found["f1"] == pytest.approx(metrics.f1_score(*sides[:, :, :3], average="macro"))
    assert found["micro_f1"] == pytest.approx(metrics.f1_score(*sides, average="micro", zero_division=0))


def test_correlations_are_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(1)
    first, second = random.integers(0, 9, 60), random.integers(0, 5, 60) + random.random(60).round(1)
    assert pearson(first, second) == pytest.approx(stats.pearsonr(first, second).statistic, rel=1e-12)
    assert spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic, rel=1e-12)


@pytest.mark.parametrize("first", [[0.1] * 3, [2.7] * 3, [math.nan, 1.0, 2.0]])
def test_correlations_without_a_value_are_nan_as_scipys(first: list[float]) -> None:
    stats = pytest.importorskip("scipy.stats")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of constant input
        for ours, theirs in ((pearson, stats.pearsonr), (spearman, stats.spearmanr)):
            for sides in (first, [1.0, 2.0, 3.0]), ([1.0, 2.0, 3.0], first):
                assert math.isnan(theirs(*sides).statistic) and math.isnan(ours(*sides))


def test_ranks_are_places_in_sorted_cosines() -> None:
    random = np.random.default_rng(2)
    first, second = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in random.normal(size=(2, 300, 5)))
    texts = np.stack([np.arange(300) // 2, 300 + np.arange(300)], axis=1)  # two pairs for each first text
    expected = []
    for row in range(300):
        others = [first[row] @ second[i] for i in range(300) if texts[i, 0] != texts[row, 0]]
        expected.append(1 + sum(other >= first[row] @ second[row] for other in others))
    assert ranks(first, second, texts).tolist() == expected

    # Every text twice, once on each side, and again: neither the first text itself nor a repetition is another answer.
    count = 40
    vectors = np.concatenate([first[:count], first[:count]])
    near = np.concatenate([0.9 * first[:count] + 0.1 * second[:count]] * 2)
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    sides = np.arange(count), count + np.arange(count)
    both_ways = np.concatenate([np.stack(sides, axis=1), np.stack(sides[::-1], axis=1)] * 2)
    given = [
        np.concatenate([one, other] * 2)
        for one, other in ((vectors[:count], near[:count]), (near[:count], vectors[:count]))
    ]
    candidates = {**dict(zip(sides[0], vectors, strict=False)), **dict(zip(sides[1], near, strict=False))}
    expected = []
    for own, answer in both_ways:
        scores = {text: candidates[own] @ vector for text, vector in candidates.items() if text not in (own, answer)}
        expected.append(1 + sum(score >= candidates[own] @ candidates[answer] for score in scores.values()))
    assert ranks(*given, both_ways).tolist() == expected and np.mean(np.array(expected) == 1) > 0.5
    assert ranking_scores(np.array([1, 2, 4])) == pytest.approx({"mrr": 1.75 / 3, "recall_at_1": 1 / 3})


@pytest.mark.parametrize("labels", [BIO, BIOES], ids=["BIO", "BIOES"])
@pytest.mark.parametrize("seed", range(20))
def test_span_f1_is_seqevals(seed: int, labels: tuple[str, ...]) -> None:
    """Of any sequence, illegal ones too."""
    metrics = pytest.importorskip("seqeval.metrics")
    random = np.random.default_rng(seed)
    sentences = [drawn(int(random.integers(2**31)), int(random.integers(0, 12)), labels) for _ in range(6)]
    true, predicted = [one for one, _ in sentences], [other for _, other in sentences]
    assert span_f1(true, predicted) == pytest.approx(metrics.f1_score(true, predicted, zero_division=0))


def test_the_f1_of_no_spans() -> None:
    assert span_f1([["B-A"]], [["B-A"]]) == 1.0 and span_f1([["O"]], [["O"]]) == 0.0
    assert math.isnan(accuracy([], [])) and math.isnan(macro_f1([], []))


@pytest.mark.parametrize("shape", [(6,), (3, 4)])
def test_the_loss_is_a_weighted_mean_of_log_probabilities(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(*shape, 3)).astype(np.float32)
    labels, weights = random.integers(0, 3, shape).astype(np.int32), (random.random(shape) < 0.7).astype(np.float32)
    by_class = np.float32([0.5, 1.0, 2.0])
    terms = label_loss(logits, labels, weights, by_class)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    own = np.take_along_axis(logs, labels[..., None], -1)[..., 0]
    counted = weights * by_class[labels]
    np.testing.assert_allclose(terms["label"], (-(own * counted).sum(), counted.sum()), rtol=1e-5)
    np.testing.assert_allclose(terms["accuracy"], (((logits.argmax(-1) == labels) * weights).sum(), weights.sum()))


def test_the_weighted_loss_is_torchs() -> None:
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(1)
    logits, labels = random.normal(size=(8, 3)).astype(np.float32), random.integers(0, 3, 8).astype(np.int32)
    by_class = balanced_weights(np.bincount(labels, minlength=3).astype(np.float32))
    total, weight = label_loss(logits, labels, np.ones(8, np.float32), by_class)["label"]
    theirs = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits), torch.from_numpy(labels).long(), torch.from_numpy(by_class)
    )
    np.testing.assert_allclose(total / weight, theirs, rtol=1e-5)


def test_losses_of_several_labels_and_of_numbers_are_torchs() -> None:
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(2)
    logits, labels = random.normal(size=(6, 3)).astype(np.float32), (random.random((6, 3)) < 0.5).astype(np.float32)
    weights = np.float32([1, 1, 1, 1, 0, 0])
    given = torch.from_numpy(logits[:4]), torch.from_numpy(labels[:4])
    terms = several_loss(logits, labels, weights)
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(*given)
    np.testing.assert_allclose(terms["label"][0] / terms["label"][1], theirs, rtol=1e-5)
    np.testing.assert_allclose(terms["accuracy"], (((logits > 0) == (labels > 0))[:4].all(1).sum(), 4))
    total, count = number_loss(logits[:, 0], labels[:, 0], weights)["label"]
    np.testing.assert_allclose(total / count, torch.nn.functional.mse_loss(given[0][:, 0], given[1][:, 0]), rtol=1e-5)


@pytest.mark.slow
def test_balanced_weights_are_scikit_learns() -> None:
    utils = pytest.importorskip("sklearn.utils.class_weight")
    labels = np.array([0, 0, 0, 1, 2, 2])
    expected = utils.compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(balanced_weights(np.bincount(labels).astype(np.float32)), expected)
