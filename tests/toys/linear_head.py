"""A toy head: logits of K classes from a vector, as a Flax Linen module."""

import jax
from flax import linen as nn


class LinearHead(nn.Module):
    """vectors [..., D] to logits [..., K]."""

    classes: int = 2

    @nn.compact
    def __call__(self, vectors: jax.Array) -> jax.Array:
        return nn.Dense(self.classes)(vectors)
