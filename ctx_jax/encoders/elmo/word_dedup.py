"""Encode each distinct word of a batch once, inside the compiled program and with static shapes.

About half of the N words of a batch are distinct, and most are short. The words are sorted by a hash, and equal
neighbours form a group (whole words are compared, so a hash collision costs a row but never gives a wrong vector). The
groups are sorted by length and assigned to buckets: a bucket (occupied, share) has `share` x N rows for words that
occupy at most `occupied` of the C positions, and a full bucket overflows into the next. A batch that does not fit uses
tables larger by a factor; a batch that fits none of the tables encodes every word. Under `shard_map` each shard chooses
its own table.
"""

from collections.abc import Callable
from functools import partial
from math import ceil
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class _Bucket(NamedTuple):
    """Rows for words that occupy at most `occupied` positions."""

    occupied: int
    rows: int


def _hash(words: jax.Array) -> jax.Array:
    """uint32 [N] of int32 [N, C]; equal rows hash equal.

    A sum over positions of mixed ids, which runs in parallel. The multipliers are those of MurmurHash3's finalizer
    (Appleby, fmix32); the addend, 2**32 over the golden ratio, gives id 0 a term that depends on its position.
    """
    positions = jnp.arange(1, words.shape[1] + 1, dtype=jnp.uint32)
    mixed = (words.astype(jnp.uint32) + jnp.uint32(0x9E3779B9)) * (positions * jnp.uint32(0x85EBCA6B))[None, :]
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(0xC2B2AE35)
    return jnp.sum(mixed ^ (mixed >> 13), axis=1, dtype=jnp.uint32)


class _Groups(NamedTuple):
    of_word: jax.Array  # [N], the group of each word; groups are numbered by rising length
    word: jax.Array  # [N], by group: the index of one of its words (past the last group: any)
    lengths: jax.Array  # [N], by group: occupied positions (past the last group: C + 1)


def _group(words: jax.Array, lengths: jax.Array) -> _Groups:
    count, width = words.shape
    order = jnp.argsort(_hash(words), stable=True)
    in_order = words[order]
    new = jnp.concatenate([jnp.ones((1,), bool), jnp.any(in_order[1:] != in_order[:-1], axis=1)])
    group = jnp.cumsum(new, dtype=jnp.int32) - 1  # by hash order
    key = jnp.where(new, lengths[order].astype(jnp.int32), width + 1)
    by_length = jnp.argsort(key, stable=True)
    rank_of_group = (
        jnp.zeros((count,), group.dtype)
        .at[group[by_length]]
        .max(jnp.where(key[by_length] <= width, jnp.arange(count, dtype=group.dtype), 0))
    )
    of_word = jnp.zeros((count,), group.dtype).at[order].set(rank_of_group[group], unique_indices=True)
    return _Groups(of_word, order[by_length], key[by_length])


def once_per_distinct(
    convolution: Callable[[jax.Array, int], jax.Array],
    finish: Callable[[jax.Array], jax.Array],
    words: jax.Array,
    lengths: jax.Array,
    shares: tuple[tuple[int, float], ...],
    factors: tuple[float, ...] = (1.0,),
    copies: int = 1,
) -> jax.Array:
    """`finish(convolution(...))` of the distinct rows of `words`, gathered back to every row.

    Args:
      convolution: (words [M, C], occupied) -> [M, F], one call per bucket. Unused rows may hold words that occupy more
        than `occupied` positions; their results are not used.
      finish: [M, F] -> [M, P], one call for all buckets.
      words: int32 [N, C].
      lengths: int32 [N], occupied positions of each word, at most C.
      shares: (occupied, share of N / copies), by rising `occupied`, the last with `occupied` = C.
      factors: multiples of the shares; the smallest tables that hold the batch are used.
      copies: how many times the batch holds the same words (2 for the two directions of a biLM).

    Returns:
      [N, P].
    """
    count, width = words.shape
    words = jnp.asarray(words)  # a tracer cannot index a numpy array
    if count == 0:
        return finish(convolution(words, width))
    groups = _group(words, lengths)
    encode: Callable[[], jax.Array] = jax.checkpoint(lambda: finish(convolution(words, width)))
    for factor in sorted(factors, reverse=True):
        # Rows are rounded up to a multiple of 8, and never more than there are words.
        rows = [min(count, max(8, 8 * ceil(share * factor / copies * count / 8))) for _, share in shares]
        buckets = [_Bucket(occupied, number) for (occupied, _), number in zip(shares, rows, strict=True)]
        fits, by_table = _table(convolution, finish, words, groups, buckets)
        # All but the smallest tables are rematerialised, so that rare branches save only their inputs for the backward
        # pass.
        branch = by_table if factor == min(factors) else jax.checkpoint(by_table)
        encode = partial(lax.cond, fits, branch, encode)
    return encode()


def _table(
    convolution: Callable[[jax.Array, int], jax.Array],
    finish: Callable[[jax.Array], jax.Array],
    words: jax.Array,
    groups: _Groups,
    buckets: list[_Bucket],
) -> tuple[jax.Array, Callable[[], jax.Array]]:
    """Whether the buckets hold every group, and a function that encodes the buckets and gathers all words' vectors."""
    count, width = words.shape
    assigned, starts = jnp.zeros((), jnp.int32), []
    for bucket in buckets:
        starts.append(assigned)
        fitting = jnp.sum(groups.lengths <= bucket.occupied, dtype=jnp.int32)
        assigned = jnp.clip(fitting, assigned, assigned + bucket.rows)
    fits = assigned == jnp.sum(groups.lengths <= width, dtype=jnp.int32)

    def by_table() -> jax.Array:
        features, rows, offset = [], jnp.zeros_like(groups.of_word), 0
        for bucket, start in zip(buckets, starts, strict=True):
            chosen = groups.word[jnp.minimum(start + jnp.arange(bucket.rows, dtype=jnp.int32), count - 1)]
            features.append(convolution(words[chosen], bucket.occupied))
            rows = jnp.where(groups.of_word >= start, groups.of_word - start + offset, rows)
            offset += bucket.rows
        return finish(jnp.concatenate(features))[rows]

    return fits, by_table
