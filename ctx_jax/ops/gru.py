"""A projected GRU over T steps: an alternative to ELMo's LSTM, of our own and without published weights.

Letters: T steps, B rows, D state, P projection (P = D without one).

    r, z = sigmoid(x_t W_x + h_{t-1} W_h + b)            c~ = tanh(x_t W_x + r * (h_{t-1} W_h) + b)
    c_t = clip(z c_{t-1} + (1 - z) c~)                   h_t = clip(c_t W_P)

Source: Cho et al. 2014, with the reset gate after the recurrent product (as in cuDNN), and the LSTM's projection.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from ctx_jax.ops.linear import linear
from ctx_jax.ops.lstm import Cell, State, Weights, clip


def gru(
    cell: Cell,
    weights: Sequence[Weights],
    gates: Sequence[jax.Array],
    mask: jax.Array | None,
    states: Sequence[State],
) -> tuple[list[jax.Array], list[State]]:
    """Run several directions over T steps, as `lstm.lstm` does, with gates [T, B, 3D] in the order r, z, candidate."""

    def step(weights: Weights, state: State, inputs: tuple[jax.Array, jax.Array | None]) -> tuple[State, jax.Array]:
        gates, mask = inputs
        x_r, x_z, x_c = jnp.split(gates, 3, axis=-1)
        h_r, h_z, h_c = jnp.split(linear(state.h, weights.recurrent, cell.compute), 3, axis=-1)
        reset, keep = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_z + h_z)
        c = clip(keep * state.c + (1.0 - keep) * jnp.tanh(x_c + reset * h_c), cell.cell_clip)
        h = c
        if weights.projection is not None:
            h = clip(linear(c, weights.projection, cell.compute), cell.projection_clip)
        if mask is None:
            return State(c, h), h
        real = mask[:, None] > 0.0
        return State(jnp.where(real, c, state.c), jnp.where(real, h, state.h)), jnp.where(real, h, 0.0)

    directions = zip(weights, gates, states, strict=True)
    runs = [lax.scan(partial(step, own), state, (inputs, mask)) for own, inputs, state in directions]
    return [outputs for _, outputs in runs], [state for state, _ in runs]
