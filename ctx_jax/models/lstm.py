"""The projected LSTM of ELMo over a window, with a backward pass of its own.

Letters: T steps, B rows, D state, P projection (P = D without one).

    i, j, f, o = x_t W_x + h_{t-1} W_h + b                      (x_t W_x + b arrives as `gates`, one product for all t)
    c_t = clip(sigmoid(f + 1) c_{t-1} + sigmoid(i) tanh(j))
    h_t = clip((sigmoid(o) tanh(c_t)) W_P)

Source: Sak et al. 2014 (projection); gate order, clips and the forget bias as in TensorFlow's LSTMCell, which ELMo's
weights were trained with. The backward scan emits only gradients of the gates; the gradients of W_h and W_P are two
large products afterwards instead of T small ones, and autodiff turns the gates' gradient into W_x's the same way.

A sigmoid is (1 + tanh(x / 2)) / 2, so one tanh over all four gates at once serves them all: on a CPU a function of a
slice of the gates, or behind a concatenation, is not vectorised, and four of them took longer than the matrix product.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ctx_jax.numerics.linear import Compute, operand, product


@dataclass(frozen=True)
class Cell:
    """What is fixed about a cell: its clips (None: none) and its precision."""

    cell_clip: float | None
    projection_clip: float | None
    compute: Compute


class Weights(NamedTuple):
    """Recurrent weights of one direction."""

    recurrent: jax.Array  # [P, 4D]
    projection: jax.Array | None  # [D, P]


class State(NamedTuple):
    """What a direction carries from step to step."""

    c: jax.Array  # [B, D]
    h: jax.Array  # [B, P]


class _Step(NamedTuple):
    """What the backward pass needs of one step: tanh of its scaled gates and the state it left (an absent token's is
    the one before, and its gates get no gradient)."""

    tanh: jax.Array  # [B, 4D]
    c: jax.Array
    h: jax.Array


def _per_gate(dim: int, i: float, j: float, f: float, o: float) -> jax.Array:
    """One value a gate, [1, 4D]."""
    return jnp.repeat(jnp.array([[i, j, f, o]], jnp.float32), dim, axis=1)


def _gates(tanh: jax.Array) -> list[jax.Array]:
    """i, j, f, o [B, D] from the tanh of the scaled gates."""
    i, j, f, o = jnp.split(tanh, 4, axis=-1)
    return [0.5 * i + 0.5, j, 0.5 * f + 0.5, 0.5 * o + 0.5]


def _settle(values: Any) -> Any:
    """On a CPU: have these computed once and whole, not anew and slice by slice inside whatever reads them. Elsewhere
    fewer and larger kernels are better, and the compiler is left alone."""
    return lax.optimization_barrier(values) if jax.default_backend() == "cpu" else values


def _clip(values: jax.Array, bound: float | None) -> jax.Array:
    return values if bound is None else jnp.clip(values, -bound, bound)


def _inside(values: jax.Array, bound: float | None, gradient: jax.Array) -> jax.Array:
    """The derivative of `_clip`, read off its result."""
    return gradient if bound is None else jnp.where(jnp.abs(values) < bound, gradient, 0.0)


def _advance(
    cell: Cell, weights: Weights, state: State, gates: jax.Array, present: jax.Array | None
) -> tuple[State, jax.Array, _Step]:
    """One step of one direction: the new state, the output (0 where absent) and what backward needs."""
    dim = state.c.shape[-1]
    scale, shift = _per_gate(dim, 0.5, 1.0, 0.5, 0.5), _per_gate(dim, 0.0, 0.0, 0.5, 0.0)
    gates = gates + product(state.h, weights.recurrent, (1, 0), cell.compute)
    tanh = _settle(jnp.tanh(scale * gates + shift))
    i, j, f, o = _gates(tanh)
    c = _clip(f * state.c + i * j, cell.cell_clip)
    h = o * jnp.tanh(c)
    if weights.projection is not None:
        h = _clip(product(h, weights.projection, (1, 0), cell.compute), cell.projection_clip)
    output = h
    if present is not None:
        here = present[:, None] > 0.0
        output = jnp.where(here, h, 0.0)
        c, h = jnp.where(here, c, state.c), jnp.where(here, h, state.h)
    return State(c, h), output, _Step(tanh, c, h)


def _cast(weights: Weights, compute: Compute) -> Weights:
    """Weights as operands, once: at few rows a step is bound by reading them."""
    projection = weights.projection
    return Weights(operand(weights.recurrent, compute), None if projection is None else operand(projection, compute))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def lstm(
    cell: Cell, weights: Weights, gates: jax.Array, present: jax.Array | None, state: State
) -> tuple[jax.Array, State]:
    """Run one direction over a window.

    Args:
      cell: clips and precision.
      weights: recurrent weights.
      gates: [T, B, 4D], the inputs' share of the gates, bias included.
      present: float32 [T, B], 1 where a token is, 0 past the end (state frozen, output 0); None: everywhere.
      state: [B, D] and [B, P].

    Returns:
      outputs [T, B, P] and the state after the last step.
    """
    cast = _cast(weights, cell.compute)

    def step(state: State, inputs: tuple[jax.Array, jax.Array | None]) -> tuple[State, jax.Array]:
        state, output, _ = _advance(cell, cast, state, *inputs)
        return state, output

    state, outputs = lax.scan(step, state, (gates, present))
    return outputs, state


_Saved = tuple[Weights, jax.Array | None, State, _Step]


def _forward(
    cell: Cell, weights: Weights, gates: jax.Array, present: jax.Array | None, state: State
) -> tuple[tuple[jax.Array, State], _Saved]:
    cast = _cast(weights, cell.compute)

    def step(state: State, inputs: tuple[jax.Array, jax.Array | None]) -> tuple[State, tuple[jax.Array, _Step]]:
        state, output, saved = _advance(cell, cast, state, *inputs)
        return state, (output, saved)

    last, (outputs, steps) = lax.scan(step, state, (gates, present))
    return (outputs, last), (weights, present, state, steps)


def _retreat(
    cell: Cell,
    turned: Weights,
    gradient: State,
    inputs: tuple[jax.Array, jax.Array, _Step, jax.Array | None],
) -> tuple[State, tuple[jax.Array, jax.Array]]:
    """One step backwards, by the transposed weights: gradient of the state before it, of its gates and of its clipped
    projection."""
    output_gradient, c_before, step, present = inputs
    dh, dc = gradient.h + output_gradient, gradient.c
    if present is not None:
        here = present[:, None]
        dh, dc = dh * here, dc * here
    projected = dh
    if turned.projection is not None:
        projected = _inside(step.h, cell.projection_clip, dh)
        dh = product(projected, turned.projection, (1, 0), cell.compute)
    i, j, f, o = _gates(step.tanh)
    slopes = _settle(_per_gate(c_before.shape[-1], 0.25, 1.0, 0.25, 0.25) * (1.0 - step.tanh * step.tanh))
    tanh_c = _settle(jnp.tanh(step.c))
    dc = _settle(_inside(step.c, cell.cell_clip, dc + dh * o * (1.0 - tanh_c * tanh_c)))
    to_activations = _settle(jnp.concatenate(_settle([dc * j, dc * i, dc * c_before, dh * tanh_c]), axis=-1))
    gates = to_activations * slopes
    before = State(dc * f, product(gates, turned.recurrent, (1, 0), cell.compute))
    if present is not None:
        absent = 1.0 - present[:, None]
        before = State(before.c + gradient.c * absent, before.h + gradient.h * absent)
    return before, (gates, projected)


def _backward(
    cell: Cell, saved: _Saved, gradients: tuple[jax.Array, State]
) -> tuple[Weights, jax.Array, jax.Array | None, State]:
    weights, present, state, steps = saved
    output_gradient, last = gradients
    after = State(steps.c, steps.h)
    before = State(*(jnp.concatenate([first[None], rest[:-1]]) for first, rest in zip(state, after, strict=True)))
    # Turned once: a product along both operands' last axes takes half as long again at every step.
    turned = jax.tree.map(jnp.transpose, _cast(weights, cell.compute))
    first, (gates, projected) = lax.scan(
        partial(_retreat, cell, turned), last, (output_gradient, before.c, steps, present), reverse=True
    )

    def weight_gradient(left: jax.Array, right: jax.Array) -> jax.Array:
        return product(left.reshape(-1, left.shape[-1]), right.reshape(-1, right.shape[-1]), (0, 0), cell.compute)

    projection = None
    if weights.projection is not None:
        projection = weight_gradient(_gates(steps.tanh)[3] * jnp.tanh(steps.c), projected)
    weights_gradient = Weights(weight_gradient(before.h, gates), projection)
    return weights_gradient, gates, None if present is None else jnp.zeros_like(present), first


lstm.defvjp(_forward, _backward)
