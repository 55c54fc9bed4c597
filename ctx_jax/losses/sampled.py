"""The sampled softmax of bilm-tf (Jean et al. 2015; TensorFlow's `sampled_softmax_loss`, log-uniform candidates).

Letters: N tokens, P width, V vocabulary, S negatives.

Words are numbered by falling frequency, and word k is drawn with p(k) = log((k + 2) / (k + 1)) / log(V + 1). Words are
drawn until S distinct ones are found. With the number of draws ("tries"), the expected count of a word among the
negatives is 1 - (1 - p)^tries; its logarithm is subtracted from the word's logit.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ctx_jax.io.errors import ConfigError, InputError
from ctx_jax.ops.linear import Compute, linear


class Negatives(NamedTuple):
    """A set of distinct sampled words."""

    ids: jax.Array  # int32 [S]
    tries: jax.Array  # int32 []


def log_uniform(ids: jax.Array, vocabulary: int) -> jax.Array:
    """p(k) of each id, float32."""
    k = ids.astype(jnp.float32)
    return jnp.log1p(1.0 / (k + 1.0)) / jnp.log(jnp.float32(vocabulary + 1))


def expected_counts(ids: jax.Array, tries: jax.Array, vocabulary: int) -> jax.Array:
    """1 - (1 - p)^tries of each id: its expected count among the negatives, float32."""
    return -jnp.expm1(tries.astype(jnp.float32) * jnp.log1p(-log_uniform(ids, vocabulary)))


def draw_log_uniform(key: jax.Array, tries: int, vocabulary: int) -> tuple[jax.Array, jax.Array]:
    """Draw words with p(k) by rejection sampling: ids int32 [tries], and whether each is accepted, bool [tries].

    Inverting the distribution at one float32 would never reach some words of a large vocabulary. Instead, for
    n = k + 1, draw an octave 2^e <= n < 2^(e + 1) uniformly, then n in the octave from e random bits. Accept n <= V
    with probability 2^e log(1 + 1 / n) <= 1. The acceptance rate is log(V + 1) / (bits of V), about two thirds.
    """
    octave, offset, chance = jax.random.bits(key, (3, tries), jnp.uint32)
    least = 1 << ((octave >> 8) * vocabulary.bit_length() >> 24)  # 24 bits of each, as many as a float32 holds
    number = least + (offset & (least - 1))
    probability = least.astype(jnp.float32) * jnp.log1p(1.0 / number.astype(jnp.float32))
    accepted = (number <= vocabulary) & ((chance >> 8).astype(jnp.float32) * 2.0**-24 < probability)
    return (number - 1).astype(jnp.int32), accepted


class _Draws(NamedTuple):
    key: jax.Array
    taken: jax.Array  # bool [V]
    ids: jax.Array  # int32 [S]
    distinct: jax.Array
    tries: jax.Array


def draw_negatives(key: jax.Array, count: int, vocabulary: int) -> Negatives:
    """Draw words log-uniformly with replacement until `count` distinct ones are found; ids in the order drawn.

    Raises:
      ConfigError: `count` is below 1 or exceeds the vocabulary (the loop would never end).
    """
    if not 0 < count <= vocabulary:
        raise ConfigError("negatives", f"must be 1 to {vocabulary}, the words of the vocabulary, got {count}")
    block = 3 * count  # about two thirds are accepted

    def more(draws: _Draws) -> _Draws:
        key, now = jax.random.split(draws.key)
        drawn, valid = draw_log_uniform(now, block, vocabulary)
        drawn = jnp.where(valid, drawn, vocabulary)  # an index out of bounds: the scatters below drop rejected draws
        positions = jnp.arange(block, dtype=jnp.int32)
        first = jnp.full((vocabulary,), block, jnp.int32).at[drawn].min(positions, mode="drop")
        new = valid & (first.at[drawn].get(mode="clip") == positions) & ~draws.taken.at[drawn].get(mode="clip")
        rank = draws.distinct + jnp.cumsum(new, dtype=jnp.int32)  # distinct words after each draw
        needed = valid & (rank - new.astype(jnp.int32) < count)  # up to the draw that completes the set
        kept = new & needed
        ids = draws.ids.at[jnp.where(kept, rank - 1, count)].set(drawn, mode="drop")
        taken = draws.taken.at[jnp.where(kept, drawn, vocabulary)].set(True, mode="drop")
        tries = draws.tries + jnp.sum(needed, dtype=jnp.int32)
        return _Draws(key, taken, ids, jnp.minimum(rank[-1], count), tries)

    zero = jnp.zeros((), jnp.int32)
    start = _Draws(key, jnp.zeros((vocabulary,), bool), jnp.zeros((count,), jnp.int32), zero, zero)
    draws = lax.while_loop(lambda draws: draws.distinct < count, more, start)
    return Negatives(draws.ids, draws.tries)


def sampled_softmax(
    hidden: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    bias: jax.Array,
    negatives: jax.Array,
    true_counts: jax.Array,
    negative_counts: jax.Array,
    *,
    weight: jax.Array | None = None,
    compute: Compute = "float32",
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of each label against the negatives; each logit is corrected by the log of its expected count.

    A negative equal to a token's label (an accidental hit) is masked for that token.

    Args:
      hidden: [N, P]. labels: int [N]. weights: [V, P]. bias: [V].
      negatives: int [S], distinct, shared by all tokens.
      true_counts: [N], expected counts of the labels. negative_counts: [S].
      weight: float32 [N], 0 where a token does not count; None: 1 everywhere.

    Returns:
      (sum in nats, sum of weights), float32 scalars.

    Raises:
      InputError: the shapes do not match; the message lists them.
    """
    arrays = (hidden, labels, weights, bias, negatives, true_counts, negative_counts)
    _check_shapes([jnp.shape(array) for array in arrays])
    hidden, labels, weights, bias, negatives, true_counts, negative_counts = map(jnp.asarray, arrays)
    true = jnp.sum(hidden * weights[labels], axis=-1) + bias[labels] - jnp.log(true_counts)
    logits = linear(hidden, weights[negatives].T, compute) + (bias[negatives] - jnp.log(negative_counts))[None, :]
    logits = jnp.where(labels[:, None] == negatives[None, :], -jnp.inf, logits)
    losses = jax.nn.logsumexp(jnp.concatenate([true[:, None], logits], axis=1), axis=1) - true
    if weight is None:
        weight = jnp.ones(labels.shape, jnp.float32)
    return jnp.sum(losses * weight), jnp.sum(weight)


_AXES = {
    "hidden": "NP",
    "labels": "N",
    "weights": "VP",
    "bias": "V",
    "negatives": "S",
    "true_counts": "N",
    "negative_counts": "S",
}


def _check_shapes(shapes: list[tuple[int, ...]]) -> None:
    sizes: dict[str, int] = {}
    for axes, shape in zip(_AXES.values(), shapes, strict=True):
        named = zip(axes, shape, strict=False)
        if len(shape) != len(axes) or any(sizes.setdefault(axis, size) != size for axis, size in named):
            listed = ", ".join(
                f"{name} [{', '.join(axes)}] is {list(shape)}"
                for (name, axes), shape in zip(_AXES.items(), shapes, strict=True)
            )
            raise InputError(f"the shapes of a sampled softmax do not match: {listed}")
