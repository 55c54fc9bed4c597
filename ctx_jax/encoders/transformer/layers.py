"""A Transformer layer as plain functions over a nested mapping of float32 arrays.

Letters: B rows, T tokens, D width, H heads, E width of a head.

post-norm   x = norm(x + attention(x));  x = norm(x + feed_forward(x))
pre-norm    x = x + attention(norm(x));  x = x + feed_forward(norm(x))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from ctx_jax.ops.attention import AttentionMask, attend
from ctx_jax.ops.dense import activate, dense, layer_norm
from ctx_jax.ops.dropout import dropout, dropout_mask, fold_seeds
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


def select(flag: Any, yes: Choice, no: Choice) -> Choice:
    """`yes` if `flag`, else `no`: two pytrees, of which a traced flag (in a scanned layer) selects leaf by leaf."""
    if isinstance(flag, bool):
        return yes if flag else no
    return jax.tree.map(lambda first, second: jnp.where(flag, first, second), yes, no)


def rotation(positions: jax.Array, width: int, theta: float) -> Rotation:
    """Cosines and sines [B or 1, T, 1, E] of rotary positions (Su et al. 2021); value i is paired with i + E / 2."""
    inverse = 1.0 / theta ** (jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    angles = positions.astype(jnp.float32)[:, :, None] * inverse[None, None, :]
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
    epsilon = model.norm_epsilon
    inputs = values
    if model.norm == "pre" and kind.normed is not False:
        inputs = select(kind.normed, layer_norm(params["attention_norm"], values, epsilon), values)
    attention, probabilities = _attention(model, params, inputs, context, kind, seeds)
    values = values + dropout(seeds, 1, model.attention_output_dropout, attention)
    if model.norm == "post":
        values = layer_norm(params["attention_norm"], values, epsilon)
    inputs = values if model.norm == "post" else layer_norm(params["feed_forward_norm"], values, epsilon)
    inner = activate(model.activation, dense(params["gate" if model.gated else "up"], inputs, model.compute))
    if model.gated:
        inner = inner * dense(params["up"], inputs, model.compute)
    inner = dropout(seeds, 2, model.feed_forward_inner_dropout, inner)
    values = values + dropout(seeds, 3, model.feed_forward_dropout, dense(params["down"], inner, model.compute))
    if model.norm == "post":
        values = layer_norm(params["feed_forward_norm"], values, epsilon)
    return values, probabilities


def _attention(
    model: Transformer,
    params: Params,
    inputs: jax.Array,
    context: LayerContext,
    kind: LayerKind,
    seeds: jax.Array | None,
) -> tuple[jax.Array, jax.Array | None]:
    rows, length, _ = inputs.shape
    heads = (rows, length, model.heads, model.dim // model.heads)
    query, key, value = (
        dense(params[name], inputs, model.compute).reshape(heads) for name in ("query", "key", "value")
    )
    mask = context.global_mask
    if model.local_layers:
        mask = select(kind.local, context.local_mask, context.global_mask)
    if context.global_rotation is not None and context.local_rotation is not None:
        by = select(kind.local, context.local_rotation, context.global_rotation)
        query, key = rotate(query, by), rotate(key, by)
    dropped, rate = None, model.attention_dropout
    if seeds is not None and rate:
        dropped = dropout_mask(seeds, 0, rate, (model.heads, length, length))
    mixed, probabilities = attend(
        query,
        key,
        value,
        mask,
        compute=model.compute,
        implementation=model.attention,
        dropout_mask=dropped,
        dropout_rate=rate,
        maps=context.maps,
    )
    return dense(params["output"], mixed.reshape(inputs.shape), model.compute), probabilities
