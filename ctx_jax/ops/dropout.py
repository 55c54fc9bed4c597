"""Dropout whose masks depend on the step's key and the rows' global numbers alone, so that eight devices equal one.

Letters: B rows.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Dropout(NamedTuple):
    """What decides a step's dropout."""

    key: jax.Array
    """The step's key, the same on every device."""
    rows: jax.Array | None = None
    """int32 [B], the rows' numbers among those of all devices; None: 0..B-1."""


def row_seeds(key: jax.Array, rows: jax.Array) -> jax.Array:
    """The seed of each row, two random words, uint32 [B, 2], by threefry from the step's key and the row's global
    number."""
    return jax.vmap(lambda row: jax.random.bits(jax.random.fold_in(key, row), (2,), jnp.uint32))(rows)


def fold_seeds(seeds: jax.Array, number: int | jax.Array) -> jax.Array:
    """New seeds [B, 2] from seeds and the number of a layer, or of a dropout in it, like `jax.random.fold_in`."""
    return _hash(seeds ^ _hash(jnp.asarray(number, jnp.uint32) + jnp.uint32(0x9E3779B9)))


def dropout_mask(seeds: jax.Array, number: int, rate: float, shape: tuple[int, ...]) -> jax.Array:
    """True at the values that dropout keeps, bool [B, *shape], a share 1 - rate of them.

    A row's mask depends on its seed alone, not on its index in the batch or on the device. An integer hash of the seed
    and of each value's index is used, since threefry for every value is several times slower and, unrolled over the
    layers, takes minutes to compile.
    """
    words = fold_seeds(seeds, number)
    first, second = (words[:, column].reshape((-1,) + (1,) * len(shape)) for column in range(2))
    counter = jnp.arange(math.prod(shape), dtype=jnp.uint32).reshape(1, *shape)
    return _hash(_hash(counter + first) ^ second) >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))


def _hash(word: jax.Array) -> jax.Array:
    """C. Wellons' lowbias32: a bijection of uint32 in which every input bit flips every output bit half of the time."""
    word = (word ^ (word >> jnp.uint32(16))) * jnp.uint32(0x7FEB352D)
    word = (word ^ (word >> jnp.uint32(15))) * jnp.uint32(0x846CA68B)
    return word ^ (word >> jnp.uint32(16))


def dropout(seeds: jax.Array | None, number: int, rate: float, values: jax.Array) -> jax.Array:
    """`values` [B, ...] with a share `rate` set to 0 and the rest divided by 1 - rate; unchanged without `seeds`."""
    if seeds is None or rate == 0.0:
        return values
    return jnp.where(dropout_mask(seeds, number, rate, values.shape[1:]), values / (1.0 - rate), 0.0)
