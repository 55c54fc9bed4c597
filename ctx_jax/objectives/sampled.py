"""The original's sampled softmax (Jean et al. 2015; TensorFlow's `sampled_softmax_loss` with log-uniform candidates).

Letters: N tokens, P width, V vocabulary, S negatives.

Words are numbered by falling frequency, and word k is drawn with p(k) = log((k + 2) / (k + 1)) / log(V + 1). Draws go
on until S of them are distinct; the number of draws ("tries") makes the expected count of a word among the negatives
1 - (1 - p)^tries, whose logarithm is taken off its logit.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ctx_jax.numerics.linear import Compute, linear


class Negatives(NamedTuple):
    """One set of distinct words."""

    ids: jax.Array  # int32 [S]
    tries: jax.Array  # int32 []


def log_uniform(ids: jax.Array, vocabulary: int) -> jax.Array:
    """p(k) of each id, float32."""
    k = ids.astype(jnp.float32)
    return jnp.log1p(1.0 / (k + 1.0)) / jnp.log(jnp.float32(vocabulary + 1))


def expected_counts(ids: jax.Array, tries: jax.Array, vocabulary: int) -> jax.Array:
    """1 - (1 - p)^tries: how often each id is expected among the negatives."""
    return -jnp.expm1(tries.astype(jnp.float32) * jnp.log1p(-log_uniform(ids, vocabulary)))


class _Draws(NamedTuple):
    key: jax.Array
    taken: jax.Array  # bool [V]
    ids: jax.Array  # int32 [S]
    found: jax.Array
    tries: jax.Array


def draw_negatives(key: jax.Array, count: int, vocabulary: int) -> Negatives:
    """Draw words log-uniformly, with replacement, until `count` of them are distinct; keep those, in order of drawing.

    Raises:
      ValueError: `count` exceeds the vocabulary, so that the drawing would never end.
    """
    if not 0 < count <= vocabulary:
        raise ValueError(f"a vocabulary of {vocabulary} words cannot give {count} distinct negatives: set negatives")
    block = 2 * count

    def more(draws: _Draws) -> _Draws:
        key, now = jax.random.split(draws.key)
        uniform = jax.random.uniform(now, (block,))
        drawn = jnp.exp(uniform * jnp.log(jnp.float32(vocabulary + 1))).astype(jnp.int32) - 1
        drawn = jnp.clip(drawn, 0, vocabulary - 1)
        places = jnp.arange(block, dtype=jnp.int32)
        first = jnp.full((vocabulary,), block, jnp.int32).at[drawn].min(places)
        new = (first[drawn] == places) & ~draws.taken[drawn]
        rank = draws.found + jnp.cumsum(new, dtype=jnp.int32)  # how many are distinct after each draw
        needed = rank - new.astype(jnp.int32) < count  # draws made before the last distinct one was found
        kept = new & needed
        ids = draws.ids.at[jnp.where(kept, rank - 1, count)].set(drawn, mode="drop")
        taken = draws.taken.at[jnp.where(kept, drawn, vocabulary)].set(True, mode="drop")
        tries = draws.tries + jnp.sum(needed, dtype=jnp.int32)
        return _Draws(key, taken, ids, jnp.minimum(rank[-1], count), tries)

    zero = jnp.zeros((), jnp.int32)
    start = _Draws(key, jnp.zeros((vocabulary,), bool), jnp.zeros((count,), jnp.int32), zero, zero)
    draws = lax.while_loop(lambda draws: draws.found < count, more, start)
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
    """Cross-entropy of each label against the negatives, corrected by the logs of the expected counts.

    A negative that is the token's own label (an accidental hit) does not count for that token.

    Args:
      hidden: [N, P]. labels: int [N]. weights: [V, P]. bias: [V].
      negatives: int [S], distinct, shared by all tokens.
      true_counts: [N], expected counts of the labels. negative_counts: [S].
      weight: float32 [N], 0 where a token does not count; None: 1 everywhere.

    Returns:
      (sum in nats, sum of weights), float32 scalars.
    """
    true = jnp.sum(hidden * weights[labels], axis=-1) + bias[labels] - jnp.log(true_counts)
    logits = linear(hidden, weights[negatives].T, compute) + (bias[negatives] - jnp.log(negative_counts))[None, :]
    logits = jnp.where(labels[:, None] == negatives[None, :], -jnp.inf, logits)
    losses = jax.nn.logsumexp(jnp.concatenate([true[:, None], logits], axis=1), axis=1) - true
    if weight is None:
        weight = jnp.ones(labels.shape, jnp.float32)
    return jnp.sum(losses * weight), jnp.sum(weight)
