"""Scalar mixes of layers (Peters et al. 2018, equation 1).

Letters: L layers, B sentences, T words, D width.
"""

from typing import Literal, TypedDict

import jax
import jax.numpy as jnp

from ctx_jax.io.errors import InputError

LayerNorm = Literal["bilm_tf", "allennlp", "row"]
_EPSILON: dict[LayerNorm, float] = {"bilm_tf": 1e-12, "allennlp": 1e-13, "row": 1e-13}


class Mixing(TypedDict):
    """The trainable parameters of a mix: one weight a layer, before the softmax, and one scale."""

    weights: jax.Array  # [L]
    gamma: jax.Array  # []


def init_mix(count: int) -> Mixing:
    """The initial mix: the plain mean of `count` layers.

    >>> init_mix(3)
    {'weights': Array([0., 0., 0.], dtype=float32), 'gamma': Array(1., dtype=float32)}
    """
    if count < 1:
        raise InputError(f"a mix needs at least one layer, got count={count}: give len(layers.values)")
    return {"weights": jnp.zeros(count, jnp.float32), "gamma": jnp.ones((), jnp.float32)}


def mix(
    values: jax.Array,
    mixing: Mixing,
    *,
    mask: jax.Array | None = None,
    layer_norm: LayerNorm | None = None,
) -> jax.Array:
    """gamma * sum over layers k of softmax(weights)_k * values_k.

    values [L, B, T, D], mixing from `init_mix(L)`, mask [B, T] -> [B, T, D], float32. With a mask, the result is 0
    where it is False.

    `layer_norm` first normalises every layer by one mean and one variance, taken over all real elements of the whole
    batch, without a learned scale; it needs the mask. "bilm_tf" adds 1e-12 to the variance, "allennlp" 1e-13, as those
    programs do. bilm-tf takes statistics over words, AllenNLP over words and both sentence markers. Here they are taken
    over `values` under `mask`, so to get AllenNLP's numbers, include the markers and cut them off afterwards:

        layers = model.layers(params, inputs, markers=True)                                  # [L, B, T + 2, D]
        mixed = mix(layers.values, mixing, mask=layers.mask, layer_norm="allennlp")[:, 1:-1]
        vectors = jnp.where(layers.mask[:, 2:, None], mixed, 0)                              # [B, T, D]

    Such vectors depend on the other sentences of the batch. "row" takes AllenNLP's statistics over each sentence alone,
    as if it were a batch of its own.

    For the top layer alone use `values[-1]`.
    """
    values = jnp.asarray(values, jnp.float32)
    weights = jnp.asarray(mixing["weights"], jnp.float32)
    gamma = jnp.asarray(mixing["gamma"], jnp.float32)
    _check(values, weights, gamma, mask)
    if layer_norm is not None:
        if mask is None:
            raise InputError(f"layer_norm={layer_norm!r} takes statistics over real words: give mask=layers.mask")
        if layer_norm not in _EPSILON:
            raise InputError(f'layer_norm must be None, "bilm_tf", "allennlp" or "row", got {layer_norm!r}')
        values = _normalise(values, mask, _EPSILON[layer_norm], by_row=layer_norm == "row")
    mixed = jnp.einsum("l,lbtd->btd", softmax_weights(mixing), values, precision=jax.lax.Precision.HIGHEST)
    mixed = gamma * mixed
    return mixed if mask is None else jnp.where(mask[..., None], mixed, 0.0)  # [B, T, D]


def softmax_weights(mixing: Mixing) -> jax.Array:
    """The share of each layer in a mix, [L], summing to 1."""
    return jax.nn.softmax(jnp.asarray(mixing["weights"], jnp.float32))


def mix_penalty(mixing: Mixing, scale: float = 1e-3) -> jax.Array:
    """scale * sum of squared weights: pulls a mix towards the plain mean (section 3.4; bilm-tf's `l2_coef`)."""
    return scale * jnp.sum(jnp.square(jnp.asarray(mixing["weights"], jnp.float32)))


def _normalise(values: jax.Array, mask: jax.Array, epsilon: float, *, by_row: bool) -> jax.Array:
    """(values - mean) / sqrt(variance + epsilon), one mean and variance a layer, or a layer and row; 0 where `mask` is
    False."""
    real = jnp.asarray(mask, jnp.bool_)[None, :, :, None]  # [1, B, T, 1]
    axes = (2, 3) if by_row else (1, 2, 3)
    count = jnp.maximum(jnp.sum(real, axes, keepdims=True), 1).astype(jnp.float32) * values.shape[-1]
    mean = jnp.sum(jnp.where(real, values, 0.0), axes, keepdims=True) / count
    centred = jnp.where(real, values - mean, 0.0)
    variance = jnp.sum(jnp.square(centred), axes, keepdims=True) / count
    return centred * jax.lax.rsqrt(variance + epsilon)


def _check(values: jax.Array, weights: jax.Array, gamma: jax.Array, mask: jax.Array | None) -> None:
    if values.ndim != 4:
        raise InputError(f"mix needs values [L, B, T, D], got shape {values.shape}: give layers.values")
    if weights.shape != values.shape[:1]:
        raise InputError(
            f"{values.shape[0]} layers need mixing weights of shape {values.shape[:1]}, got {weights.shape}: "
            f"use init_mix({values.shape[0]})"
        )
    if gamma.shape != ():
        raise InputError(f"the mix's gamma is one number, got shape {gamma.shape}")
    if mask is not None and mask.shape != values.shape[1:3]:
        raise InputError(f"mask must be [B, T] = {values.shape[1:3]}, got {mask.shape}: give layers.mask")
