"""Exact softmax cross-entropy over a large vocabulary, without [N, V] logits in memory.

Letters: N tokens, P width, V vocabulary.

Tokens are processed in chunks. Under differentiation the forward scan computes each chunk's gradient together with its
loss, so no array of size V is saved per token and no product is computed twice.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ctx_jax.ops.hardware import platform
from ctx_jax.ops.linear import Compute, product

LOGITS_AT_ONCE = 2**25  # elements of a chunk's logits: 128 MiB in float32


def _chunks(count: int, vocabulary: int) -> tuple[int, int]:
    """(chunks, tokens of a chunk): equal chunks of at most LOGITS_AT_ONCE logits."""
    number = max(1, -(-count * vocabulary // LOGITS_AT_ONCE))
    number = min(number, max(count, 1))
    return number, -(-count // number)


def _split(values: jax.Array, number: int, size: int) -> jax.Array:
    """[N, ...] -> [number, size, ...], padded with zeros."""
    padding = [(0, number * size - values.shape[0])] + [(0, 0)] * (values.ndim - 1)
    return jnp.pad(values, padding).reshape(number, size, *values.shape[1:])


def _logits(hidden: jax.Array, weights: jax.Array, bias: jax.Array, compute: Compute) -> jax.Array:
    return product(hidden, weights, (1, 1), compute) + bias[None, :]


def _sum(values: jax.Array, axis: int) -> jax.Array:
    """The sum of [N, V] over an axis. On a CPU a product with ones: a plain sum over the rows of a chunk took fifty
    times as long, half of the whole loss at 100,000 words. On other platforms sums are fused into their producers, and
    a float32 product of one column would leave a TPU's matrix unit nearly idle."""
    if platform() != "cpu":
        return jnp.sum(values, axis=axis)
    return product(values, jnp.ones((values.shape[axis],), jnp.float32), (axis, 0), "float32")


class _Scores(NamedTuple):
    """Losses of the tokens of a chunk."""

    losses: jax.Array  # [N] nats
    hits: jax.Array  # [N] 1 where no logit exceeds the label's, else 0
    powers: jax.Array  # [N, V] exp(logit - maximum)
    total: jax.Array  # [N] their sums


def _losses(logits: jax.Array, labels: jax.Array) -> _Scores:
    maximum = jnp.max(logits, axis=-1)
    powers = jnp.exp(logits - maximum[:, None])
    total = _sum(powers, 1)
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    hits = (own >= maximum).astype(jnp.float32)
    return _Scores(jnp.log(total) + maximum - own, hits, powers, total)


def _weighted(losses: jax.Array, weight: jax.Array) -> jax.Array:
    """Losses times weights; a weight of 0 gives 0 even for an infinite loss."""
    return jnp.where(weight == 0, 0.0, losses * weight)


def token_losses(
    hidden: jax.Array, labels: jax.Array, weights: jax.Array, bias: jax.Array, *, compute: Compute = "float32"
) -> jax.Array:
    """-log p(label | hidden) in nats, float32 [N]; for evaluation (its gradient would save every chunk's logits).

    Args:
      hidden: [N, P]. labels: int32 [N]. weights: [V, P]. bias: [V].
    """
    return _token_scores(hidden, labels, weights, bias, compute)[0]


def _token_scores(
    hidden: jax.Array, labels: jax.Array, weights: jax.Array, bias: jax.Array, compute: Compute
) -> tuple[jax.Array, jax.Array]:
    """Loss and hit of each token, float32 [N]."""
    number, size = _chunks(hidden.shape[0], weights.shape[0])

    def chunk(inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        scores = _losses(_logits(inputs[0], weights, bias, compute), inputs[1])
        return scores.losses, scores.hits

    losses, hits = lax.map(chunk, (_split(hidden, number, size), _split(labels, number, size)))
    return losses.reshape(-1)[: hidden.shape[0]], hits.reshape(-1)[: hidden.shape[0]]


def exact_softmax(
    hidden: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    bias: jax.Array,
    weight: jax.Array | None = None,
    *,
    compute: Compute = "float32",
) -> tuple[jax.Array, jax.Array]:
    """Sum over tokens of weight * -log softmax(hidden weights^T + bias)[label], and the sum of the weights.

    Args:
      hidden: [N, P]. labels: int32 [N]. weights: [V, P]. bias: [V].
      weight: float32 [N], 0 where a token does not count; None: 1 everywhere.

    Returns:
      (sum in nats, sum of weights), float32 scalars.
    """
    total, _, weight = softmax_with_hits(hidden, labels, weights, bias, weight, compute=compute)
    return total, weight


def softmax_with_hits(
    hidden: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    bias: jax.Array,
    weight: jax.Array | None = None,
    *,
    compute: Compute = "float32",
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(sum in nats, weight of the tokens whose label has the highest score, sum of weights), in one pass.

    Arguments as in `exact_softmax`. The second result has no gradient."""
    if weight is None:
        weight = jnp.ones(labels.shape, jnp.float32)
    total, hits = _sums(compute, hidden, weights, bias, labels, weight)
    return total, hits, jnp.sum(weight)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sums(
    compute: Compute, hidden: jax.Array, weights: jax.Array, bias: jax.Array, labels: jax.Array, weight: jax.Array
) -> tuple[jax.Array, jax.Array]:
    losses, hits = _token_scores(hidden, labels, weights, bias, compute)
    return jnp.sum(_weighted(losses, weight)), jnp.sum(hits * weight)


_Gradients = tuple[jax.Array, jax.Array, jax.Array]
_Sums = tuple[jax.Array, jax.Array, jax.Array, jax.Array]  # nats, hits, gradients to weights and bias


def _forward(
    compute: Compute, hidden: jax.Array, weights: jax.Array, bias: jax.Array, labels: jax.Array, weight: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], _Gradients]:
    count, vocabulary = hidden.shape[0], weights.shape[0]
    number, size = _chunks(count, vocabulary)

    def chunk(sums: _Sums, inputs: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[_Sums, jax.Array]:
        total, right, to_weights, to_bias = sums
        rows, labels, weight = inputs
        logits = _logits(rows, weights, bias, compute)
        scores = _losses(logits, labels)
        is_label = lax.broadcasted_iota(labels.dtype, logits.shape, 1) == labels[:, None]
        to_logits = scores.powers * (weight / scores.total)[:, None] - jnp.where(is_label, weight[:, None], 0.0)
        to_weights = to_weights + product(to_logits, rows, (0, 0), compute)
        total, right = total + jnp.sum(_weighted(scores.losses, weight)), right + jnp.sum(scores.hits * weight)
        to_hidden = product(to_logits, weights, (1, 0), compute)
        return (total, right, to_weights, to_bias + _sum(to_logits, 0)), to_hidden

    zero = jnp.zeros((), jnp.float32)
    start = (zero, zero, jnp.zeros(weights.shape, jnp.float32), jnp.zeros(bias.shape, jnp.float32))
    inputs = (_split(hidden, number, size), _split(labels, number, size), _split(weight, number, size))
    (total, right, to_weights, to_bias), to_hidden = lax.scan(chunk, start, inputs)
    return (total, right), (to_hidden.reshape(-1, hidden.shape[1])[:count], to_weights, to_bias)


def _backward(
    compute: Compute, gradients: _Gradients, cotangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array, None, None]:
    to_hidden, to_weights, to_bias = (gradient * cotangents[0] for gradient in gradients)
    return to_hidden, to_weights, to_bias, None, None


_sums.defvjp(_forward, _backward)
