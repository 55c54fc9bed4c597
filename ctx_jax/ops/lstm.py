"""The projected LSTM of ELMo over T steps, with a custom backward pass.

Letters: T steps, B rows, D state, P projection (P = D without one).

    i, j, f, o = x_t W_x + h_{t-1} W_h + b             (the caller computes x_t W_x + b, `gates`, for all t at once)
    c_t = clip(sigmoid(f + 1) c_{t-1} + sigmoid(i) tanh(j))
    h_t = clip((sigmoid(o) tanh(c_t)) W_P)

Source: Sak et al. 2014 (projection); gate order, clips and forget bias are those of TensorFlow's LSTMCell, with which
ELMo's weights were trained. The backward scan computes no gradients of weights: those of W_h and W_P are one large
product each after the scan, instead of T small ones, and autodiff derives that of W_x from the gradient of `gates`.

A sigmoid is (1 + tanh(x / 2)) / 2, so one tanh computes all four gates.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ctx_jax.ops.linear import Compute, operand, product


@dataclass(frozen=True)
class Cell:
    """Static settings of a cell: clips (None: no clipping) and precision."""

    cell_clip: float | None
    projection_clip: float | None
    compute: Compute


class Weights(NamedTuple):
    """Recurrent weights of one direction."""

    recurrent: jax.Array  # [P, 4D]
    projection: jax.Array | None  # [D, P]


class State(NamedTuple):
    """The state of a direction between steps."""

    c: jax.Array  # [B, D]
    h: jax.Array  # [B, P]


class _Step(NamedTuple):
    """Residuals of one step for the backward pass: tanh of the scaled gates, and the state after the step, which at
    padding is the state before it."""

    tanh: jax.Array  # [B, 4D]
    c: jax.Array
    h: jax.Array


def _per_gate(tanh: jax.Array, i: float, j: float, f: float, o: float) -> jax.Array:
    """One constant per gate, broadcast to [1, 4D]."""
    return jnp.repeat(jnp.array([i, j, f, o], jnp.float32), tanh.shape[-1] // 4)[None, :]


def _gates(tanh: jax.Array) -> list[jax.Array]:
    """i, j, f, o [B, D] from the tanh of the scaled gates."""
    i, j, f, o = jnp.split(tanh, 4, axis=-1)
    return [0.5 * i + 0.5, j, 0.5 * f + 0.5, 0.5 * o + 0.5]


def clip(values: jax.Array, bound: float | None) -> jax.Array:
    """`values` limited to -bound..bound; None: no limit."""
    return values if bound is None else jnp.clip(values, -bound, bound)


def _clip_gradient(values: jax.Array, bound: float | None, gradient: jax.Array) -> jax.Array:
    """The gradient with respect to the input of `clip`; `values` are its results."""
    return gradient if bound is None else jnp.where(jnp.abs(values) < bound, gradient, 0.0)


def step_from_gates(
    cell: Cell, projection: jax.Array | None, state: State, gates: jax.Array, mask: jax.Array | None
) -> tuple[State, jax.Array, _Step]:
    """One step of one direction from its gates [B, 4D] before their activation: the new state, the output (0 at
    padding) and the residuals of the backward pass."""
    scale, shift = _per_gate(gates, 0.5, 1.0, 0.5, 0.5), _per_gate(gates, 0.0, 0.0, 0.5, 0.0)
    tanh = jnp.tanh(scale * gates + shift)
    i, j, f, o = _gates(tanh)
    c = clip(f * state.c + i * j, cell.cell_clip)
    h = o * jnp.tanh(c)
    if projection is not None:
        h = clip(product(h, projection, (1, 0), cell.compute), cell.projection_clip)
    output = h
    if mask is not None:
        real = mask[:, None] > 0.0
        output = jnp.where(real, h, 0.0)
        c, h = jnp.where(real, c, state.c), jnp.where(real, h, state.h)
    return State(c, h), output, _Step(tanh, c, h)


_Loop = tuple[list[jax.Array], list[State]]
_Saved = tuple[list[Weights], jax.Array | None, list[State], list[_Step]]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def lstm(
    cell: Cell,
    weights: list[Weights],
    gates: list[jax.Array],
    mask: jax.Array | None,
    states: list[State],
) -> _Loop:
    """Run several directions over T steps in one loop, which uses the hardware better than one loop each.

    Lists have one entry per direction.

    Args:
      gates: [T, B, 4D], x_t W_x + b, in the direction's reading order.
      mask: float32 [T, B], 1 at tokens, 0 past the end (state frozen, output 0); None: 1 everywhere.
      states: before the first step.

    Returns:
      outputs [T, B, P], and the states after the last step.
    """
    outputs, last, _ = _scan(cell, weights, gates, mask, states, saving=False)
    return outputs, last


def _forward(
    cell: Cell, weights: list[Weights], gates: list[jax.Array], mask: jax.Array | None, states: list[State]
) -> tuple[_Loop, _Saved]:
    outputs, last, saved = _scan(cell, weights, gates, mask, states, saving=True)
    return (outputs, last), (weights, mask, states, saved)


def _scan(
    cell: Cell,
    weights: list[Weights],
    gates: list[jax.Array],
    mask: jax.Array | None,
    states: list[State],
    saving: bool,
) -> tuple[list[jax.Array], list[State], list[_Step]]:
    """Outputs, last states and, with `saving`, the residuals of the backward pass."""
    # Cast before the loop: with few rows, reading the weights limits the speed of a step.
    cast = jax.tree.map(partial(operand, compute=cell.compute), weights)

    def step(
        states: list[State], inputs: tuple[list[jax.Array], jax.Array | None]
    ) -> tuple[list[State], tuple[list[jax.Array], list[_Step]]]:
        gates, mask = inputs
        steps = [
            step_from_gates(
                cell, own.projection, state, gate + product(state.h, own.recurrent, (1, 0), cell.compute), mask
            )
            for own, state, gate in zip(cast, states, gates, strict=True)
        ]
        emitted = [output for _, output, _ in steps], [saved for _, _, saved in steps] if saving else []
        return [state for state, _, _ in steps], emitted

    last, (outputs, saved) = lax.scan(step, states, (gates, mask))
    return outputs, last, saved


def _step_backward(
    cell: Cell,
    transposed: Weights,
    gradient: State,
    output_gradient: jax.Array,
    c_before: jax.Array,
    step: _Step,
    mask: jax.Array | None,
) -> tuple[State, tuple[jax.Array, jax.Array]]:
    """Gradients of one step's previous state, gates, and projected output before clipping, by transposed weights."""
    dh, dc = gradient.h + output_gradient, gradient.c
    if mask is not None:
        real = mask[:, None]
        dh, dc = dh * real, dc * real
    projected = dh
    if transposed.projection is not None:
        projected = _clip_gradient(step.h, cell.projection_clip, dh)
        dh = product(projected, transposed.projection, (1, 0), cell.compute)
    i, j, f, o = _gates(step.tanh)
    derivatives = _per_gate(step.tanh, 0.25, 1.0, 0.25, 0.25) * (1.0 - step.tanh * step.tanh)
    tanh_c = jnp.tanh(step.c)
    dc = _clip_gradient(step.c, cell.cell_clip, dc + dh * o * (1.0 - tanh_c * tanh_c))
    gates = jnp.concatenate([dc * j, dc * i, dc * c_before, dh * tanh_c], axis=-1) * derivatives
    before = State(dc * f, product(gates, transposed.recurrent, (1, 0), cell.compute))
    if mask is not None:
        padding = 1.0 - mask[:, None]
        before = State(before.c + gradient.c * padding, before.h + gradient.h * padding)
    return before, (gates, projected)


def _backward(
    cell: Cell, saved: _Saved, gradients: _Loop
) -> tuple[list[Weights], list[jax.Array], jax.Array | None, list[State]]:
    weights, mask, states, steps = saved
    before = [
        jax.tree.map(lambda first, after: jnp.concatenate([first[None], after[:-1]]), state, State(step.c, step.h))
        for state, step in zip(states, steps, strict=True)
    ]
    # Transposed before the loop: a product over the last axes of both operands takes 1.5 times as long.
    transposed = jax.tree.map(lambda array: operand(array, cell.compute).T, weights)

    def step(
        carried: list[State], inputs: tuple[list[jax.Array], list[jax.Array], list[_Step], jax.Array | None]
    ) -> tuple[list[State], list[tuple[jax.Array, jax.Array]]]:
        outputs, before, steps, mask = inputs
        directions = zip(transposed, carried, outputs, before, steps, strict=True)
        steps_back = [_step_backward(cell, *direction, mask) for direction in directions]
        return [state for state, _ in steps_back], [emitted for _, emitted in steps_back]

    outputs, last = gradients
    first, emitted = lax.scan(step, last, (outputs, [state.c for state in before], steps, mask), reverse=True)
    return (
        [_weights_gradient(cell, *each) for each in zip(weights, before, steps, emitted, strict=True)],
        [gates for gates, _ in emitted],
        None if mask is None else jnp.zeros_like(mask),
        first,
    )


def _weights_gradient(
    cell: Cell, weights: Weights, before: State, steps: _Step, emitted: tuple[jax.Array, jax.Array]
) -> Weights:
    """Gradients of the weights, summed over all steps; `emitted` is the output of the backward scan."""

    def pair(inputs: jax.Array, outputs: jax.Array) -> jax.Array:
        left, right = (values.reshape(-1, values.shape[-1]) for values in (inputs, outputs))
        return product(left, right, (0, 0), cell.compute)

    gates, projected = emitted
    outputs = _gates(steps.tanh)[3] * jnp.tanh(steps.c)
    return Weights(pair(before.h, gates), None if weights.projection is None else pair(outputs, projected))


lstm.defvjp(_forward, _backward)
