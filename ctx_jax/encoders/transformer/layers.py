"""The parts of a Transformer layer, and the layer: plain functions over a nested dict of float32 arrays.

Letters: B rows, T tokens, D width, F feed-forward width, H heads, E width of a head, L layers.

post-norm   x = norm(x + attention(x));  x = norm(x + feed_forward(x))
pre-norm    x = x + attention(norm(x));  x = x + feed_forward(norm(x))
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from ctx_jax.encoders.transformer.config import Transformer
from ctx_jax.ops.attention import Visible, attend
from ctx_jax.ops.dense import activate, dense, layer_norm

Choice = TypeVar("Choice")


class LayerKind(NamedTuple):
    """What tells one layer from another: Python values in an unrolled stack, arrays in a scanned one."""

    index: Any  # int or int32 []; seeds the layer's dropout
    local: Any  # bool or bool []
    normed: Any  # whether a norm stands before the attention of a pre-norm layer


class Shared(NamedTuple):
    """What every layer of a call shares."""

    global_seen: Visible
    local_seen: Visible
    global_rotation: tuple[jax.Array, jax.Array] | None  # cosine, sine [B, T, 1, E]
    local_rotation: tuple[jax.Array, jax.Array] | None


def choose(flag: Any, yes: Choice, no: Choice) -> Choice:
    """`yes` or `no`: by a Python bool, or value by value by an array, so that a scanned layer can differ by data."""
    if isinstance(flag, bool):
        return yes if flag else no
    return jax.tree.map(lambda first, second: jnp.where(flag, first, second), yes, no)


def row_seeds(key: jax.Array, rows: jax.Array) -> jax.Array:
    """Two random words for each row, uint32 [B, 2], by threefry from the step's key and the rows' global numbers."""
    return jax.vmap(lambda row: jax.random.bits(jax.random.fold_in(key, row), (2,), jnp.uint32))(rows)


def reseed(seeds: jax.Array, number: int | jax.Array) -> jax.Array:
    """Other words [B, 2] for the layer or the place `number`."""
    return _hash(seeds ^ _hash(jnp.asarray(number, jnp.uint32) + jnp.uint32(0x9E3779B9)))


def keep(seeds: jax.Array, place: int, rate: float, shape: tuple[int, ...]) -> jax.Array:
    """Which values dropout keeps, bool [B, *shape], a share 1 - rate of them.

    Seeded by row, so that a row's choice depends neither on its place in the batch nor on the device. An integer hash
    spreads a row's two words over its values: threefry on every value costs several times more to run and, unrolled
    over the layers, minutes to compile.
    """
    words = reseed(seeds, place)
    first, second = (words[:, column].reshape((-1,) + (1,) * len(shape)) for column in range(2))
    counter = jnp.arange(math.prod(shape), dtype=jnp.uint32).reshape(1, *shape)
    return _hash(_hash(counter + first) ^ second) >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))


def _hash(word: jax.Array) -> jax.Array:
    """C. Wellons' lowbias32: a bijection of uint32 whose every input bit flips every output bit half of the time."""
    word = (word ^ (word >> jnp.uint32(16))) * jnp.uint32(0x7FEB352D)
    word = (word ^ (word >> jnp.uint32(15))) * jnp.uint32(0x846CA68B)
    return word ^ (word >> jnp.uint32(16))


def dropout(seeds: jax.Array | None, place: int, rate: float, values: jax.Array) -> jax.Array:
    """`values` [B, ...] with a share `rate` set to 0 and the rest scaled up; `seeds` [B, 2], or None for none."""
    if seeds is None or rate == 0.0:
        return values
    return jnp.where(keep(seeds, place, rate, values.shape[1:]), values / (1.0 - rate), 0.0)


def rotation(positions: jax.Array, width: int, theta: float) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines [B or 1, T, 1, E] of rotary positions (Su et al. 2021), halves paired as (i, i + E / 2)."""
    inverse = 1.0 / theta ** (jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    angles = positions.astype(jnp.float32)[:, :, None] * inverse[None, None, :]
    angles = jnp.concatenate([angles, angles], -1)[:, :, None, :]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(values: jax.Array, by: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turn query or key heads [B, T, H, E] by their positions."""
    cosine, sine = by
    first, second = jnp.split(values, 2, axis=-1)
    return values * cosine + jnp.concatenate([-second, first], -1) * sine


def layer(
    model: Transformer,
    params: Mapping[str, Any],
    values: jax.Array,
    shared: Shared,
    kind: LayerKind,
    seeds: jax.Array | None,
    maps: bool,
) -> tuple[jax.Array, jax.Array | None]:
    """One layer: float32 [B, T, D] to the same, and the attention maps [B, H, T, T] or None. `seeds` [B, 2] or None."""
    if seeds is not None:
        seeds = reseed(seeds, kind.index)
    epsilon = model.norm_epsilon
    inputs = values
    if model.norm == "pre" and kind.normed is not False:
        inputs = choose(kind.normed, layer_norm(params["attention_norm"], values, epsilon), values)
    attention, probabilities = _attention(model, params, inputs, shared, kind, seeds, maps)
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
    params: Mapping[str, Any],
    inputs: jax.Array,
    shared: Shared,
    kind: LayerKind,
    seeds: jax.Array | None,
    maps: bool,
) -> tuple[jax.Array, jax.Array | None]:
    rows, length, _ = inputs.shape
    heads = (rows, length, model.heads, model.dim // model.heads)
    query, key, value = (
        dense(params[name], inputs, model.compute).reshape(heads) for name in ("query", "key", "value")
    )
    seen = shared.global_seen
    if model.local_layers:
        seen = choose(kind.local, shared.local_seen, shared.global_seen)
    if shared.global_rotation is not None and shared.local_rotation is not None:
        by = choose(kind.local, shared.local_rotation, shared.global_rotation)
        query, key = rotate(query, by), rotate(key, by)
    kept, rate = None, model.attention_dropout
    if seeds is not None and rate:
        kept = keep(seeds, 0, rate, (model.heads, length, length))
    mixed, probabilities = attend(
        query, key, value, seen, compute=model.compute, path=model.attention, kept=kept, rate=rate, maps=maps
    )
    return dense(params["output"], mixed.reshape(inputs.shape), model.compute), probabilities
