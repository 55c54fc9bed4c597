"""A vector of each word from its characters by a small convolution (Ma and Hovy 2016).

Letters: B rows, T words, C characters, e character width, F filters.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ctx_jax.ops.linear import linear, lookup
from ctx_jax.tokenizers.characters import CHARACTERS, PAD, raw_ids


class CharacterCNN(nn.Module):
    """char_ids int32 [B, T, C] (`tokenizers.characters`) to [B, T, F]: the maximum over a word's characters of filters
    that are `window` characters wide. 0 where there is no word."""

    filters: int
    dim: int
    window: int = 3

    @nn.compact
    def __call__(self, char_ids: jax.Array) -> jax.Array:
        table = self.param("embedding", nn.initializers.normal(self.dim**-0.5), (CHARACTERS, self.dim))
        shape = (self.window * self.dim, self.filters)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.filters,))
        ids = raw_ids(char_ids)
        real = (ids != PAD)[..., None]  # [B, T, C, 1]
        characters = jnp.where(real, lookup(table, ids), 0.0)  # [B, T, C, e]
        before = self.window // 2
        padded = jnp.pad(characters, ((0, 0), (0, 0), (before, self.window - 1 - before), (0, 0)))
        count = char_ids.shape[-1]
        windows = jnp.concatenate([padded[:, :, i : i + count] for i in range(self.window)], axis=-1)
        values = jnp.where(real, linear(windows, kernel, "float32"), -jnp.inf)  # [B, T, C, F]
        return jnp.where(jnp.any(real, axis=2), jnp.max(values, axis=2) + bias[None, None], 0.0)
