"""N-gram baselines: proper distributions, a hand computation, and weights that maximise the held-out likelihood."""

import itertools
import math

import numpy as np
import pytest

from ctx_jax.evaluation import ngrams

BEGIN, END, UNKNOWN = 0, 1, 2


def zipf_sentences(count: int, size: int, seed: int = 0) -> list[list[int]]:
    """Sentences of a random first-order Markov chain, so that bigrams carry information."""
    table = np.random.default_rng(99).permuted(np.tile(1.0 / np.arange(1, size - 1), (size, 1)), axis=1)
    table /= table.sum(axis=1, keepdims=True)
    generator = np.random.default_rng(seed)
    sentences = []
    for _ in range(count):
        words = [UNKNOWN]
        for _ in range(generator.integers(1, 12)):
            words.append(2 + int(generator.choice(size - 2, p=table[words[-1]])))
        sentences.append(words)
    return sentences


@pytest.mark.parametrize("order", [1, 2, 3])
def test_sums_to_one_after_any_history(order: int) -> None:
    size = 23
    model = ngrams.fit_ngram(zipf_sentences(200, size), size, begin=BEGIN, end=END, order=order)
    for history in [(BEGIN, BEGIN), (BEGIN, UNKNOWN), (2, 3), (5, 5), (22, BEGIN), (END, END)]:
        grams = np.array([[*history, word][-order:] for word in range(size)])
        probabilities = model.probabilities(grams)
        assert probabilities.min() > 0
        assert probabilities.sum() == pytest.approx(1.0, abs=1e-12)


def test_equals_a_hand_computation() -> None:
    """Ten times "a b": p(b | <S> a) mixes 1 (trigram), 1 (bigram), 1/3 (unigram: a, b, </S>) and 1/V."""
    a, b, size = 3, 4, 5
    model = ngrams.fit_ngram([[a, b]] * 10, size, begin=BEGIN, end=END)
    uni, bi, tri = model.weights[0, 5], model.weights[1, 4], model.weights[2, 4]  # counts 30 and 10: buckets 5, 4
    unigram = uni / 3 + (1 - uni) / size
    bigram = bi + (1 - bi) * unigram
    expected = tri + (1 - tri) * bigram
    np.testing.assert_allclose(model.probabilities(np.array([[BEGIN, a, b]])), [expected], rtol=1e-12)
    # An unseen history backs off to the next order; an unseen word keeps only the uniform share.
    np.testing.assert_allclose(model.probabilities(np.array([[b, a, b]])), [bigram], rtol=1e-12)
    np.testing.assert_allclose(model.probabilities(np.array([[END, END, b]])), [unigram], rtol=1e-12)
    np.testing.assert_allclose(model.probabilities(np.array([[END, END, UNKNOWN]])), [(1 - uni) / size], rtol=1e-12)


def test_perplexity_counts_every_target() -> None:
    size = 23
    model = ngrams.fit_ngram(zipf_sentences(200, size), size, begin=BEGIN, end=END)
    valid = zipf_sentences(5, size, seed=1)
    nats, tokens = 0.0, 0
    for sentence in valid:
        padded = [BEGIN, BEGIN, *sentence, END]
        for place in range(2, len(padded)):
            nats -= math.log(model.probabilities(np.array([padded[place - 2 : place + 1]]))[0])
            tokens += 1
    assert tokens == sum(len(sentence) + 1 for sentence in valid)
    assert model.perplexity(valid) == pytest.approx(math.exp(nats / tokens), rel=1e-12)


def test_more_context_helps_on_a_markov_chain_and_nudged_weights_do_not() -> None:
    size = 23
    train, valid = zipf_sentences(600, size), zipf_sentences(100, size, seed=1)
    unigram, bigram = (ngrams.fit_ngram(train, size, begin=BEGIN, end=END, order=order) for order in (1, 2))
    assert bigram.perplexity(valid) < 0.8 * unigram.perplexity(valid)
    fitting = [sentence for index, sentence in enumerate(train) if index % 10 != 9]
    counts = ngrams.fit_ngram(fitting, size, begin=BEGIN, end=END, order=2)
    held_out = [sentence for index, sentence in enumerate(train) if index % 10 == 9]

    def nats(scale: float) -> float:
        weights = np.clip(bigram.weights * np.array([[1.0], [scale]]), 0, 0.999)
        model = ngrams.Ngram(
            size, BEGIN, END, counts.keys, counts.counts, counts.history_keys, counts.history_counts, weights
        )
        return math.log(model.perplexity(held_out))

    assert nats(1.0) < min(nats(0.85), nats(1.15))


def test_max_tokens_bounds_what_is_read() -> None:
    model = ngrams.fit_ngram(itertools.repeat([3, 4, 5]), 6, begin=BEGIN, end=END, max_tokens=400)
    assert sum(model.counts[0]) == model.tokens == 400
    assert model.cut
    whole = ngrams.fit_ngram([[3, 4, 5]] * 100, 6, begin=BEGIN, end=END, max_tokens=400)
    assert (whole.tokens, whole.cut) == (400, False)
    np.testing.assert_array_equal(whole.weights, model.weights)
    arrays = ngrams.fit_ngram([np.array([3, 4, 5], np.int32)] * 100, 6, begin=BEGIN, end=END)
    assert arrays.perplexity([np.array([3, 4], np.int32)]) == whole.perplexity([[3, 4]])


def test_errors_say_what_is_missing() -> None:
    with pytest.raises(ValueError, match="at least 10 training sentences"):
        ngrams.fit_ngram([[3]] * 9, 5, begin=BEGIN, end=END)
    with pytest.raises(ValueError, match="at least one sentence"):
        ngrams.fit_ngram([[3]] * 10, 5, begin=BEGIN, end=END).perplexity([])
