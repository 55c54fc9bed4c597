"""The network of every Transformer here: the BERT family, GPT and GPT-2, and modern encoders such as ModernBERT.

Parameters, one layout whatever the settings (kernels [in, out], float32):

  embeddings     tokens [V, D], positions [P, D], types [S, D], norm {scale, bias}; projection, of narrower tables
  relative       embedding [R, H] or, disentangled, [2 R, D], and norm
  layer_0 ...    query, key, value, output {kernel, bias}; attention_norm; gate (gated), up, down; feed_forward_norm;
                 query_norm, key_norm (head_norms); attention_output_norm, feed_forward_output_norm (norm="both")
  final_norm     {scale, bias}, of pre-norm models

Letters: L layers, B rows, T tokens, D width, H heads, V vocabulary, P rows of the position table, S token types, R
buckets of distances.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from ctx_jax.data.batch import TokenRows
from ctx_jax.encoders.transformer.layers import LayerContext, LayerKind, layer, rotation
from ctx_jax.io.errors import InputError
from ctx_jax.ops.attention import attention_mask
from ctx_jax.ops.dense import dense, layer_norm, norm
from ctx_jax.ops.dropout import dropout, row_seeds
from ctx_jax.ops.linear import lookup
from ctx_jax.ops.relative import bucketed_bias
from ctx_jax.typing import Mask, Params

if TYPE_CHECKING:
    from ctx_jax.encoders.transformer.model import Transformer

Output = Literal["all", "last", "maps"]
LayerFunction = Callable[..., tuple[jax.Array, jax.Array | None]]  # (params, values, *, kind) -> (values, maps or None)


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

    mask         bool [B, T], True at real tokens; no token attends to the others; None: all are real
    lengths      int [B], the number of real tokens, for rows padded at their end: equivalent to a mask, and faster
                 where attention is fused
    token_types  int [B, T], rows of the segment embedding; None: 0
    positions    int [B, T], rows of the position table; None: `default_positions`
    segments     int [B, T], the number of the packed example: no token attends across examples
    key          the step's key; dropout is applied if it is given
    rows         int [B], the rows' global numbers, which seed dropout together with the key; None: 0..B-1

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
    key: jax.Array | None = None,
    **arrays: jax.Array | None,
) -> jax.Array:
    """The last of `hidden_states`, [B, T, D], without holding the others; it takes the same arguments."""
    return _run(model, params, TokenRows(token_ids, **arrays), key, "last")


def attention_maps(model: Transformer, params: Params, token_ids: jax.Array, **arrays: jax.Array | None) -> jax.Array:
    """Attention probabilities of every layer, float32 [depth, B, H, T, T]: the row of a query sums to 1, or to 0 where
    it has no key. `arrays` as in `hidden_states`."""
    return _run(model, params, TokenRows(token_ids, **arrays), None, "maps")


def default_positions(model: Transformer, token_ids: jax.Array, segments: jax.Array | None = None) -> jax.Array:
    """Position ids of `token_ids` [B, T], int32 [B, T].

    Positions count from 0, and start at 0 again where the segment number changes:

    segments  1 1 1 2 2      positions  0 1 2 0 1

    RoBERTa's positions count real tokens from pad_id + 1, and padding has position pad_id. Padding is recognised by
    its id, not by the mask:

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
    """Norm of the sum of token, position and segment vectors, [B, T, D]; `params` is the tree "embeddings"."""
    values = lookup(params["tokens"], token_ids)
    if model.scaled_embeddings:
        values = values * model.dim**0.5
    if model.token_types:
        types = jnp.zeros_like(token_ids) if token_types is None else token_types
        values = values + lookup(params["types"], types)
    elif token_types is not None:
        raise InputError("this model has no token types (token_types=0): leave token_types out")
    if model.positions == "learned":
        values = values + lookup(params["positions"], positions)
    if model.embedding_norm:
        values = norm(model.norm_kind, params["norm"], values, model.norm_epsilon)
    values = dropout(seeds, 0, model.embedding_dropout, values)
    return values if model.embedding_dim is None else dense(params["projection"], values, model.compute)


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
    step = partial(layer, model, context=_context(model, params, inputs, positions, seeds, output == "maps"))
    layers = [params[f"layer_{0 if model.shared_layers else index}"] for index in range(model.depth)]
    kinds = [
        LayerKind(index + 1, index in model.local_layers, index > 0 or model.first_attention_norm)
        for index in range(model.depth)
    ]
    collected: Any = []  # each layer's input or attention maps
    if model.scan and layers:
        values, collected = _scan(model, layers, kinds, values, step, output)
    else:
        for layer_params, kind in zip(layers, kinds, strict=True):
            # `kind` is bound by `partial`: as an argument, `jax.checkpoint` would turn its Python bools into arrays.
            apply = partial(step, kind=kind)
            outputs, maps = (jax.checkpoint(apply) if model.remat else apply)(layer_params, values)
            collected.append(maps if output == "maps" else values)
            values = outputs
    if output == "maps":
        return jnp.stack([*collected])
    if model.norm != "post":
        values = norm(model.norm_kind, params["final_norm"], values, model.norm_epsilon)
    if output == "last":
        return values
    return jnp.stack([*collected, values])


def _context(
    model: Transformer,
    params: Params,
    inputs: TokenRows,
    positions: jax.Array,
    seeds: jax.Array | None,
    maps: bool,
) -> LayerContext:
    length = inputs.token_ids.shape[1]
    limits = {"mask": inputs.mask, "lengths": inputs.lengths, "segments": inputs.segments}
    masks = partial(attention_mask, length, **limits, causal=model.causal)
    everywhere = local = masks()
    if model.local_layers:
        local = masks(window=model.window)
        if model.scan:  # a scanned layer selects between the two masks, which needs them as arrays
            everywhere = everywhere.dense(length)
    context = LayerContext(everywhere, local, None, None, seeds, maps)
    if model.positions == "rotary":
        of = partial(rotation, positions, model.head_width, factor=model.rotary_factor)
        context = context._replace(global_rotation=of(model.rotary_theta), local_rotation=of(model.local_rotary_theta))
    if model.relative == "bias":
        return context._replace(bias=bucketed_bias(params["relative"]["embedding"], length, model.relative_distance))
    if model.relative == "disentangled":
        relative = layer_norm(params["relative"]["norm"], params["relative"]["embedding"], model.norm_epsilon)
        return context._replace(relative=relative)
    return context


def _scan(
    model: Transformer,
    layers: list[Params],
    kinds: list[LayerKind],
    values: jax.Array,
    step: LayerFunction,
    output: Output,
) -> tuple[jax.Array, Any]:
    """Run all layers by a `lax.scan` of one compiled layer over stacked parameters: the last layer's output and,
    stacked, each layer's input ("all") or attention maps ("maps").

    Flags in which the layers differ become arrays; a flag that is equal in all layers stays a Python bool, at no cost.
    """
    if not model.first_attention_norm and len(layers) > 1:
        # Stacked layers need the same names: layer 0 gets a norm of zeros, which the flag `normed` skips.
        own = dict(jax.tree_util.tree_leaves_with_path(layers[0]))

        def filled(path: tuple[Any, ...], like: jax.Array) -> jax.Array:
            return own[path] if path in own else jnp.zeros_like(like)

        layers = [jax.tree_util.tree_map_with_path(filled, layers[1]), *layers[1:]]
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
        outputs, maps = step(params, values, kind=LayerKind(**varying, **same))
        return outputs, {"all": values, "last": None, "maps": maps}[output]

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
    return lax.scan(jax.checkpoint(body) if model.remat else body, values, (stacked, flags))
