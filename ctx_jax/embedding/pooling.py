"""One vector a sentence. Letters: B sentences, T words, D width."""

from typing import Literal

import jax
import jax.numpy as jnp

from ctx_jax.io.errors import InputError

How = Literal["mean", "max", "first", "last"]


def pool(vectors: jax.Array, mask: jax.Array, how: How = "mean") -> jax.Array:
    """Pool the real words of each sentence: vectors [B, T, D], mask [B, T] -> [B, D].

        mask   1 1 1 0        mean, max   over words 0, 1, 2
        word   0 1 2 .        first       word 0
                              last        word 2

    A sentence without words gives zeros. Layers [L, B, T, D] pool with `jax.vmap(partial(pool, how=how), (0, None))`.
    """
    vectors, mask = jnp.asarray(vectors), jnp.asarray(mask, jnp.bool_)
    if vectors.ndim != 3 or mask.shape != vectors.shape[:2]:
        raise InputError(f"pool needs vectors [B, T, D] and mask [B, T], got {vectors.shape} and {mask.shape}")
    if how not in ("mean", "max", "first", "last"):
        raise InputError(f'how must be "mean", "max", "first" or "last", got {how!r}')
    rows, length, width = vectors.shape
    if length == 0:
        return jnp.zeros((rows, width), vectors.dtype)
    real = mask[..., None]  # [B, T, 1]
    match how:
        case "mean":
            count = jnp.maximum(jnp.sum(real, axis=1), 1).astype(vectors.dtype)
            return jnp.sum(jnp.where(real, vectors, 0), axis=1) / count
        case "max":
            largest = jnp.max(jnp.where(real, vectors, -jnp.inf), axis=1)
            return jnp.where(jnp.any(real, axis=1), largest, 0)
        case "first":
            position = jnp.argmax(mask, axis=1)
        case "last":
            position = length - 1 - jnp.argmax(mask[:, ::-1], axis=1)
    chosen = jnp.take_along_axis(vectors, position[:, None, None], axis=1)[:, 0]  # [B, D]
    return jnp.where(jnp.any(real, axis=1), chosen, 0)
