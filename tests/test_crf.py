"""The CRF against enumeration of every sequence of labels."""

from itertools import pairwise, product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctx_jax.data.span_labels import illegal_count, legal_steps
from ctx_jax.heads.crf import Transitions, log_partition, sequence_nats, viterbi
from ctx_jax.losses.labels import crf_loss

K, LENGTHS = 3, (4, 1, 0, 3)


class Case(NamedTuple):
    scores: np.ndarray  # [B, T, K]
    mask: np.ndarray
    transitions: Transitions


@pytest.fixture(params=range(3))
def case(request: pytest.FixtureRequest) -> Case:
    random = np.random.default_rng(request.param)

    def drawn(*shape: int) -> np.ndarray:
        return random.normal(scale=2.0, size=shape).astype(np.float32)

    mask = np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]
    return Case(drawn(len(LENGTHS), max(LENGTHS), K), mask, Transitions(drawn(K), drawn(K), drawn(K, K)))


def all_scores(case: Case, row: int) -> dict[tuple[int, ...], float]:
    """The score of every sequence of one row."""
    start, end, steps = case.transitions
    scores = case.scores[row]
    return {
        ids: float(start[ids[0]] + end[ids[-1]])
        + sum(float(scores[place, k]) for place, k in enumerate(ids))
        + sum(float(steps[pair]) for pair in pairwise(ids))
        for ids in product(range(scores.shape[1]), repeat=LENGTHS[row])
    }


def log_sum(scores: list[float]) -> float:
    return float(np.logaddexp.reduce(np.array(scores, np.float64)))


FULL = [row for row, length in enumerate(LENGTHS) if length]


def test_the_partition_is_the_sum_over_all_sequences(case: Case) -> None:
    found = log_partition(*case)
    for row in FULL:
        assert float(found[row]) == pytest.approx(log_sum([*all_scores(case, row).values()]), abs=1e-4)
    assert found[LENGTHS.index(0)] == 0


def test_the_best_sequence_is_that_of_the_greatest_score(case: Case) -> None:
    found = np.asarray(viterbi(*case))
    for row in FULL:
        scores = all_scores(case, row)
        assert tuple(found[row, : LENGTHS[row]]) == max(scores, key=scores.__getitem__)
    assert not found[~case.mask].any()


def test_the_gradient_of_the_partition_is_the_marginals(case: Case) -> None:
    def total(scores: jax.Array, transitions: Transitions) -> jax.Array:
        return jnp.sum(log_partition(scores, case.mask, transitions))

    marginals, counts = jax.grad(total, argnums=(0, 1))(case.scores, case.transitions)
    expected, pairs = np.zeros(case.scores.shape), np.zeros((K, K))
    for row in FULL:
        scores = all_scores(case, row)
        whole = log_sum([*scores.values()])
        for ids, score in scores.items():
            probability = np.exp(score - whole)
            expected[row, range(len(ids)), ids] += probability
            for pair in pairwise(ids):
                pairs[pair] += probability
    np.testing.assert_allclose(marginals, expected, atol=1e-5)
    np.testing.assert_allclose(counts.steps, pairs, atol=1e-5)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_the_loss_is_minus_the_log_probability_of_the_known_labels(case: Case, share: float) -> None:
    random = np.random.default_rng(5)
    labels = random.integers(0, K, case.mask.shape).astype(np.int32)
    known = case.mask & (random.random(case.mask.shape) < share)
    found = sequence_nats(*case, labels, known)
    for row in FULL:
        scores = all_scores(case, row)
        fits = [
            score for ids, score in scores.items() if all(ids[t] == labels[row, t] for t in np.flatnonzero(known[row]))
        ]
        assert float(found[row]) == pytest.approx(log_sum([*scores.values()]) - log_sum(fits), abs=1e-4)
    terms = crf_loss(case.scores, case.mask, case.transitions, labels, known.astype(np.float32))
    np.testing.assert_allclose(terms["label"], (np.sum(found), known.sum()), rtol=1e-5)
    hits = (np.asarray(viterbi(*case)) == labels) & known
    np.testing.assert_allclose(terms["accuracy"], (hits.sum(), known.sum()))
    gradient = jax.grad(lambda scores: crf_loss(scores, *case[1:], labels, known.astype(np.float32))["label"][0])(
        case.scores
    )
    assert np.isfinite(gradient).all() and not np.asarray(gradient)[~case.mask].any()


def test_a_padded_batch_is_its_rows_alone(case: Case) -> None:
    partition, best = log_partition(*case), viterbi(*case)
    for row in FULL:
        alone = Case(case.scores[row : row + 1, : LENGTHS[row]], np.ones((1, LENGTHS[row]), bool), case.transitions)
        np.testing.assert_allclose(log_partition(*alone)[0], partition[row], rtol=1e-6)
        np.testing.assert_array_equal(viterbi(*alone)[0], best[row, : LENGTHS[row]])


def test_a_restricted_answer_is_the_best_of_the_legal_sequences(case: Case) -> None:
    labels = ("B-A", "I-A", "O")
    legal = legal_steps(labels)
    assert legal is not None
    found = np.asarray(viterbi(case.scores, case.mask, case.transitions.restricted(Transitions(*legal))))
    for row in FULL:
        scores = {
            ids: score
            for ids, score in all_scores(case, row).items()
            if not illegal_count([labels[k] for k in ids], "BIO")
        }
        assert tuple(found[row, : LENGTHS[row]]) == max(scores, key=scores.__getitem__)
