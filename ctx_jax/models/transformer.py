"""One Transformer for the BERT family, GPT and GPT-2, and modern encoders such as ModernBERT.

Parameters, one layout whatever the flags (kernels [in, out], float32):

  embeddings     tokens [V, D], positions [P, D], types [S, D], norm {scale, bias}
  layer_0 ...    query, key, value, output {kernel, bias}; attention_norm; gate (gated), up, down; feed_forward_norm
  final_norm     pre-norm models
  head           dense {kernel, bias}, norm (transform); decoder {matrix [V, D] unless tied, bias [V]}
  pooler, next_sentence    {kernel, bias}

Letters: L layers, B rows, T tokens, D width, H heads, V vocabulary, P rows of the position table, S token types.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from ctx_jax.models.attention import visible
from ctx_jax.models.transformer_config import Transformer
from ctx_jax.models.transformer_embeddings import default_positions, embed_tokens
from ctx_jax.models.transformer_heads import decoder, head_logits, mlm_hidden, next_sentence_logits, pooled
from ctx_jax.models.transformer_init import init
from ctx_jax.models.transformer_layers import Kind, Surroundings, layer, normalize, rotation

__all__ = [
    "Transformer",
    "attention_maps",
    "decoder",
    "default_positions",
    "head_logits",
    "hidden_states",
    "init",
    "last_hidden",
    "mlm_hidden",
    "next_sentence_logits",
    "pooled",
]

Params = Mapping[str, Any]


def hidden_states(
    model: Transformer,
    params: Params,
    token_ids: jax.Array,
    *,
    mask: jax.Array | None = None,
    token_types: jax.Array | None = None,
    positions: jax.Array | None = None,
    segments: jax.Array | None = None,
    key: jax.Array | None = None,
    rows: jax.Array | None = None,
) -> jax.Array:
    """Every layer of `token_ids` [B, T]: float32 [L + 1, B, T, D], the embedding output first, the last one after the
    final norm (the order of transformers' `hidden_states`).

    mask         bool [B, T], True at real tokens: others get no attention; absent: all are real
    token_types  int [B, T], rows of the segment embedding; absent: 0
    positions    int [B, T], rows of the position table; absent: `default_positions`
    segments     int [B, T], numbers of the examples packed in a row: no token attends across them
    key          the step's key turns dropout on; `rows` int [B], the rows' global numbers, seed it (absent: 0..B-1)

    Values at padding are finite and mean nothing. Raises ValueError for a sequence longer than the position table
    and for token types a model does not have. With `segments` or `positions` only the values can tell: a position
    outside the table gives NaN.
    """
    return _run(model, params, token_ids, mask, token_types, positions, segments, key, rows, "every")


def last_hidden(
    model: Transformer,
    params: Params,
    token_ids: jax.Array,
    *,
    mask: jax.Array | None = None,
    token_types: jax.Array | None = None,
    positions: jax.Array | None = None,
    segments: jax.Array | None = None,
    key: jax.Array | None = None,
    rows: jax.Array | None = None,
) -> jax.Array:
    """The last of `hidden_states`, [B, T, D], without holding the others."""
    return _run(model, params, token_ids, mask, token_types, positions, segments, key, rows, "last")


def attention_maps(
    model: Transformer,
    params: Params,
    token_ids: jax.Array,
    *,
    mask: jax.Array | None = None,
    token_types: jax.Array | None = None,
    positions: jax.Array | None = None,
    segments: jax.Array | None = None,
) -> jax.Array:
    """Who attends to whom: float32 [L, B, H, T, T], each row of queries summing to 1, or to 0 where it sees nothing."""
    return _run(model, params, token_ids, mask, token_types, positions, segments, None, None, "maps")


def _run(
    model: Transformer,
    params: Params,
    token_ids: jax.Array,
    mask: jax.Array | None,
    token_types: jax.Array | None,
    positions: jax.Array | None,
    segments: jax.Array | None,
    key: jax.Array | None,
    rows: jax.Array | None,
    wanted: str,
) -> jax.Array:
    batch, length = token_ids.shape
    if model.positions == "learned" and positions is None and segments is None and length > model.longest:
        raise ValueError(
            f"the position table holds sequences of at most {model.longest} tokens, these have {length}: "
            "shorten them, or set max_positions"
        )
    keys = None
    if key is not None:
        rows = jnp.arange(batch) if rows is None else rows
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
    if positions is None:
        positions = default_positions(model, token_ids, segments)
    values = embed_tokens(model, params["embeddings"], token_ids, positions, token_types, keys)
    around = _surroundings(model, length, mask, segments, positions)

    def step(values: jax.Array, params: Params, kind: Kind) -> tuple[jax.Array, jax.Array | None]:
        return layer(model, params, values, around, kind, keys, wanted == "maps")

    outputs, maps = _stack(model, params, values, jax.checkpoint(step) if model.remat else step, wanted)
    if wanted == "maps":
        assert maps is not None
        return maps
    if model.norm == "pre":
        last = normalize(params["final_norm"], outputs[-1], model.norm_epsilon)
        outputs = outputs.at[-1].set(last) if isinstance(outputs, jax.Array) else [*outputs[:-1], last]
    if wanted == "last":
        return outputs[-1]
    return outputs if isinstance(outputs, jax.Array) else jnp.stack(outputs)


def _surroundings(
    model: Transformer, length: int, mask: jax.Array | None, segments: jax.Array | None, positions: jax.Array
) -> Surroundings:
    see = partial(visible, length, mask=mask, segments=segments, causal=model.causal)
    everything = see()
    if not model.local_layers:
        local = everything
    else:
        local = see(window=model.window)
        assert local.allowed is not None
        if everything.allowed is None:
            everything = everything._replace(allowed=jnp.ones((1, 1, length, length), bool))
    if model.positions == "learned":
        return Surroundings(everything, local, None, None)
    width = model.dim // model.heads
    return Surroundings(
        everything,
        local,
        rotation(positions, width, model.rotary_theta),
        rotation(positions, width, model.local_rotary_theta),
    )
