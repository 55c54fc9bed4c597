"""A number from the cosine of two vectors. Letters: B pairs, D width."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ctx_jax.ops.dense import unit_vectors


class CosineHead(nn.Module):
    """scale * cosine + bias, with both learned: the vectors [B, D] of two texts -> [B]."""

    @nn.compact
    def __call__(self, first: jax.Array, second: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, ())
        bias = self.param("bias", nn.initializers.zeros, ())
        return scale * jnp.sum(unit_vectors(first) * unit_vectors(second), axis=-1) + bias
