"""Exact softmax cross-entropy over a large vocabulary, without [N, V] logits in memory.

Letters: N tokens, P width, V vocabulary.

Tokens are processed in chunks. Under differentiation, the forward scan computes each chunk's gradient together with its
loss, so that no array of size V per token is saved and the logits are computed once.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ctx_jax.ops.hardware import platform
from ctx_jax.ops.linear import Compute, product

LOGITS_AT_ONCE = 2**25  # elements of a chunk's logits: 128 MiB in float32


def _chunked(vocabulary: int, *arrays: jax.Array) -> Any:
    """A tuple of the arrays [N, ...] as [chunks, tokens of a chunk, ...], padded with zeros. A chunk has at most
    LOGITS_AT_ONCE logits, or one token."""
    count = arrays[0].shape[0]
    number = min(max(1, -(-count * vocabulary // LOGITS_AT_ONCE)), max(count, 1))
    size = -(-count // number)
    return tuple(
        jnp.pad(values, [(0, number * size - count)] + [(0, 0)] * (values.ndim - 1)).reshape(
            number, size, *values.shape[1:]
        )
        for values in arrays
    )


def _sum(values: jax.Array, axis: int) -> jax.Array:
    """The sum of [N, V] over an axis. On a CPU it is a product with ones: a plain sum over a chunk's rows took fifty
    times as long, half of the time of the loss at 100,000 words. On other platforms XLA fuses a sum into its producer,
    and a float32 product of one column would leave a TPU's matrix unit nearly idle."""
    if platform() != "cpu":
        return jnp.sum(values, axis=axis)
    return product(values, jnp.ones((values.shape[axis],), jnp.float32), (axis, 0), "float32")


class _Scores(NamedTuple):
    """Losses of the tokens of a chunk."""

    losses: jax.Array  # [N] nats
    hits: jax.Array  # [N] 1 where no logit exceeds the label's, else 0
    powers: jax.Array  # [N, V] exp(logit - maximum)
    total: jax.Array  # [N] sum of `powers`


def _score(hidden: jax.Array, labels: jax.Array, weights: jax.Array, bias: jax.Array, compute: Compute) -> _Scores:
    logits = product(hidden, weights, (1, 1), compute) + bias[None, :]
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
    """-log p(label | hidden) in nats, float32 [N]; for evaluation, since its gradient would save all logits.

    Args:
      hidden: [N, P]. labels: int32 [N]. weights: [V, P]. bias: [V].
    """
    return _token_scores(hidden, labels, weights, bias, compute)[0]


def _token_scores(
    hidden: jax.Array, labels: jax.Array, weights: jax.Array, bias: jax.Array, compute: Compute
) -> tuple[jax.Array, jax.Array]:
    """Loss and hit of each token, float32 [N]."""

    def chunk(inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        scores = _score(*inputs, weights, bias, compute)
        return scores.losses, scores.hits

    losses, hits = lax.map(chunk, _chunked(weights.shape[0], hidden, labels))
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
    """Sum over tokens of weight * -log softmax(hidden weights^T + bias)[label], and the sum of `weight`.

    Args:
      hidden: [N, P]. labels: int32 [N]. weights: [V, P]. bias: [V].
      weight: float32 [N], 0 where a token does not count; None: 1 everywhere.

    Returns:
      (sum in nats, sum of `weight`), float32 scalars.
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
    """(sum in nats, summed weight of the tokens whose label has the highest logit, sum of `weight`), in one pass.

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
_Sums = tuple[jax.Array, jax.Array, jax.Array, jax.Array]  # nats, hits, gradients of weights and bias


def _forward(
    compute: Compute, hidden: jax.Array, weights: jax.Array, bias: jax.Array, labels: jax.Array, weight: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], _Gradients]:
    def chunk(sums: _Sums, inputs: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[_Sums, jax.Array]:
        total, right, to_weights, to_bias = sums
        rows, labels, weight = inputs
        scores = _score(rows, labels, weights, bias, compute)
        is_label = lax.broadcasted_iota(labels.dtype, scores.powers.shape, 1) == labels[:, None]
        to_logits = scores.powers * (weight / scores.total)[:, None] - jnp.where(is_label, weight[:, None], 0.0)
        to_weights = to_weights + product(to_logits, rows, (0, 0), compute)
        total, right = total + jnp.sum(_weighted(scores.losses, weight)), right + jnp.sum(scores.hits * weight)
        to_hidden = product(to_logits, weights, (1, 0), compute)
        return (total, right, to_weights, to_bias + _sum(to_logits, 0)), to_hidden

    zero = jnp.zeros((), jnp.float32)
    start = (zero, zero, jnp.zeros(weights.shape, jnp.float32), jnp.zeros(bias.shape, jnp.float32))
    inputs = _chunked(weights.shape[0], hidden, labels, weight)
    (total, right, to_weights, to_bias), to_hidden = lax.scan(chunk, start, inputs)
    return (total, right), (to_hidden.reshape(-1, hidden.shape[1])[: hidden.shape[0]], to_weights, to_bias)


def _backward(
    compute: Compute, gradients: _Gradients, cotangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array, None, None]:
    to_hidden, to_weights, to_bias = (gradient * cotangents[0] for gradient in gradients)
    return to_hidden, to_weights, to_bias, None, None


_sums.defvjp(_forward, _backward)
