"""Exact and sampled softmax against the original's numbers and against naive implementations."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctx_jax import losses
from ctx_jax.io.errors import ConfigError
from ctx_jax.losses import sampled

Arrays = dict[str, jax.Array]
DRAW = jax.jit(sampled.draw_log_uniform, static_argnums=(1, 2))


@pytest.fixture
def case(golden: Path) -> Arrays:
    with np.load(golden / "sampled" / "sampled_softmax.npz") as arrays:
        return {name: jnp.asarray(np.asarray(arrays[name], _kind(arrays[name]))) for name in arrays.files}


def _kind(values: np.ndarray) -> type:
    return np.float32 if values.dtype.kind == "f" else np.int32


def naive(hidden: jax.Array, weights: jax.Array, bias: jax.Array, labels: jax.Array, weight: jax.Array) -> jax.Array:
    logits = jnp.dot(hidden, weights.T, precision="highest") + bias[None, :]
    return -jnp.sum(weight * jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0])


@pytest.mark.slow
def test_sampled_softmax_meets_the_original(case: Arrays) -> None:
    def loss(hidden: jax.Array, weights: jax.Array, bias: jax.Array) -> jax.Array:
        total, weight = losses.sampled_softmax(
            hidden,
            case["labels"],
            weights,
            bias,
            case["sampled"],
            case["true_expected_count"],
            case["sampled_expected_count"],
        )
        return total / weight

    value, gradients = jax.value_and_grad(loss, (0, 1, 2))(case["x"], case["W"], case["b"])
    np.testing.assert_allclose(value, np.mean(case["loss"]), rtol=1e-5)
    for gradient, name in zip(gradients, ("dx", "dW", "db"), strict=True):
        np.testing.assert_allclose(gradient, case[name], rtol=1e-5, atol=1e-6)

    # numpy arrays closed over by a caller's jit; and the losses of single tokens
    plain = {name: np.asarray(array) for name, array in case.items()}

    @jax.jit
    def single(hidden: jax.Array, label: jax.Array, count: jax.Array) -> jax.Array:
        tables = (plain["W"], plain["b"], plain["sampled"])
        counts = (count[None], plain["sampled_expected_count"])
        return losses.sampled_softmax(hidden[None], label[None], *tables, *counts)[0]

    nats = jax.vmap(single)(case["x"], case["labels"], case["true_expected_count"])
    np.testing.assert_allclose(nats, case["loss"], rtol=1e-5)


@pytest.mark.parametrize("name", ["labels", "W", "b", "true_expected_count", "sampled_expected_count"])
def test_mismatched_arrays_are_refused_with_their_shapes(case: Arrays, name: str) -> None:
    case[name] = case[name][:1]
    names = ("x", "labels", "W", "b", "sampled", "true_expected_count", "sampled_expected_count")
    with pytest.raises(ValueError, match=r"labels \[N\] is \["):
        losses.sampled_softmax(*(case[each] for each in names))


def test_token_losses_meet_the_original(case: Arrays) -> None:
    nats = losses.token_losses(case["x"], case["labels"], case["W"], case["b"])
    np.testing.assert_allclose(nats, case["full_softmax_loss"], rtol=1e-5)


def test_weight_zero_adds_nothing_even_to_an_infinite_loss() -> None:
    def loss(bias: jax.Array) -> jax.Array:
        weight = jnp.array([1.0, 0.0, 1.0])
        return losses.exact_softmax(jnp.eye(3), jnp.arange(3), jnp.eye(3), bias, weight)[0]

    never = jnp.array([0.0, -jnp.inf, 0.0])
    want = -2 * np.log(np.e / (np.e + 1))
    np.testing.assert_allclose(loss(never), want, rtol=1e-6)
    value, gradient = jax.value_and_grad(loss)(never)
    np.testing.assert_allclose(value, want, rtol=1e-6)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("at_once", [200, 700, 2**25])
def test_chunks_change_neither_sum_nor_gradient(case: Arrays, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(sys.modules["ctx_jax.losses.softmax"], "LOGITS_AT_ONCE", at_once)
    weight = jnp.linspace(0.0, 2.0, len(case["labels"]))

    def chunked(*arrays: jax.Array) -> jax.Array:
        return 3.0 * losses.exact_softmax(arrays[0], case["labels"], arrays[1], arrays[2], weight)[0]

    arrays = (case["x"], case["W"], case["b"])
    value, gradients = jax.value_and_grad(chunked, (0, 1, 2))(*arrays)
    want, expected = jax.value_and_grad(naive, (0, 1, 2))(*arrays, case["labels"], weight)
    np.testing.assert_allclose(value, 3.0 * want, rtol=1e-6)
    for gradient, reference in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(gradient, 3.0 * reference, rtol=1e-5, atol=1e-5)


def test_accumulated_micro_batches_give_the_whole_gradient(case: Arrays) -> None:
    def total(weights: jax.Array, hidden: jax.Array, labels: jax.Array) -> jax.Array:
        return losses.exact_softmax(hidden, labels, weights, case["b"])[0] / 14.0

    whole = jax.grad(total)(case["W"], case["x"], case["labels"])
    parts = [jax.grad(total)(case["W"], case["x"][at : at + 7], case["labels"][at : at + 7]) for at in (0, 7)]
    np.testing.assert_allclose(parts[0] + parts[1], whole, rtol=1e-5, atol=1e-7)


def test_logits_of_all_tokens_are_never_in_memory() -> None:
    tokens, width, vocabulary = 4096, 8, 50_000

    def temporary(loss: object) -> int:
        shapes = [(tokens, width), (vocabulary, width), (vocabulary,)]
        arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        arrays += [jax.ShapeDtypeStruct((tokens,), jnp.int32), jax.ShapeDtypeStruct((tokens,), jnp.float32)]
        compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*arrays).compile()  # type: ignore[arg-type]
        return int(compiled.memory_analysis().temp_size_in_bytes)

    def chunked(
        hidden: jax.Array, weights: jax.Array, bias: jax.Array, labels: jax.Array, weight: jax.Array
    ) -> jax.Array:
        return losses.exact_softmax(hidden, labels, weights, bias, weight)[0]

    assert temporary(chunked) < 0.45 * temporary(naive)


def test_negatives_are_distinct_and_tries_are_counted() -> None:
    ids, tries = losses.draw_negatives(jax.random.key(0), 20, 40)
    assert len(set(np.asarray(ids).tolist())) == 20
    assert tries >= 20
    everything, _ = losses.draw_negatives(jax.random.key(1), 40, 40)
    assert sorted(np.asarray(everything).tolist()) == list(range(40))


@pytest.mark.slow
def test_drawing_does_not_depend_on_how_many_are_drawn_at_once() -> None:
    """Ids and tries equal a sequential walk over the draws, block after block, until S are distinct."""
    for count, vocabulary in ((5, 30), (29, 30)):  # in one block, in several
        key, walked = jax.random.key(3), []
        while len(set(walked)) < count:
            key, now = jax.random.split(key)
            ids, drawn = DRAW(now, 3 * count, vocabulary)
            walked += np.asarray(ids)[np.asarray(drawn)].tolist()
        seen = list(dict.fromkeys(walked))[:count]
        negatives = losses.draw_negatives(jax.random.key(3), count, vocabulary)
        assert np.asarray(negatives.ids).tolist() == seen
        assert int(negatives.tries) == walked.index(seen[-1]) + 1


@pytest.mark.parametrize("vocabulary", [1, 2, 3, 8, 11, 31])
def test_small_vocabularies_are_drawn_by_the_log_uniform_law(vocabulary: int) -> None:
    ids, drawn = DRAW(jax.random.key(vocabulary), 2**16, vocabulary)
    found = np.bincount(np.asarray(ids)[np.asarray(drawn)], minlength=vocabulary)
    law = np.log1p(1 / np.arange(1, vocabulary + 1)) / np.log(vocabulary + 1)
    assert len(found) == vocabulary
    expected = found.sum() * law
    assert (np.square(found - expected) / expected).sum() < vocabulary + 6 * np.sqrt(2 * vocabulary)
    np.testing.assert_allclose(drawn.mean(), np.log(vocabulary + 1) / vocabulary.bit_length(), atol=0.02)


@pytest.mark.slow
def test_rare_words_of_the_published_vocabulary_are_drawn_by_the_log_uniform_law() -> None:
    """793,471 words: inverting the law at one float32 (23 bits) never reaches a fifth of the last words."""
    vocabulary, tail = 793_471, 650_000
    ids, drawn = DRAW(jax.random.key(0), 2**23, vocabulary)
    found = np.bincount(np.asarray(ids)[np.asarray(drawn)], minlength=vocabulary)
    assert len(found) == vocabulary
    law = np.log1p(1 / np.arange(1.0, vocabulary + 1)) / np.log(vocabulary + 1)
    expected = found.sum() * law
    # How many words of the tail are never drawn: each is an independent event.
    missing, chance = (found[tail:] == 0).sum(), np.exp(-expected[tail:])
    assert abs(missing - chance.sum()) < 5 * np.sqrt((chance * (1 - chance)).sum())
    # 64 intervals of the last octave, and its words by the last three bits of their number.
    numbers = np.arange(2**19, vocabulary)
    for groups in ((numbers - 2**19) * 64 // (vocabulary - 2**19), numbers % 8):
        seen, wanted = (np.bincount(groups, part[numbers]) for part in (found, expected))
        assert (np.square(seen - wanted) / wanted).sum() < len(seen) + 5 * np.sqrt(2 * len(seen))


@pytest.mark.slow
def test_inclusion_frequencies_match_their_expectation() -> None:
    vocabulary, count, runs = 60, 12, 6000
    keys = jax.random.split(jax.random.key(0), runs)
    draws = jax.jit(jax.vmap(lambda key: losses.draw_negatives(key, count, vocabulary)))(keys)
    ids = np.arange(vocabulary, dtype=np.int32)
    included = (np.asarray(draws.ids)[:, :, None] == ids).any(1).mean(0)
    p = np.log((ids + 2.0) / (ids + 1.0)) / np.log(vocabulary + 1.0)
    expected = 1.0 - (1.0 - p[None, :]) ** np.asarray(draws.tries)[:, None].astype(np.float64)
    np.testing.assert_allclose(included, expected.mean(0), atol=5 * 0.5 / np.sqrt(runs))
    ours = sampled.expected_counts(jnp.asarray(ids), draws.tries[0], vocabulary)
    np.testing.assert_allclose(ours, expected[0], rtol=1e-4)


@pytest.mark.slow
def test_more_negatives_than_words_is_an_error() -> None:
    with pytest.raises(ConfigError, match="negatives must be 1 to 5, .* got 6"):
        losses.draw_negatives(jax.random.key(0), 6, 5)
