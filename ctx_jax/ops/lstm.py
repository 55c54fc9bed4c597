"""The projected LSTM of ELMo over T steps, with a custom backward pass.

Letters: T steps, B rows, D state, P projection (P = D without one).

    i, j, f, o = x_t W_x + h_{t-1} W_h + b                      (x_t W_x + b arrives as `gates`, one product for all t)
    c_t = clip(sigmoid(f + 1) c_{t-1} + sigmoid(i) tanh(j))
    h_t = clip((sigmoid(o) tanh(c_t)) W_P)

Source: Sak et al. 2014 (projection); gate order, clips and forget bias are those of TensorFlow's LSTMCell, which
trained ELMo's weights. The backward scan emits gradients of the gates only; the gradients of W_h and W_P are two large
products after it instead of T small ones each, and autodiff computes W_x's from the gates' gradient in the same way.

Layout: values are rows [B, features] and weights [in, out]. Where the weights exceed a CPU's cache and rows are few,
values are columns [features, B] and weights [out, in], and the product reads the weights nearly twice as fast.

A sigmoid is (1 + tanh(x / 2)) / 2, so one tanh computes all four gates. On a CPU a function of a slice of the gates, or
of a concatenation, is not vectorised, and four of them took longer than the matrix product.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ctx_jax.ops.hardware import platform
from ctx_jax.ops.linear import Compute, operand, product

COLUMNS_FROM = 16 * 2**20  # bytes of W_h
COLUMNS_TO = 64  # rows


@dataclass(frozen=True)
class Cell:
    """Static settings of a cell: clips (None: no clipping), precision, layout."""

    cell_clip: float | None
    projection_clip: float | None
    compute: Compute
    columns: bool | None = None
    """True: values as columns, False: as rows, None: whichever is faster here. Results agree within rounding."""

    @property
    def features(self) -> int:
        """The axis of features, counted from the end."""
        return -2 if self.columns else -1

    def with_layout(self, recurrent: jax.Array | jax.ShapeDtypeStruct, rows: int) -> "Cell":
        """The cell with its layout chosen. In bf16 columns were measured to be no faster."""
        if self.columns is not None:
            return self
        large = 4 * math.prod(recurrent.shape) > COLUMNS_FROM and rows <= COLUMNS_TO
        columns = large and self.compute == "float32" and platform() == "cpu"
        return replace(self, columns=columns)

    def transposed(self, values: jax.Array) -> jax.Array:
        """Rows [..., B, features] in this cell's layout, or back; weights likewise."""
        return jnp.swapaxes(values, -1, -2) if self.columns else values

    def times(self, values: jax.Array, weights: jax.Array) -> jax.Array:
        """The product of values and weights."""
        return product(*((weights, values) if self.columns else (values, weights)), (1, 0), self.compute)


class Weights(NamedTuple):
    """Recurrent weights of one direction."""

    recurrent: jax.Array  # [P, 4D]
    projection: jax.Array | None  # [D, P]


class State(NamedTuple):
    """The state of a direction between steps."""

    c: jax.Array  # [B, D]
    h: jax.Array  # [B, P]


class _Step(NamedTuple):
    """What the backward pass needs of one step: tanh of the scaled gates and the state after it (at padding the
    state before it; its gates get no gradient)."""

    tanh: jax.Array  # [B, 4D]
    c: jax.Array
    h: jax.Array


def _per_gate(cell: Cell, tanh: jax.Array, i: float, j: float, f: float, o: float) -> jax.Array:
    """One constant per gate, broadcast to [1, 4D]."""
    values = jnp.repeat(jnp.array([i, j, f, o], jnp.float32), tanh.shape[cell.features] // 4)
    return jnp.expand_dims(values, -1 if cell.columns else 0)


def _gates(cell: Cell, tanh: jax.Array) -> list[jax.Array]:
    """i, j, f, o [B, D] from the tanh of the scaled gates."""
    i, j, f, o = jnp.split(tanh, 4, axis=cell.features)
    return [0.5 * i + 0.5, j, 0.5 * f + 0.5, 0.5 * o + 0.5]


def _materialize(values: Any) -> Any:
    """On a CPU: an optimization barrier, so that values are computed once and vectorised, not fused slice by slice into
    their consumers. On other platforms fewer and larger kernels are faster."""
    return lax.optimization_barrier(values) if platform() == "cpu" else values


def _clip(values: jax.Array, bound: float | None) -> jax.Array:
    return values if bound is None else jnp.clip(values, -bound, bound)


def _clip_gradient(values: jax.Array, bound: float | None, gradient: jax.Array) -> jax.Array:
    """The gradient of `_clip`, by its result."""
    return gradient if bound is None else jnp.where(jnp.abs(values) < bound, gradient, 0.0)


def _step_forward(
    cell: Cell, weights: Weights, state: State, gates: jax.Array, mask: jax.Array | None
) -> tuple[State, jax.Array, _Step]:
    """One step of one direction: the new state, the output (0 at padding) and the residuals of the backward pass."""
    scale, shift = _per_gate(cell, gates, 0.5, 1.0, 0.5, 0.5), _per_gate(cell, gates, 0.0, 0.0, 0.5, 0.0)
    gates = gates + cell.times(state.h, weights.recurrent)
    tanh = _materialize(jnp.tanh(scale * gates + shift))
    i, j, f, o = _gates(cell, tanh)
    c = _clip(f * state.c + i * j, cell.cell_clip)
    h = o * jnp.tanh(c)
    if weights.projection is not None:
        h = _clip(cell.times(h, weights.projection), cell.projection_clip)
    output = h
    if mask is not None:
        real = jnp.expand_dims(mask, cell.features) > 0.0
        output = jnp.where(real, h, 0.0)
        c, h = jnp.where(real, c, state.c), jnp.where(real, h, state.h)
    return State(c, h), output, _Step(tanh, c, h)


def _cast(weights: Weights, compute: Compute) -> Weights:
    """Weights cast to operands once: at few rows a step is bound by reading them."""
    projection = weights.projection
    return Weights(operand(weights.recurrent, compute), None if projection is None else operand(projection, compute))


def lstm(
    cell: Cell,
    weights: Sequence[Weights],
    gates: Sequence[jax.Array],
    mask: jax.Array | None,
    states: Sequence[State],
) -> tuple[list[jax.Array], list[State]]:
    """Run several directions over T steps in one loop, which keeps the hardware busier than one loop each.

    Args:
      cell: clips and precision.
      weights: recurrent weights, by direction.
      gates: [T, B, 4D] by direction, x_t W_x + b, in the direction's reading order.
      mask: float32 [T, B], 1 at tokens, 0 past the end (state frozen, output 0); None: 1 everywhere.
      states: [B, D] and [B, P] by direction.

    Returns:
      by direction: outputs [T, B, P], and the state after the last step.
    """
    cell = cell.with_layout(weights[0].recurrent, states[0].c.shape[0])
    transposed = partial(jax.tree.map, cell.transposed)
    outputs, last = _run(cell, transposed(list(weights)), transposed(list(gates)), mask, transposed(list(states)))
    return transposed(outputs), transposed(last)


_Loop = tuple[list[jax.Array], list[State]]
_Saved = tuple[list[Weights], jax.Array | None, list[State], list[_Step]]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(
    cell: Cell, weights: list[Weights], gates: list[jax.Array], mask: jax.Array | None, states: list[State]
) -> _Loop:
    """`lstm` with all arrays in the cell's layout."""
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
    """Outputs and last states by direction, and with `saving` the residuals of the backward pass."""
    cast = [_cast(each, cell.compute) for each in weights]

    def step(
        states: list[State], inputs: tuple[list[jax.Array], jax.Array | None]
    ) -> tuple[list[State], tuple[list[jax.Array], list[_Step]]]:
        gates, mask = inputs
        steps = [_step_forward(cell, *each, mask) for each in zip(cast, states, gates, strict=True)]
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
    """One step backward, with the transposed weights: gradients of the state before it, of its gates and of its
    projected output before clipping."""
    dh, dc = gradient.h + output_gradient, gradient.c
    if mask is not None:
        real = jnp.expand_dims(mask, cell.features)
        dh, dc = dh * real, dc * real
    projected = dh
    if transposed.projection is not None:
        projected = _clip_gradient(step.h, cell.projection_clip, dh)
        dh = cell.times(projected, transposed.projection)
    i, j, f, o = _gates(cell, step.tanh)
    derivatives = _materialize(_per_gate(cell, step.tanh, 0.25, 1.0, 0.25, 0.25) * (1.0 - step.tanh * step.tanh))
    tanh_c = _materialize(jnp.tanh(step.c))
    dc = _materialize(_clip_gradient(step.c, cell.cell_clip, dc + dh * o * (1.0 - tanh_c * tanh_c)))
    to_activations = _materialize(
        jnp.concatenate(_materialize([dc * j, dc * i, dc * c_before, dh * tanh_c]), axis=cell.features)
    )
    gates = to_activations * derivatives
    before = State(dc * f, cell.times(gates, transposed.recurrent))
    if mask is not None:
        padding = 1.0 - jnp.expand_dims(mask, cell.features)
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
    # Transposed once: a product over the last axes of both operands takes 1.5 times as long, at every step.
    transposed = [jax.tree.map(jnp.transpose, _cast(each, cell.compute)) for each in weights]

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
    """Gradients of the weights over all steps, from the states before them and what the backward scan emitted."""

    def pair(inputs: jax.Array, outputs: jax.Array) -> jax.Array:
        left, right = (cell.transposed(values).reshape(-1, values.shape[cell.features]) for values in (inputs, outputs))
        return cell.transposed(product(left, right, (0, 0), cell.compute))

    gates, projected = emitted
    outputs = _gates(cell, steps.tanh)[3] * jnp.tanh(steps.c)
    return Weights(pair(before.h, gates), None if weights.projection is None else pair(outputs, projected))


_run.defvjp(_forward, _backward)
