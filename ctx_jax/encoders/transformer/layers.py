"""A Transformer layer as plain functions over a nested mapping of float32 arrays.

Letters: B rows, T tokens, D width, H heads, G heads of keys and values, E width of a head.

post-norm   x = norm(x + attention(x));        x = norm(x + feed_forward(x))
pre-norm    x = x + attention(norm(x));        x = x + feed_forward(norm(x))
both        x = x + norm(attention(norm(x)));  x = x + norm(feed_forward(norm(x)))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from ctx_jax.ops.attention import AttentionMask, attend, score_precision
from ctx_jax.ops.dense import activate, dense, norm
from ctx_jax.ops.dropout import dropout, dropout_mask, fold_seeds
from ctx_jax.ops.relative import disentangled_bias
from ctx_jax.typing import Params

if TYPE_CHECKING:
    from ctx_jax.encoders.transformer.model import Transformer

Choice = TypeVar("Choice")
Rotation = tuple[jax.Array, jax.Array]  # cosine, sine [B or 1, T, 1, E]


class LayerKind(NamedTuple):
    """The settings in which layers differ: Python values in an unrolled stack, arrays in a scanned one."""

    index: Any  # int or int32 []; seeds the layer's dropout
    local: Any  # bool or bool []: attends to a window only
    normed: Any  # bool or bool []: a norm precedes the attention (pre-norm layers)


class LayerContext(NamedTuple):
    """What all layers of a call share."""

    global_mask: AttentionMask
    local_mask: AttentionMask
    global_rotation: Rotation | None
    local_rotation: Rotation | None
    seeds: jax.Array | None  # uint32 [B, 2], the dropout seed of each row; None: no dropout
    maps: bool  # whether to return the attention maps
    bias: jax.Array | None = None  # [1, H, T, T], added to the scores of every layer
    relative: jax.Array | None = None  # [R, D], vectors of distances, of disentangled attention


def select(flag: Any, yes: Choice, no: Choice) -> Choice:
    """`yes` if `flag`, else `no`: two pytrees, of which a traced flag (in a scanned layer) selects leaf by leaf."""
    if isinstance(flag, bool):
        return yes if flag else no
    return jax.tree.map(lambda first, second: jnp.where(flag, first, second), yes, no)


def rotation(positions: jax.Array, width: int, theta: float, factor: float = 1.0) -> Rotation:
    """Cosines and sines [B or 1, T, 1, E] of rotary positions (Su et al. 2021); value i is paired with i + E / 2.
    Positions are divided by `factor` (linear scaling, Chen et al. 2023).
    """
    inverse = 1.0 / theta ** (jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    angles = positions.astype(jnp.float32)[:, :, None] * (inverse / factor)[None, None, :]
    angles = jnp.concatenate([angles, angles], -1)[:, :, None, :]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(values: jax.Array, by: Rotation) -> jax.Array:
    """Query or key heads [B, T, H, E], each pair of values rotated by the angle of its position."""
    cosine, sine = by
    first, second = jnp.split(values, 2, axis=-1)
    return values * cosine + jnp.concatenate([-second, first], -1) * sine


def layer(
    model: Transformer, params: Params, values: jax.Array, context: LayerContext, kind: LayerKind
) -> tuple[jax.Array, jax.Array | None]:
    """One layer: float32 [B, T, D] to the same, and its attention maps [B, H, T, T] or None."""
    seeds = None if context.seeds is None else fold_seeds(context.seeds, kind.index)

    def normed(name: str, vectors: jax.Array) -> jax.Array:
        return norm(model.norm_kind, params[name], vectors, model.norm_epsilon)

    inputs = values
    if model.norm != "post" and kind.normed is not False:
        inputs = select(kind.normed, normed("attention_norm", values), values)
    attention, probabilities = _attention(model, params, inputs, context, kind, seeds)
    if model.norm == "both":
        attention = normed("attention_output_norm", attention)
    values = values + dropout(seeds, 1, model.attention_output_dropout, attention)
    if model.norm == "post":
        values = normed("attention_norm", values)
    inputs = values if model.norm == "post" else normed("feed_forward_norm", values)
    outputs = _feed_forward(model, params, inputs, seeds)
    if model.norm == "both":
        outputs = normed("feed_forward_output_norm", outputs)
    values = values + dropout(seeds, 3, model.feed_forward_dropout, outputs)
    return normed("feed_forward_norm", values) if model.norm == "post" else values, probabilities


def _feed_forward(model: Transformer, params: Params, inputs: jax.Array, seeds: jax.Array | None) -> jax.Array:
    inner = activate(model.activation, dense(params["gate" if model.gated else "up"], inputs, model.compute))
    if model.gated:
        inner = inner * dense(params["up"], inputs, model.compute)
    return dense(params["down"], dropout(seeds, 2, model.feed_forward_inner_dropout, inner), model.compute)


def _attention(
    model: Transformer,
    params: Params,
    inputs: jax.Array,
    context: LayerContext,
    kind: LayerKind,
    seeds: jax.Array | None,
) -> tuple[jax.Array, jax.Array | None]:
    query, key, value = (_heads(model, params[name], inputs) for name in ("query", "key", "value"))
    if model.head_norms:
        query, key = (
            norm(model.norm_kind, params[name], heads, model.norm_epsilon)
            for name, heads in (("query_norm", query), ("key_norm", key))
        )
    mask = context.global_mask
    if model.local_layers:
        mask = select(kind.local, context.local_mask, context.global_mask)
    if context.global_rotation is not None and context.local_rotation is not None:
        by = select(kind.local, context.local_rotation, context.global_rotation)
        query, key = rotate(query, by), rotate(key, by)
    bias = context.bias
    if context.relative is not None:
        bias = _disentangled(model, params, query, key, context.relative)
    dropped, rate = None, model.attention_dropout
    if seeds is not None and rate:
        dropped = dropout_mask(seeds, 0, rate, (model.heads, inputs.shape[1], inputs.shape[1]))
    mixed, probabilities = attend(
        query,
        key,
        value,
        mask,
        compute=model.compute,
        implementation=model.attention,
        scale=model.score_scale,
        bias=bias,
        dropout_mask=dropped,
        dropout_rate=rate,
        maps=context.maps,
    )
    return dense(params["output"], mixed.reshape(*inputs.shape[:2], -1), model.compute), probabilities


def _heads(model: Transformer, params: Params, inputs: jax.Array) -> jax.Array:
    """[..., T, D] to heads [..., T, H or G, E]."""
    return dense(params, inputs, model.compute).reshape(*inputs.shape[:-1], -1, model.head_width)


def _disentangled(
    model: Transformer, params: Params, query: jax.Array, key: jax.Array, relative: jax.Array
) -> jax.Array:
    """The bias of distances, whose vectors go through the matrices of queries and keys; unlike in DeBERTa's own
    training they are never dropped out, since rows would share the mask."""
    of_query, of_key = (_heads(model, params[name], relative) for name in ("query", "key"))
    bias = disentangled_bias(
        query,
        key,
        of_query,
        of_key,
        model.relative_distance,
        terms=model.relative_terms,
        compute=score_precision(model.compute),
    )
    return bias * model.score_scale
