"""One vector for a text, as a learned weighted mean of its tokens. Letters: B texts, T tokens, D width."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ctx_jax.typing import Mask


class AttentionPooling(nn.Module):
    """sum over t of softmax(x q)[t] x[t], with one learned query q (Yang et al. 2016, without their hidden layer).

    q starts at 0, so that the result starts as the mean. A text without tokens gives zeros.
    """

    @nn.compact
    def __call__(self, vectors: jax.Array, mask: Mask) -> jax.Array:
        """Vectors [B, T, D] and mask [B, T] -> [B, D]."""
        zeros = nn.initializers.zeros
        query = nn.Dense(1, use_bias=False, kernel_init=zeros, precision="highest", name="query")
        scores = query(vectors)  # [B, T, 1]
        weights = jax.nn.softmax(jnp.where(mask[..., None], scores, -1e30), axis=1)  # finite: a text may have no token
        return jnp.sum(jnp.where(mask[..., None], weights * vectors, 0), axis=1)
