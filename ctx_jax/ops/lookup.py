"""Rows of a table by their number."""

import jax
import jax.numpy as jnp


def lookup(table: jax.Array, ids: jax.Array) -> jax.Array:
    """The rows [..., D] of `table` [V, D] that `ids` [...] name. An id outside 0..V-1, a negative one too, gives NaN,
    which is loud, and not the row of a neighbour or the last one."""
    return jnp.asarray(table).at[ids].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
