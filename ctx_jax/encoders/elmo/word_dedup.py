"""Work done once per distinct word, inside the compiled program and with shapes fixed by the configuration.

A batch of N words holds about half as many distinct ones, most of them short. The words are sorted by a hash, equal
neighbours are grouped (compared whole, so that a clash of hashes costs a row and never a wrong vector), the groups are
sorted by length and laid into tiers: a tier of (occupied, share) has `share` x N rows for words that occupy at most
`occupied` of the C positions. A tier that is full spills into the next. A batch that does not fit takes tables that are
larger by a factor, and one that does not fit those, of N new long words say, every word for itself; each device shard
decides for itself.
"""

from collections.abc import Callable
from functools import partial
from math import ceil
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Tier(NamedTuple):
    """Rows for words that occupy at most `occupied` positions."""

    occupied: int
    rows: int


def tiers(shares: tuple[tuple[int, float], ...], count: int) -> tuple[Tier, ...]:
    """Rows for `count` words, in whole eights; never more rows than words."""
    return tuple(Tier(occupied, min(count, max(8, 8 * ceil(share * count / 8)))) for occupied, share in shares)


def _hash(words: jax.Array) -> jax.Array:
    """uint32 [N] of int32 [N, C]; equal rows hash equal.

    A sum over positions, so that it runs in parallel; each term is mixed first. The multipliers are those of
    MurmurHash3's finalizer (Appleby, fmix32), the addend 2**32 over the golden ratio, which keeps id 0 from being lost.
    """
    positions = jnp.arange(1, words.shape[1] + 1, dtype=jnp.uint32)
    mixed = (words.astype(jnp.uint32) + jnp.uint32(0x9E3779B9)) * (positions * jnp.uint32(0x85EBCA6B))[None, :]
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(0xC2B2AE35)
    return jnp.sum(mixed ^ (mixed >> 13), axis=1, dtype=jnp.uint32)


class _Groups(NamedTuple):
    of_word: jax.Array  # [N] the group's rank, shortest words first
    word: jax.Array  # [N] by rank: a word of the group (past the last group: any)
    lengths: jax.Array  # [N] by rank: occupied positions (past the last group: C + 1)


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
    read: Callable[[jax.Array, int], jax.Array],
    finish: Callable[[jax.Array], jax.Array],
    words: jax.Array,
    lengths: jax.Array,
    shares: tuple[tuple[int, float], ...],
    factors: tuple[float, ...] = (1.0,),
    copies: int = 1,
) -> jax.Array:
    """`finish(read(...))` of the distinct rows of `words`, laid back to every row.

    Args:
      read: (words [M, C], occupied) -> [M, F], tier by tier; no word given that is used occupies more positions.
      finish: [M, F] -> [M, P], all tiers in one call.
      words: int32 [N, C].
      lengths: int32 [N], occupied positions of each, at most C.
      shares: (occupied, share of N), by rising `occupied`, the last with `occupied` = C.
      factors: by which the shares are multiplied, rising; the first tables that hold the batch are used.
      copies: how many times the batch holds the same words, as the two directions of a window do; the shares are of
        N / copies.

    Returns:
      [N, P].
    """
    count, width = words.shape  # a numpy array has a shape too, but no tracer may index it
    words = jnp.asarray(words)
    if count == 0:
        return finish(read(words, width))
    groups = _group(words, lengths)
    choice: Callable[[], jax.Array] = jax.checkpoint(lambda: finish(read(words, width)))
    for factor in sorted(factors, reverse=True):
        plan = tiers(tuple((occupied, share * factor / copies) for occupied, share in shares), count)
        fits, table = _lay(read, finish, words, groups, plan)
        # Rematerialised but for the first, so that the rarer ways keep nothing but their inputs for the backward pass.
        way = table if factor == min(factors) else jax.checkpoint(table)
        choice = partial(lax.cond, fits, way, choice)
    return choice()


def _lay(
    read: Callable[[jax.Array, int], jax.Array],
    finish: Callable[[jax.Array], jax.Array],
    words: jax.Array,
    groups: _Groups,
    plan: tuple[Tier, ...],
) -> tuple[jax.Array, Callable[[], jax.Array]]:
    """Whether the plan's tiers hold every group, and the vectors of all words by way of them."""
    count, width = words.shape
    laid, starts = jnp.zeros((), jnp.int32), []
    for tier in plan:
        starts.append(laid)
        fitting = jnp.sum(groups.lengths <= tier.occupied, dtype=jnp.int32)
        laid = jnp.clip(fitting, laid, laid + tier.rows)
    fits = laid == jnp.sum(groups.lengths <= width, dtype=jnp.int32)

    def table() -> jax.Array:
        features, rows, offset = [], jnp.zeros_like(groups.of_word), 0
        for tier, start in zip(plan, starts, strict=True):
            chosen = groups.word[jnp.minimum(start + jnp.arange(tier.rows, dtype=jnp.int32), count - 1)]
            features.append(read(words[chosen], tier.occupied))
            rows = jnp.where(groups.of_word >= start, groups.of_word - start + offset, rows)
            offset += tier.rows
        return finish(jnp.concatenate(features))[rows]

    return fits, table
