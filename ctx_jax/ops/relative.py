"""Relative positions in attention: what is added to a score depends on how far the key stands from the query.

Buckets of distances are computed by numpy when a function is traced, in the float32 steps of the papers' programs, so
that a distance at the border of two buckets falls into the same one.

Letters: B rows, T tokens, H heads, E width of a head, R rows of the table.
"""

import math
from collections.abc import Collection
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from ctx_jax.ops.linear import Compute, contract, lookup

Term = Literal["c2p", "p2c"]


def distances(length: int) -> np.ndarray:
    """int32 [T, T]: the query's index minus the key's, at [query, key]."""
    index = np.arange(length, dtype=np.int32)
    return index[:, None] - index[None, :]


def distance_buckets(away: np.ndarray, buckets: int, furthest: int) -> np.ndarray:
    """The bucket, 0 .. `buckets` - 1, of each distance `away`, query minus key (Raffel et al. 2020, T5).

    Keys behind the query are in the second half; each distance below a quarter of `buckets` has its own, greater ones
    share one by their logarithm, up to `furthest`.
    """
    half, single = buckets // 2, buckets // 4
    size = np.abs(away)
    logarithm = np.log(np.maximum(size, 1).astype(np.float32) / np.float32(single))
    share = logarithm / np.float32(math.log(furthest / single)) * np.float32(half - single)
    shared = np.minimum(single + share.astype(np.int32), half - 1)
    return np.where(size < single, size, shared) + np.where(away < 0, half, 0)


def bucketed_bias(table: jax.Array, length: int, furthest: int) -> jax.Array:
    """The bias [1, H, T, T] of attention with one number for each bucket and head: T5's and MPNet's. `table` [R, H]."""
    rows = distance_buckets(distances(length), table.shape[0], furthest)
    return lookup(table, jnp.asarray(rows)).transpose(2, 0, 1)[None]


def log_buckets(away: np.ndarray, buckets: int, furthest: int) -> np.ndarray:
    """Each distance `away` as a number from -`buckets` to `buckets`: itself up to half of `buckets`, further ones by
    their logarithm up to `furthest` (He et al. 2021, DeBERTa; its version 2)."""
    middle = buckets // 2
    size = np.maximum(np.abs(away), middle).astype(np.float32)
    most = np.log(np.float32((furthest - 1) / middle))
    shared = np.ceil(np.log(size / np.float32(middle)) / most * np.float32(middle - 1)).astype(np.int32) + middle
    return np.where(np.abs(away) <= middle, away, np.sign(away) * shared)


def disentangled_bias(
    query: jax.Array,
    key: jax.Array,
    position_query: jax.Array,
    position_key: jax.Array,
    furthest: int,
    *,
    terms: Collection[Term],
    compute: Compute | None,
) -> jax.Array:
    """The bias [B, H, T, T] of disentangled attention (He et al. 2021, DeBERTa, equation 4), before scaling.

    c2p   a token's query with the key of its distance to the other token
    p2c   the other token's key with the query of that distance

    query, key           [B, T, H, E], of tokens
    position_query, key  [R, H, E], of distances; row R / 2 + d is that of the distance d, by `log_buckets`
    """
    span = position_key.shape[0] // 2
    rows = np.clip(log_buckets(distances(query.shape[1]), span, furthest) + span, 0, 2 * span - 1)[None, None]
    result = jnp.zeros((), jnp.float32)
    if "c2p" in terms:
        scores = contract("bthe,rhe->bhtr", query, position_key, compute)
        result = result + jnp.take_along_axis(scores, jnp.asarray(rows), axis=3)
    if "p2c" in terms:
        scores = contract("bthe,rhe->bhtr", key, position_query, compute)
        chosen = jnp.take_along_axis(scores, jnp.asarray(rows.swapaxes(2, 3)), axis=3)  # [B, H, keys, queries]
        result = result + chosen.swapaxes(2, 3)
    return result
