"""A dense layer, norms and activations, shared by encoders and heads.

Letters: I inputs, O outputs, D width.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from ctx_jax.ops.linear import Compute, linear
from ctx_jax.typing import Params

Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]
NormKind = Literal["layer", "rms"]

_SHORTEST = 1e-12  # the least length that a vector is divided by


def layer_norm(params: Params, values: jax.Array, epsilon: float) -> jax.Array:
    """(values - mean) / sqrt(variance + epsilon) * scale + bias over the last axis, in float32 (Ba et al. 2016).

    `params` {"scale": [D], "bias": [D]}; the bias is optional.
    """
    mean = values.mean(-1, keepdims=True)
    centred = values - mean
    variance = jnp.square(centred).mean(-1, keepdims=True)
    normed = centred * lax.rsqrt(variance + epsilon) * _broadcast(params["scale"], values)
    return normed + _broadcast(params["bias"], values) if "bias" in params else normed


def rms_norm(params: Params, values: jax.Array, epsilon: float) -> jax.Array:
    """values / sqrt(mean of squares + epsilon) * scale over the last axis, in float32 (Zhang and Sennrich 2019).

    `params` {"scale": [D]}.
    """
    squares = jnp.square(values).mean(-1, keepdims=True)
    return values * lax.rsqrt(squares + epsilon) * _broadcast(params["scale"], values)


def norm(kind: NormKind, params: Params, values: jax.Array, epsilon: float) -> jax.Array:
    """`layer_norm` or `rms_norm`."""
    return rms_norm(params, values, epsilon) if kind == "rms" else layer_norm(params, values, epsilon)


def unit_vectors(vectors: jax.Array) -> jax.Array:
    """Vectors [..., D] divided by their lengths; 0 stays 0."""
    squared = jnp.sum(jnp.square(vectors), axis=-1, keepdims=True)
    # The root of 0 has no derivative.
    length = jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1.0)), 0.0)
    return vectors / jnp.maximum(length, _SHORTEST)


def _broadcast(vector: jax.Array, like: jax.Array) -> jax.Array:
    return vector.reshape((1,) * (like.ndim - 1) + vector.shape)


def dense(params: Params, values: jax.Array, compute: Compute) -> jax.Array:
    """values [..., I] @ kernel [I, O] + bias [O]: float32 [..., O]; the bias is optional."""
    result = linear(values, params["kernel"], compute)
    return result + _broadcast(params["bias"], result) if "bias" in params else result


def activate(activation: Activation, values: jax.Array) -> jax.Array:
    """Apply an activation. `gelu` is x Phi(x) by the error function, `gelu_tanh` its usual approximation."""
    match activation:
        case "gelu":
            return 0.5 * values * (1.0 + lax.erf(values * 0.5**0.5))
        case "gelu_tanh":
            return jax.nn.gelu(values, approximate=True)
        case "relu":
            return jax.nn.relu(values)
        case "silu":
            return jax.nn.silu(values)


def init_dense(key: jax.Array, inputs: int, outputs: int, *, bias: bool, scale: float) -> dict[str, jax.Array]:
    """A kernel from `truncated_normal` and a bias of zeros."""
    params = {"kernel": truncated_normal(key, (inputs, outputs), scale)}
    if bias:
        params["bias"] = jnp.zeros(outputs, jnp.float32)
    return params


def init_norm(width: int, *, bias: bool) -> dict[str, jax.Array]:
    """A scale of ones and a bias of zeros."""
    params = {"scale": jnp.ones(width, jnp.float32)}
    if bias:
        params["bias"] = jnp.zeros(width, jnp.float32)
    return params


def truncated_normal(key: jax.Array, shape: tuple[int, ...], scale: float) -> jax.Array:
    """N(0, scale^2) truncated at two standard deviations, as in the original BERT."""
    return jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32) * scale
