"""The network of every Transformer here: the BERT family, GPT and GPT-2, and modern encoders such as ModernBERT.

Parameters, one layout whatever the settings (kernels [in, out], float32):

  embeddings     tokens [V, D], positions [P, D], types [S, D], norm {scale, bias}
  layer_0 ...    query, key, value, output {kernel, bias}; attention_norm; gate (gated), up, down; feed_forward_norm
  final_norm     {scale, bias}, of pre-norm models

Letters: L layers, B rows, T tokens, D width, H heads, V vocabulary, P rows of the position table, S token types.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from ctx_jax.data.batch import TokenRows
from ctx_jax.encoders.transformer.layers import LayerContext, LayerKind, dropout, layer, rotation, row_seeds
from ctx_jax.io.errors import InputError
from ctx_jax.ops.attention import attention_mask
from ctx_jax.ops.dense import layer_norm
from ctx_jax.ops.linear import lookup
from ctx_jax.typing import Mask, Params

if TYPE_CHECKING:
    from ctx_jax.encoders.transformer.model import Transformer

Output = Literal["all", "last", "maps"]
LayerFunction = Callable[..., tuple[jax.Array, jax.Array | None]]  # (values, params, *, kind) -> (values, maps or None)


def hidden_states(
    model: Transformer,
    params: Params,
    token_ids: jax.Array,
    *,
    mask: Mask | None = None,
    lengths: jax.Array | None = None,
    token_types: jax.Array | None = None,
    positions: jax.Array | None = None,
    segments: jax.Array | None = None,
    rows: jax.Array | None = None,
    key: jax.Array | None = None,
) -> jax.Array:
    """Every layer of `token_ids` [B, T]: float32 [L, B, T, D], the embedding output first, the last one after the final
    norm (the order of transformers' `hidden_states`).

    mask         bool [B, T], True at real tokens; the others get no attention; None: all are real
    lengths      int [B], the number of real tokens of rows padded at their end: the same as such a mask, and faster
                 where attention is fused
    token_types  int [B, T], rows of the segment embedding; None: 0
    positions    int [B, T], rows of the position table; None: `default_positions`
    segments     int [B, T], the number of the packed example: no token attends across examples
    key          the step's key turns dropout on; `rows` int [B], the rows' global numbers, seed it (None: 0..B-1)

    Values at padding are finite and meaningless. Raises InputError for a sequence longer than the position table and
    for token types that the model does not have. An id or a position outside its table, negative ones included, cannot
    be checked while tracing and gives NaN.
    """
    inputs = TokenRows(token_ids, mask, lengths, positions, segments, token_types, rows)
    return _run(model, params, inputs, key, "all")


def last_hidden(
    model: Transformer,
    params: Params,
    token_ids: jax.Array,
    *,
    mask: Mask | None = None,
    lengths: jax.Array | None = None,
    token_types: jax.Array | None = None,
    positions: jax.Array | None = None,
    segments: jax.Array | None = None,
    rows: jax.Array | None = None,
    key: jax.Array | None = None,
) -> jax.Array:
    """The last of `hidden_states`, [B, T, D], without holding the others."""
    inputs = TokenRows(token_ids, mask, lengths, positions, segments, token_types, rows)
    return _run(model, params, inputs, key, "last")


def attention_maps(
    model: Transformer,
    params: Params,
    token_ids: jax.Array,
    *,
    mask: Mask | None = None,
    token_types: jax.Array | None = None,
    positions: jax.Array | None = None,
    segments: jax.Array | None = None,
) -> jax.Array:
    """Attention probabilities of every layer, float32 [depth, B, H, T, T]: the row of a query sums to 1, or to 0 where
    it has no key."""
    inputs = TokenRows(token_ids, mask=mask, positions=positions, segments=segments, token_types=token_types)
    return _run(model, params, inputs, None, "maps")


def default_positions(model: Transformer, token_ids: jax.Array, segments: jax.Array | None = None) -> jax.Array:
    """Position ids of `token_ids` [B, T], int32 [B, T].

    They count from 0, and again from 0 where the segment number changes:

    segments  1 1 1 2 2      positions  0 1 2 0 1

    RoBERTa's count from pad_id + 1 over what is not padding, and padding has pad_id (ids, not the mask, decide):

    ids       0 5 6 2 1 1    positions  2 3 4 5 1 1      (pad_id 1)
    """
    pad_id = model.pad_id if model.positions_after_padding else None
    real = jnp.ones(token_ids.shape, jnp.int32)
    if pad_id is not None:
        real = jnp.not_equal(token_ids, pad_id).astype(jnp.int32)
    count = jnp.cumsum(real, axis=1)
    if segments is not None:
        new = jnp.concatenate([jnp.ones_like(real[:, :1], bool), segments[:, 1:] != segments[:, :-1]], axis=1)
        # The count just before each segment's first token, carried to the segment's end.
        count = count - lax.cummax(jnp.where(new, count - real, 0), axis=1)
    return count - 1 if pad_id is None else count * real + pad_id


def embed_tokens(
    model: Transformer,
    params: Params,
    token_ids: jax.Array,
    positions: jax.Array,
    token_types: jax.Array | None,
    seeds: jax.Array | None,
) -> jax.Array:
    """Token, position and segment vectors, summed and normed: float32 [B, T, D]. `params`: the tree "embeddings"."""
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


def _run(model: Transformer, params: Params, inputs: TokenRows, key: jax.Array | None, output: Output) -> jax.Array:
    (batch, length), segments, positions = inputs.token_ids.shape, inputs.segments, inputs.positions
    if model.positions == "learned" and positions is None and segments is None and length > model.longest:
        raise InputError(
            f"the position table holds sequences of at most {model.longest} tokens, these have {length}: "
            "shorten them, or set max_positions"
        )
    rows = jnp.arange(batch) if inputs.rows is None else inputs.rows
    seeds = None if key is None else row_seeds(key, rows)
    if positions is None:
        positions = default_positions(model, inputs.token_ids, segments)
    values = embed_tokens(model, params["embeddings"], inputs.token_ids, positions, inputs.token_types, seeds)
    context = _context(model, inputs, positions, seeds, output == "maps")

    def step(values: jax.Array, params: Params, kind: LayerKind) -> tuple[jax.Array, jax.Array | None]:
        return layer(model, params, values, context, kind)

    outputs, maps = _stack(model, params, values, step, output)
    if output == "maps":
        assert maps is not None
        return maps
    if model.norm == "pre":
        last = layer_norm(params["final_norm"], outputs[-1], model.norm_epsilon)
        outputs = outputs.at[-1].set(last) if isinstance(outputs, jax.Array) else [*outputs[:-1], last]
    if output == "last":
        return outputs[-1]
    return outputs if isinstance(outputs, jax.Array) else jnp.stack(outputs)


def _context(
    model: Transformer, inputs: TokenRows, positions: jax.Array, seeds: jax.Array | None, maps: bool
) -> LayerContext:
    length = inputs.token_ids.shape[1]
    limits = {"mask": inputs.mask, "lengths": inputs.lengths, "segments": inputs.segments}
    masks = partial(attention_mask, length, **limits, causal=model.causal)
    everywhere = local = masks()
    if model.local_layers:
        local = masks(window=model.window)
        if model.scan:  # a scanned layer selects one of two arrays
            everywhere = everywhere.dense(length)
    if model.positions == "learned":
        return LayerContext(everywhere, local, None, None, seeds, maps)
    width = model.dim // model.heads
    turns = rotation(positions, width, model.rotary_theta)
    local_turns = rotation(positions, width, model.local_rotary_theta)
    return LayerContext(everywhere, local, turns, local_turns, seeds, maps)


def _stack(
    model: Transformer, params: Params, values: jax.Array, step: LayerFunction, output: Output
) -> tuple[jax.Array | list[jax.Array], jax.Array | None]:
    """All layers in turn: ([embedding output, layer 1, ..., layer depth] or their end, attention maps or None)."""
    kinds = [
        LayerKind(index + 1, index in model.local_layers, index > 0 or model.first_attention_norm)
        for index in range(model.depth)
    ]
    if model.scan and model.depth:
        return _scan(model, [params[f"layer_{index}"] for index in range(model.depth)], kinds, values, step, output)
    outputs, maps = [values], list[jax.Array]()
    for index, kind in enumerate(kinds):
        # The kind is bound, not passed: a checkpointed function would turn its Python bools into arrays.
        one_layer = partial(step, kind=kind)
        apply = jax.checkpoint(one_layer) if model.remat else one_layer
        values, probabilities = apply(values, params[f"layer_{index}"])
        outputs.append(values)
        if probabilities is not None:
            maps.append(probabilities)
    return outputs, jnp.stack(maps) if output == "maps" else None


def _scan(
    model: Transformer,
    layers: list[Params],
    kinds: list[LayerKind],
    values: jax.Array,
    step: LayerFunction,
    output: Output,
) -> tuple[jax.Array | list[jax.Array], jax.Array | None]:
    """`_stack` as one compiled layer over stacked parameters. Layers that differ do so by an array of flags; a flag
    that is the same in all layers stays a Python bool and costs nothing."""
    if not model.first_attention_norm and len(layers) > 1:
        layers = [_with_attention_norm(layers[0], layers[1]), *layers[1:]]
    flags: dict[str, Any] = {"index": jnp.array([kind.index for kind in kinds], jnp.int32)}
    same: dict[str, bool] = {}
    for name in ("local", "normed"):
        column = [getattr(kind, name) for kind in kinds]
        if len(set(column)) == 1:
            same[name] = column[0]
        else:
            flags[name] = jnp.array(column)

    def body(values: jax.Array, xs: tuple[Params, dict[str, Any]]) -> tuple[jax.Array, jax.Array | None]:
        params, varying = xs
        values, probabilities = step(values, params, kind=LayerKind(**varying, **same))
        return values, {"all": values, "last": None, "maps": probabilities}[output]

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
    last, collected = jax.lax.scan(jax.checkpoint(body) if model.remat else body, values, (stacked, flags))
    if output == "all":
        return jnp.concatenate([values[None], collected]), None
    return [last], collected


def _with_attention_norm(first: Params, like: Params) -> Params:
    """The first layer with an attention norm of zeros, which its flag skips: a stack needs every name in every
    layer."""
    own = dict(jax.tree_util.tree_leaves_with_path(first))

    def leaf(path: tuple[Any, ...], value: jax.Array) -> jax.Array:
        return jnp.zeros_like(value) if path[0].key == "attention_norm" else own[path]

    filled: Params = jax.tree_util.tree_map_with_path(leaf, like)
    return filled
