"""What enters the first layer: token, position and segment vectors, summed and normed.

Letters: B rows, T tokens, D width, V vocabulary, P rows of the position table.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ctx_jax.encoders.transformer.config import Transformer
from ctx_jax.encoders.transformer.layers import dropout
from ctx_jax.io.errors import InputError
from ctx_jax.ops.dense import layer_norm
from ctx_jax.ops.lookup import lookup


def default_positions(model: Transformer, token_ids: jax.Array, segments: jax.Array | None = None) -> jax.Array:
    """Position ids of `token_ids` [B, T], int32 [B, T].

    They count from 0 and start again where the segment number changes:

    segments  1 1 1 2 2      positions  0 1 2 0 1

    RoBERTa's count from pad_id + 1 over what is not padding, and pads stand at pad_id (ids, not the mask, decide):

    ids       0 5 6 2 1 1    positions  2 3 4 5 1 1      (pad_id 1)
    """
    real = jnp.ones(token_ids.shape, jnp.int32)
    if model.positions_after_padding and model.pad_id is not None:
        real = jnp.not_equal(token_ids, model.pad_id).astype(jnp.int32)
    count = jnp.cumsum(real, axis=1)
    if segments is not None:
        new = jnp.concatenate([jnp.ones_like(real[:, :1], bool), segments[:, 1:] != segments[:, :-1]], axis=1)
        # The count just before each segment's first token, carried to the segment's end.
        count = count - lax.cummax(jnp.where(new, count - real, 0), axis=1)
    if model.positions_after_padding and model.pad_id is not None:
        return count * real + model.pad_id
    return count - 1


def embed_tokens(
    model: Transformer,
    params: Mapping[str, Any],
    token_ids: jax.Array,
    positions: jax.Array,
    token_types: jax.Array | None,
    seeds: jax.Array | None,
) -> jax.Array:
    """float32 [B, T, D]. An id or a position outside its table, a negative one too, gives NaN."""
    values = lookup(params["tokens"], token_ids)
    if model.token_types:
        types = jnp.zeros_like(token_ids) if token_types is None else token_types
        values = values + lookup(params["types"], types)
    elif token_types is not None:
        raise InputError("this model has no token types (token_types=0): leave token_types out")
    if model.positions == "learned":
        values = values + lookup(params["positions"], positions)
    if model.embedding_norm:
        values = layer_norm(params["norm"], values, model.norm_epsilon)
    return dropout(seeds, 0, model.embedding_dropout, values)
