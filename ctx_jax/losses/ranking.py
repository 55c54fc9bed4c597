"""The loss of pairs that must find each other among all texts of a batch.

Letters: B rows, N rows of all devices, D width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ctx_jax.typing import Terms


class RankedPairs(NamedTuple):
    """What the loss knows of pairs besides their vectors."""

    rows: jax.Array  # int32 [B], the rows' numbers among those of all devices
    texts: jax.Array  # int32 [B, 2], the numbers of both texts: equal texts have equal numbers
    weights: jax.Array  # float32 [B], 0 at padding


def ranking_loss(first: jax.Array, second: jax.Array, own: RankedPairs, candidates: RankedPairs, scale: float) -> Terms:
    """Multiple-negatives ranking (Henderson et al. 2017): the cross-entropy, in nats, of a row's own second text among
    the second texts of all rows.

        label      sum over rows of -log softmax(scale * first @ second.T)[own row], and the number of rows
        accuracy   rows whose own text has the highest score, and the number of rows

    `first` [B, D] are the vectors of the pairs `own`, `second` [N, D] those of the `candidates`, which these are among;
    both of length 1, so that the scores are cosines times `scale`. A candidate with the same first or second text is no
    negative, nor is one whose second text is the row's first, which would be nearer than any answer.
    """
    scores = scale * jnp.matmul(first, second.T, precision=jax.lax.Precision.HIGHEST)  # [B, N]
    right = own.rows[:, None] == candidates.rows[None, :]
    same = jnp.any(own.texts[:, None, :] == candidates.texts[None, :, :], axis=-1)
    same |= own.texts[:, :1] == candidates.texts[None, :, 1]
    scores = jnp.where(~right & (same | (candidates.weights == 0)[None, :]), -jnp.inf, scores)
    reached = jnp.sum(jnp.where(right, scores, 0.0), axis=1)
    nats = jax.nn.logsumexp(scores, axis=1) - reached
    hits = (reached >= jnp.max(scores, axis=1)).astype(jnp.float32)
    count = jnp.sum(own.weights)
    return {"label": (jnp.sum(nats * own.weights), count), "accuracy": (jnp.sum(hits * own.weights), count)}
