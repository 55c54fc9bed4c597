"""A recurrent layer from its inputs: their products with the kernel, and the loop of `lstm` or `gru`.

Letters: T steps, B rows, I input width, D state, P projection (P = D without one).

Where gradients are computed, and on accelerators, one product gives the gates of all T steps before the loop. Inference
on a CPU multiplies inputs and state by the whole kernel within the loop instead, one direction after the other: the
gates [T, B, 4D] would be written to memory and read again, which takes longer than the products of a narrow layer. On
one core of an AVX-512 machine (process time, 25 steps) this is 1.7 times as fast for D = 1024, P = 128 with 32 rows and
1.8 times with 128, where it reaches 88 % of the speed of the bare products; for D = 2048, P = 256, 1.0 and 1.1 times.
For D = 4096, P = 512 it is 0.8 times as fast with 32 rows and equal with 128: a kernel that the caches do not hold is
better read less often.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ctx_jax.ops.hardware import platform
from ctx_jax.ops.linear import linear, operand, product
from ctx_jax.ops.lstm import Cell, State, Weights, lstm, step_from_gates

_CACHED_BYTES = 2**25
"""The largest kernel that is read from memory with each step."""


class LayerWeights(NamedTuple):
    """All weights of one direction."""

    kernel: jax.Array  # [I + P, 4D] (3D of a GRU), input rows, then recurrent rows
    bias: jax.Array  # [4D] (3D)
    projection: jax.Array | None  # [D, P]


_Loop = tuple[list[jax.Array], list[State]]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def lstm_layer(
    cell: Cell, weights: list[LayerWeights], inputs: list[jax.Array], mask: jax.Array | None, states: list[State]
) -> _Loop:
    """Run several directions over inputs [T, B, I], one list entry a direction; see `lstm.lstm` for the others."""
    if platform() != "cpu" or max(each.kernel.nbytes for each in weights) > _CACHED_BYTES:
        return layer_by_gates(lstm, cell, weights, inputs, mask, states)
    directions = zip(weights, inputs, states, strict=True)
    runs = [_within_loop(cell, own, own_inputs, mask, state) for own, own_inputs, state in directions]
    return [outputs for outputs, _ in runs], [state for _, state in runs]


def layer_by_gates(
    recurrence: Callable[..., _Loop],
    cell: Cell,
    weights: list[LayerWeights],
    inputs: list[jax.Array],
    mask: jax.Array | None,
    states: list[State],
) -> _Loop:
    """As `lstm_layer`, for `lstm.lstm` or `gru.gru`: one product gives the gates of all steps."""
    width = inputs[0].shape[-1]
    gates = [
        linear(values, own.kernel[:width], cell.compute) + own.bias[None, None, :]
        for own, values in zip(weights, inputs, strict=True)
    ]
    recurrent = [Weights(own.kernel[width:], own.projection) for own in weights]
    return recurrence(cell, recurrent, gates, mask, states)


def _within_loop(
    cell: Cell, weights: LayerWeights, inputs: jax.Array, mask: jax.Array | None, state: State
) -> tuple[jax.Array, State]:
    kernel = operand(weights.kernel, cell.compute)
    projection = None if weights.projection is None else operand(weights.projection, cell.compute)

    def step(state: State, given: tuple[jax.Array, jax.Array | None]) -> tuple[State, jax.Array]:
        values, mask = given
        both = jnp.concatenate([values, state.h], axis=-1)
        gates = product(both, kernel, (1, 0), cell.compute) + weights.bias[None, :]
        after, output, _ = step_from_gates(cell, projection, state, gates, mask)
        return after, output

    last, outputs = lax.scan(step, state, (inputs, mask))
    return outputs, last


def _forward(cell: Cell, *arrays: Any) -> Any:
    return jax.vjp(partial(layer_by_gates, lstm, cell), *arrays)


def _backward(cell: Cell, pull_back: Any, gradients: _Loop) -> Any:
    return pull_back(gradients)


lstm_layer.defvjp(_forward, _backward)
