"""Layers of tokens to layers of words.

Letters: L layers, B sentences, T words, S tokens of a row, D width.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from ctx_jax.encoders.base import Layers


def pool_to_words(values: jax.Array, arrays: Mapping[str, jax.Array]) -> Layers:
    """The mean [L, B, T, D] of `values` [L, B, S, D] over each word's tokens, 0 where the mask is False; the largest of
    each number where "word_max" is True.

    A word without tokens of its own has those of the next word: an added token reaches over both. Without "word_mask"
    in `arrays` the values stay those of tokens.
    """
    # Layer by layer, so that XLA computes nothing for layers that the caller does not use.
    if "word_mask" not in arrays:
        mask = arrays["token_mask"]
        return Layers(jnp.stack([jnp.where(mask[:, :, None], layer, 0.0) for layer in values]), mask)
    mask = arrays["word_mask"]
    words, numbers = arrays["word_of_token"][:, None, :], jnp.arange(mask.shape[1], dtype=jnp.int32)[None, :, None]
    beyond = mask.shape[1]
    owners = jnp.min(jnp.where(words >= numbers, words, beyond), axis=2, keepdims=True, initial=beyond)  # [B, T, 1]
    belongs = (words == owners).astype(jnp.float32)  # [B, T, S]
    counts = jnp.maximum(jnp.sum(belongs, axis=2), 1.0)[:, :, None]

    def pooled(layer: jax.Array) -> jax.Array:
        # A product with 0 and 1 instead of a scatter: exact in float32, reproducible, and fast on accelerators.
        result = jnp.einsum("bts,bsd->btd", belongs, layer, precision=jax.lax.Precision.HIGHEST) / counts
        if "word_max" in arrays:
            result = jnp.where(arrays["word_max"][:, :, None], _largest(layer, arrays, owners[..., 0]), result)
        return jnp.where(mask[:, :, None], result, 0.0)

    return Layers(jnp.stack([pooled(layer) for layer in values]), mask)


def _largest(values: jax.Array, arrays: Mapping[str, jax.Array], owners: jax.Array) -> jax.Array:
    """The largest of each number [B, T, D] over the tokens of each word; `owners` int [B, T], the word whose tokens a
    word has, T for none."""
    count = owners.shape[1]
    words = jnp.where(arrays["word_of_token"] >= 0, arrays["word_of_token"], count)  # [B, S]

    def of_row(values: jax.Array, words: jax.Array, owners: jax.Array) -> jax.Array:  # [S, D], [S], [T]
        return jax.ops.segment_max(values, words, num_segments=count + 1)[owners]

    return jax.vmap(of_row)(values, words, owners)
