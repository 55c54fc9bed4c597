"""One Transformer for the BERT family, GPT and GPT-2, and modern encoders such as ModernBERT.

Parameters, one layout whatever the flags (kernels [in, out], float32):

  embeddings     tokens [V, D], positions [P, D], types [S, D], norm {scale, bias}
  layer_0 ...    query, key, value, output {kernel, bias}; attention_norm; gate (gated), up, down; feed_forward_norm
  final_norm     pre-norm models
  head           dense {kernel, bias}, norm (transform); decoder {matrix [V, D] unless tied, bias [V]}
  pooler, next_sentence    {kernel, bias}

Letters: L layers, B rows, T tokens, D width, H heads, V vocabulary, P rows of the position table, S token types.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from ctx_jax.encoders.transformer.config import Transformer
from ctx_jax.encoders.transformer.embeddings import default_positions, embed_tokens
from ctx_jax.encoders.transformer.heads import decoder, head_logits, mlm_hidden, next_sentence_logits, pooled
from ctx_jax.encoders.transformer.init import init
from ctx_jax.encoders.transformer.layers import LayerKind, Shared, layer, rotation, row_seeds
from ctx_jax.io.errors import InputError
from ctx_jax.ops.attention import visible
from ctx_jax.ops.dense import layer_norm

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
Wanted = Literal["every", "last", "maps"]
LayerFunction = Callable[..., tuple[jax.Array, jax.Array | None]]  # (values, params, *, kind) -> (values, maps or None)


def hidden_states(
    model: Transformer,
    params: Params,
    token_ids: jax.Array,
    *,
    mask: jax.Array | None = None,
    lengths: jax.Array | None = None,
    token_types: jax.Array | None = None,
    positions: jax.Array | None = None,
    segments: jax.Array | None = None,
    key: jax.Array | None = None,
    rows: jax.Array | None = None,
) -> jax.Array:
    """Every layer of `token_ids` [B, T]: float32 [L + 1, B, T, D], the embedding output first, the last one after the
    final norm (the order of transformers' `hidden_states`).

    mask         bool [B, T], True at real tokens: others get no attention; absent: all are real
    lengths      int [B], real tokens of rows padded at their end: the same as such a mask, and quicker where attention
                 is fused
    token_types  int [B, T], rows of the segment embedding; absent: 0
    positions    int [B, T], rows of the position table; absent: `default_positions`
    segments     int [B, T], numbers of the examples packed in a row: no token attends across them
    key          the step's key turns dropout on; `rows` int [B], the rows' global numbers, seed it (absent: 0..B-1)

    Values at padding are finite and mean nothing. Raises ValueError for a sequence longer than the position table
    and for token types a model does not have. What only the values can tell, an id or a position outside its table
    (below 0 too), gives NaN.
    """
    limits = {"mask": mask, "lengths": lengths, "segments": segments}
    return _run(model, params, token_ids, limits, token_types, positions, key, rows, "every")


def last_hidden(
    model: Transformer,
    params: Params,
    token_ids: jax.Array,
    *,
    mask: jax.Array | None = None,
    lengths: jax.Array | None = None,
    token_types: jax.Array | None = None,
    positions: jax.Array | None = None,
    segments: jax.Array | None = None,
    key: jax.Array | None = None,
    rows: jax.Array | None = None,
) -> jax.Array:
    """The last of `hidden_states`, [B, T, D], without holding the others."""
    limits = {"mask": mask, "lengths": lengths, "segments": segments}
    return _run(model, params, token_ids, limits, token_types, positions, key, rows, "last")


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
    limits = {"mask": mask, "segments": segments}
    return _run(model, params, token_ids, limits, token_types, positions, None, None, "maps")


def _run(
    model: Transformer,
    params: Params,
    token_ids: jax.Array,
    limits: Mapping[str, Any],
    token_types: jax.Array | None,
    positions: jax.Array | None,
    key: jax.Array | None,
    rows: jax.Array | None,
    wanted: Wanted,
) -> jax.Array:
    batch, length = token_ids.shape
    segments = limits["segments"]
    if model.positions == "learned" and positions is None and segments is None and length > model.longest:
        raise InputError(
            f"the position table holds sequences of at most {model.longest} tokens, these have {length}: "
            "shorten them, or set max_positions"
        )
    seeds = None if key is None else row_seeds(key, jnp.arange(batch) if rows is None else rows)
    if positions is None:
        positions = default_positions(model, token_ids, segments)
    values = embed_tokens(model, params["embeddings"], token_ids, positions, token_types, seeds)
    shared = _shared(model, length, limits, positions)

    def step(values: jax.Array, params: Params, kind: LayerKind) -> tuple[jax.Array, jax.Array | None]:
        return layer(model, params, values, shared, kind, seeds, wanted == "maps")

    outputs, maps = _stack(model, params, values, step, wanted)
    if wanted == "maps":
        assert maps is not None
        return maps
    if model.norm == "pre":
        last = layer_norm(params["final_norm"], outputs[-1], model.norm_epsilon)
        outputs = outputs.at[-1].set(last) if isinstance(outputs, jax.Array) else [*outputs[:-1], last]
    if wanted == "last":
        return outputs[-1]
    return outputs if isinstance(outputs, jax.Array) else jnp.stack(outputs)


def _shared(model: Transformer, length: int, limits: Mapping[str, Any], positions: jax.Array) -> Shared:
    see = partial(visible, length, **limits, causal=model.causal)
    everything = local = see()
    if model.local_layers:
        local = see(window=model.window)
        if model.scan:  # which picks one of two arrays
            everything = everything.dense(length)
    if model.positions == "learned":
        return Shared(everything, local, None, None)
    width = model.dim // model.heads
    return Shared(
        everything,
        local,
        rotation(positions, width, model.rotary_theta),
        rotation(positions, width, model.local_rotary_theta),
    )


def _stack(
    model: Transformer, params: Params, values: jax.Array, step: LayerFunction, wanted: Wanted
) -> tuple[jax.Array | list[jax.Array], jax.Array | None]:
    """The layers in turn: ([embedding output, layer 1, ..., layer L] or their end, attention maps or None)."""
    kinds = [
        LayerKind(index + 1, index in model.local_layers, index > 0 or model.first_attention_norm)
        for index in range(model.layers)
    ]
    if model.scan and model.layers:
        return _scan(model, [params[f"layer_{index}"] for index in range(model.layers)], kinds, values, step, wanted)
    outputs, maps = [values], list[jax.Array]()
    for index, kind in enumerate(kinds):
        # The kind is bound, not passed: a checkpointed function would turn its Python bools into arrays.
        one = partial(step, kind=kind)
        values, probabilities = (jax.checkpoint(one) if model.remat else one)(values, params[f"layer_{index}"])
        outputs.append(values)
        if probabilities is not None:
            maps.append(probabilities)
    return outputs, jnp.stack(maps) if wanted == "maps" else None


def _scan(
    model: Transformer,
    layers: list[Params],
    kinds: list[LayerKind],
    values: jax.Array,
    step: LayerFunction,
    wanted: Wanted,
) -> tuple[jax.Array | list[jax.Array], jax.Array | None]:
    """`_stack` as one compiled layer over stacked parameters. Layers that differ do so by an array of flags; where
    none differs the flag stays a Python bool and costs nothing."""
    if not model.first_attention_norm and len(layers) > 1:
        layers = [_with_norm_of(layers[1], layers[0]), *layers[1:]]
    flags: dict[str, Any] = {"index": jnp.array([kind.index for kind in kinds], jnp.int32)}
    same: dict[str, bool] = {}
    for name in ("local", "normed"):
        column = [getattr(kind, name) for kind in kinds]
        if len(set(column)) == 1:
            same[name] = column[0]
        else:
            flags[name] = jnp.array(column)

    def body(values: jax.Array, given: tuple[Params, dict[str, Any]]) -> tuple[jax.Array, jax.Array | None]:
        params, varying = given
        values, probabilities = step(values, params, kind=LayerKind(**varying, **same))
        return values, {"every": values, "last": None, "maps": probabilities}[wanted]

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
    last, kept = jax.lax.scan(jax.checkpoint(body) if model.remat else body, values, (stacked, flags))
    if wanted == "every":
        return jnp.concatenate([values[None], kept]), None
    return [last], kept


def _with_norm_of(like: Params, first: Params) -> Params:
    """The first layer with a norm of zeros, which its flag passes by: a stack needs every name in every layer."""
    own = dict(jax.tree_util.tree_leaves_with_path(first))

    def leaf(path: tuple[Any, ...], value: jax.Array) -> jax.Array:
        return jnp.zeros_like(value) if path[0].key == "attention_norm" else own[path]

    filled: Params = jax.tree_util.tree_map_with_path(leaf, like)
    return filled
