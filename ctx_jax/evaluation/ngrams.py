"""Count-based n-gram baselines on the vocabulary of a neural language model.

Letters: V vocabulary, N tokens (targets).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from ctx_jax.io.errors import InputError

MAX_TOKENS = 2_500_000  # limits memory to 300 MB, at about 120 bytes per token; WikiText-2 is smaller
HELD_OUT = 10  # the interpolation weights are fitted on every tenth training sentence
BUCKETS = 16  # of histories, by floor(log2(count)) + 1; bucket 0: unseen histories
EM_STEPS = 30


@dataclass(frozen=True)
class Ngram:
    """An interpolated n-gram model; `keys[k]`, `counts[k]` are those of the (k+1)-grams, sorted by key."""

    size: int
    begin: int
    end: int
    keys: tuple[np.ndarray, ...]
    counts: tuple[np.ndarray, ...]
    history_keys: tuple[np.ndarray, ...]
    history_counts: tuple[np.ndarray, ...]
    weights: np.ndarray  # [order, BUCKETS], interpolation weight of the maximum-likelihood estimate at each order
    cut: bool = False  # whether sentences were left out of the fit

    @property
    def order(self) -> int:
        """1 for a unigram model, 3 for a trigram model."""
        return len(self.keys)

    @property
    def tokens(self) -> int:
        """Number of targets that were counted: words, <UNK> and </S>."""
        return int(self.counts[0].sum())

    def probabilities(self, grams: np.ndarray) -> np.ndarray:
        """p(last word | the words before it) of each row of `grams`, int [N, order] -> float64 [N].

        Sums to 1 over the last word for every history, seen or not.
        """
        estimates, buckets = _estimates(self, grams)
        shares = np.take_along_axis(self.weights, buckets, axis=1)
        result = np.full(len(grams), 1.0 / self.size)
        for estimate, share in zip(estimates, shares, strict=True):
            result = share * estimate + (1.0 - share) * result
        return result

    def perplexity(self, sentences: Iterable[Sequence[int] | np.ndarray]) -> float:
        """exp of the mean nats per target, in the forward direction; words, <UNK> and </S> are targets."""
        nats, tokens = 0.0, 0
        for grams in _chunks(sentences, self.order, self.begin, self.end):
            nats -= float(np.log(self.probabilities(grams)).sum())
            tokens += len(grams)
        if not tokens:
            raise InputError("the perplexity of an n-gram model needs at least one sentence, got none")
        return math.exp(nats / tokens)


def fit_ngram(
    sentences: Iterable[Sequence[int] | np.ndarray],
    size: int,
    *,
    begin: int,
    end: int,
    order: int = 3,
    max_tokens: int = MAX_TOKENS,
) -> Ngram:
    """Fit an n-gram model with Jelinek-Mercer interpolation, p_k = a ML_k + (1 - a) p_(k-1), where p_0 = 1 / V.

    `sentences` are vocabulary ids without markers; `begin` and `end` the ids of <S> and </S>; `size` is V.
    The weights `a`, one per order and per power of two of the history's count, are fitted by expectation maximisation
    on every tenth sentence, with the counts of the others; the returned model has the counts of all sentences. To limit
    memory, sentences after the first `max_tokens` targets are not read; `cut` of the result tells whether there were.
    Source: Jelinek and Mercer 1980; buckets as in Chen and Goodman 1999, section 2.3.
    """
    if not 1 <= order <= 3:
        raise InputError(f"order must be 1, 2 or 3, got {order}")
    if size**order >= 2**63:
        raise InputError(f"the keys of {order}-grams over {size} words do not fit 64 bits: lower the vocabulary")
    fitting: list[np.ndarray] = []
    held_out: list[np.ndarray] = []
    tokens = 0
    remaining = iter(sentences)
    for index, sentence in enumerate(remaining):
        (held_out if index % HELD_OUT == HELD_OUT - 1 else fitting).append(_grams(sentence, order, begin, end))
        tokens += len(sentence) + 1
        if tokens >= max_tokens:
            break
    if not held_out:
        raise InputError(
            f"an n-gram model needs at least {HELD_OUT} training sentences (every {HELD_OUT}th fits its weights), "
            f"got {len(fitting)}"
        )
    rest, kept = np.concatenate(fitting), np.concatenate(held_out)
    weights = _fit_weights(_count(rest, size, begin, end, np.zeros((order, BUCKETS))), kept)
    whole = _count(np.concatenate([rest, kept]), size, begin, end, weights)
    return replace(whole, cut=next(remaining, None) is not None)


def _grams(sentence: Sequence[int] | np.ndarray, order: int, begin: int, end: int) -> np.ndarray:
    padded = np.full(len(sentence) + order, begin, np.int32)
    padded[order - 1 : -1], padded[-1] = sentence, end
    return np.lib.stride_tricks.sliding_window_view(padded, order)


def _chunks(sentences: Iterable[Sequence[int] | np.ndarray], order: int, begin: int, end: int) -> Iterable[np.ndarray]:
    remaining = iter(sentences)
    while chunk := list(islice(remaining, 10_000)):
        yield np.concatenate([_grams(sentence, order, begin, end) for sentence in chunk])


def _key(grams: np.ndarray, size: int) -> np.ndarray:
    key = np.zeros(len(grams), np.int64)
    for column in grams.T:
        key = key * size + column
    return key


def _count(grams: np.ndarray, size: int, begin: int, end: int, weights: np.ndarray) -> Ngram:
    order = grams.shape[1]
    tails = [grams[:, order - 1 - k :] for k in range(order)]
    whole = [np.unique(_key(tail, size), return_counts=True) for tail in tails]
    before = [np.unique(_key(tail[:, :-1], size), return_counts=True) for tail in tails]
    return Ngram(
        size, begin, end,
        tuple(k for k, _ in whole), tuple(c for _, c in whole),
        tuple(k for k, _ in before), tuple(c for _, c in before),
        weights,
    )  # fmt: skip


def _look_up(keys: np.ndarray, counts: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    position = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[position] == wanted, counts[position], 0)


def _estimates(model: Ngram, grams: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maximum-likelihood estimates [order, N] and the bucket of each history [order, N]."""
    if grams.ndim != 2 or grams.shape[1] != model.order:
        raise InputError(f"a model of order {model.order} needs grams [N, {model.order}], got {grams.shape}")
    estimates, buckets = [], []
    for k in range(model.order):
        tail = grams[:, model.order - 1 - k :]
        count = _look_up(model.keys[k], model.counts[k], _key(tail, model.size))
        total = _look_up(model.history_keys[k], model.history_counts[k], _key(tail[:, :-1], model.size))
        estimates.append(count / np.maximum(total, 1))
        exponent = np.frexp(total.astype(np.float64))[1]  # 0 for 0, else floor(log2) + 1
        buckets.append(np.minimum(exponent, BUCKETS - 1))
    return np.stack(estimates), np.stack(buckets)


def _fit_weights(model: Ngram, held_out: np.ndarray) -> np.ndarray:
    """Fit the weights of all orders jointly by expectation maximisation; unseen histories have weight 0."""
    estimates, buckets = _estimates(model, held_out)
    weights = np.full((model.order, BUCKETS), 0.5)
    weights[:, 0] = 0.0
    for _ in range(EM_STEPS):
        shares = np.take_along_axis(weights, buckets, axis=1)
        lower = [np.full(len(held_out), 1.0 / model.size)]
        for estimate, share in zip(estimates, shares, strict=True):
            lower.append(share * estimate + (1.0 - share) * lower[-1])
        reach = np.ones(len(held_out))  # posterior probability of backing off to this order
        for k in reversed(range(model.order)):
            taken = reach * shares[k] * estimates[k] / lower[k + 1]
            used = np.bincount(buckets[k], weights=taken, minlength=BUCKETS)
            seen = np.bincount(buckets[k], weights=reach, minlength=BUCKETS)
            # Half a pseudo-observation sets the weight of buckets without held-out data and hardly affects the others.
            weights[k, 1:] = (used[1:] + 0.5) / (seen[1:] + 1.0)
            reach = reach - taken
    return weights
