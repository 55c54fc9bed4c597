"""A linear-chain conditional random field over labels (Lafferty et al. 2001): log partition and best sequence.

    score(y) = start[y_1] + sum_t scores[t, y_t] + sum_t steps[y_t, y_t+1] + end[y_T]        p(y) = exp(score(y)) / Z

Both are exact, by dynamic programming in one `lax.scan` over the words; the gradient of log Z with respect to `scores`
is the marginal probability of each label at each word. Padding stands at the end of rows.

Letters: B rows, T words, K labels.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from ctx_jax.typing import Mask

IMPOSSIBLE = -1e9
"""The score of a label that a word cannot have. Finite, so that gradients are."""
ILLEGAL = -1e6
"""Added to a step that should not be taken: any sequence without such steps is better."""


class Transitions(NamedTuple):
    """What a sequence of labels scores by itself."""

    start: jax.Array  # [K]
    end: jax.Array  # [K]
    steps: jax.Array  # [K, K], from the row's label to the column's

    def restricted(self, legal: "Transitions") -> "Transitions":
        """With a penalty on all that is not `legal`, which holds bools: the best sequence has an illegal step only if
        every one has."""
        return Transitions(
            *(jnp.where(allowed, own, own + ILLEGAL) for own, allowed in zip(self, legal, strict=True)),
        )


class CRF(nn.Module):
    """The parameters of `Transitions`, zeros at first."""

    labels: int

    @nn.compact
    def __call__(self) -> Transitions:
        count, zeros = self.labels, nn.initializers.zeros
        return Transitions(
            self.param("start", zeros, (count,)),
            self.param("end", zeros, (count,)),
            self.param("steps", zeros, (count, count)),
        )


def log_partition(scores: jax.Array, mask: Mask, transitions: Transitions) -> jax.Array:
    """log Z [B]: the logarithm of the sum of exp(score) over all sequences of labels. 0 for a row without words.

    `scores` [B, T, K], T >= 1; `mask` bool [B, T].
    """

    def step(before: jax.Array, word: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        scores, real = word
        after = jax.nn.logsumexp(before[:, :, None] + transitions.steps[None], axis=1) + scores
        return jnp.where(real[:, None], after, before), None

    last, _ = lax.scan(step, transitions.start[None] + scores[:, 0], _rest(scores, mask))  # [B, K]
    return jnp.where(mask[:, 0], jax.nn.logsumexp(last + transitions.end[None], axis=1), 0.0)


def sequence_nats(scores: jax.Array, mask: Mask, transitions: Transitions, labels: jax.Array, known: Mask) -> jax.Array:
    """-log p of the labels int [B, T] of the words that are `known`, [B]. Where every word is, this is
    log Z - score(labels); the labels of others are summed out."""
    other = jnp.arange(scores.shape[-1], dtype=labels.dtype)[None, None] != labels[..., None]
    given = jnp.where(known[..., None] & other, IMPOSSIBLE, scores)
    return log_partition(scores, mask, transitions) - log_partition(given, mask, transitions)


def viterbi(scores: jax.Array, mask: Mask, transitions: Transitions) -> jax.Array:
    """The sequence of the greatest score (Viterbi 1967), int32 [B, T], 0 at padding. Of equal ones, one of low numbers.

    `scores` [B, T, K], T >= 1; `mask` bool [B, T].
    """
    stay = jnp.arange(scores.shape[-1], dtype=jnp.int32)[None]

    def step(before: jax.Array, word: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        scores, real = word
        joined = before[:, :, None] + transitions.steps[None]  # [B, from, to]
        origin = jnp.where(real[:, None], jnp.argmax(joined, axis=1).astype(jnp.int32), stay)
        return jnp.where(real[:, None], jnp.max(joined, axis=1) + scores, before), origin

    def back(label: jax.Array, origin: jax.Array) -> tuple[jax.Array, jax.Array]:
        before = jnp.take_along_axis(origin, label[:, None], axis=1)[:, 0]
        return before, before

    best, origins = lax.scan(step, transitions.start[None] + scores[:, 0], _rest(scores, mask))  # [T - 1, B, K]
    last = jnp.argmax(best + transitions.end[None], axis=1).astype(jnp.int32)
    _, earlier = lax.scan(back, last, origins, reverse=True)  # [T - 1, B]
    return jnp.where(mask, jnp.concatenate([earlier, last[None]]).T, 0)


def _rest(scores: jax.Array, mask: Mask) -> tuple[jax.Array, jax.Array]:
    """Scores [T - 1, B, K] and mask [T - 1, B] of all words but the first."""
    return jnp.moveaxis(scores[:, 1:], 1, 0), mask[:, 1:].T
