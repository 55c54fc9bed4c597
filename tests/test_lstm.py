"""The projected LSTM and GRU against naive implementations, and the custom backward pass against autodiff."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctx_jax.ops import recurrent_layer
from ctx_jax.ops.gru import gru
from ctx_jax.ops.lstm import Cell, State, Weights, lstm
from ctx_jax.ops.recurrent_layer import LayerWeights, lstm_layer

T, B, D, P = 6, 3, 5, 4


def random_weights(seed: int, projected: bool, gates: int = 4) -> tuple[Weights, jax.Array, State]:
    keys = jax.random.split(jax.random.key(seed), 5)
    out = P if projected else D
    weights = Weights(
        jax.random.normal(keys[0], (out, gates * D)), jax.random.normal(keys[1], (D, P)) if projected else None
    )
    state = State(jax.random.normal(keys[2], (B, D)), 0.3 * jax.random.normal(keys[3], (B, out)))
    return weights, jax.random.normal(keys[4], (T, B, gates * D)), state


def single(
    run: Callable[..., Any], cell: Cell, weights: Weights, gates: jax.Array, mask: jax.Array | None, state: State
) -> tuple[jax.Array, State]:
    """A single direction of `lstm` or `gru`."""
    (outputs,), (last,) = run(cell, [weights], [gates], mask, [state])
    return outputs, last


def plain(
    cell: Cell, weights: Weights, gates: jax.Array, mask: jax.Array | None, state: State
) -> tuple[jax.Array, State]:
    """The formulas of the docstring, step by step, for autodiff and float64 alike."""

    def clip(values: jax.Array, bound: float | None) -> jax.Array:
        return values if bound is None else jnp.clip(values, -bound, bound)

    c, h = state
    outputs = []
    for t in range(gates.shape[0]):
        i, j, f, o = jnp.split(gates[t] + h @ weights.recurrent, 4, axis=-1)
        new_c = clip(jax.nn.sigmoid(f + 1.0) * c + jax.nn.sigmoid(i) * jnp.tanh(j), cell.cell_clip)
        new_h = jax.nn.sigmoid(o) * jnp.tanh(new_c)
        if weights.projection is not None:
            new_h = clip(new_h @ weights.projection, cell.projection_clip)
        real = jnp.ones((gates.shape[1], 1), bool) if mask is None else mask[t][:, None] > 0
        outputs.append(jnp.where(real, new_h, 0.0))
        c, h = jnp.where(real, new_c, c), jnp.where(real, new_h, h)
    return jnp.stack(outputs), State(c, h)


MASK = jnp.array([[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0]], jnp.float32)


@pytest.mark.parametrize("projected", [True, False])
@pytest.mark.parametrize("clips", [(None, None), (0.7, 0.5)])
@pytest.mark.parametrize("mask", [None, MASK], ids=["everywhere", "lengths 6 3 2"])
def test_values_and_gradients_equal_autodiff(
    projected: bool, clips: tuple[float | None, float | None], mask: jax.Array | None
) -> None:
    cell = Cell(*clips, "float32")
    weights, gates, state = random_weights(0, projected)
    directions = jax.random.normal(jax.random.key(9), (T, B, P if projected else D))

    def total(run: Callable[..., Any], weights: Weights, gates: jax.Array, state: State) -> jax.Array:
        outputs, last = run(cell, weights, gates, mask, state)
        return jnp.sum(outputs * directions) + jnp.sum(last.c**2) + jnp.sum(jnp.sin(last.h))

    ours = jax.jit(jax.value_and_grad(lambda *a: total(partial(single, lstm), *a), (0, 1, 2)))(weights, gates, state)
    reference = jax.jit(jax.value_and_grad(lambda *a: total(plain, *a), (0, 1, 2)))(weights, gates, state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), ours, reference)


@pytest.mark.parametrize("projected", [True, False])
@pytest.mark.parametrize("mask", [None, MASK], ids=["everywhere", "lengths 6 3 2"])
def test_a_layer_is_its_products_and_the_loop(
    projected: bool, mask: jax.Array | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the loop and before it, values and gradients, for two directions."""
    cell, wide = Cell(0.7, 0.5, "float32"), P if projected else D
    parts = [random_weights(seed, projected) for seed in range(2)]
    inputs = [jax.random.normal(jax.random.key(seed), (T, B, 3)) for seed in (7, 8)]
    kernels = [jax.random.normal(jax.random.key(seed), (3, 4 * D)) for seed in (5, 6)]
    biases = [gates[0, 0] for _, gates, _ in parts]
    layers = [
        LayerWeights(jnp.concatenate([kernel, weights.recurrent]), bias, weights.projection)
        for kernel, bias, (weights, _, _) in zip(kernels, biases, parts, strict=True)
    ]
    states = [state for _, _, state in parts]
    gates = [given @ kernel + bias[None, None] for given, kernel, bias in zip(inputs, kernels, biases, strict=True)]
    expected = [plain(cell, weights, own, mask, state) for (weights, _, state), own in zip(parts, gates, strict=True)]

    def total(layers: Any, inputs: Any, states: Any) -> jax.Array:
        outputs, last = lstm_layer(cell, layers, inputs, mask, states)
        assert outputs[0].shape == (T, B, wide)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves((outputs, last)))  # type: ignore[return-value]

    found = {}
    for bytes_ in (0, 2**25):  # of the kernel that is read within the loop
        monkeypatch.setattr(recurrent_layer, "_CACHED_BYTES", bytes_)
        outputs, last = jax.jit(lambda *given: lstm_layer(cell, *given))(layers, inputs, mask, states)
        for output, state, reference in zip(outputs, last, expected, strict=True):
            jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5), (output, state), reference)
        found[bytes_] = jax.jit(jax.value_and_grad(total, (0, 1, 2)))(layers, inputs, states)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5), *found.values())


def test_steps_may_be_split_with_the_state_between() -> None:
    cell = Cell(3.0, 3.0, "float32")
    weights, gates, state = random_weights(1, True)
    whole, last = single(lstm, cell, weights, gates, None, state)
    first, between = single(lstm, cell, weights, gates[:2], None, state)
    second, end = single(lstm, cell, weights, gates[2:], None, between)
    np.testing.assert_allclose(jnp.concatenate([first, second]), whole, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(end.c, last.c, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("run", [lstm, gru])
def test_directions_together_equal_each_alone(run: Callable[..., Any]) -> None:
    cell = Cell(0.9, 0.8, "float32")
    drawn = [random_weights(seed, True, 4 if run is lstm else 3) for seed in (4, 5)]
    weights, gates, states = (list(each) for each in zip(*drawn, strict=True))
    together = run(cell, weights, gates, MASK, states)
    alone = [single(run, cell, weights, gates, MASK, state) for weights, gates, state in drawn]
    for number, (outputs, last) in enumerate(alone):
        np.testing.assert_allclose(together[0][number], outputs, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(together[1][number].c, last.c, rtol=1e-6, atol=1e-6)
    assert not np.allclose(alone[0][0], alone[1][0])


@pytest.mark.slow
def test_bfloat16_stays_near_and_has_a_gradient() -> None:
    weights, gates, state = random_weights(2, True)
    weights = jax.tree.map(lambda a: 0.3 * a, weights)

    def total(weights: Weights, compute: str) -> jax.Array:
        outputs, _ = single(lstm, Cell(3.0, 3.0, compute), weights, gates, None, state)  # type: ignore[arg-type]
        return jnp.sum(outputs**2)

    exact, near = (jax.grad(total)(weights, compute) for compute in ("float32", "bfloat16"))
    for a, b in zip(jax.tree.leaves(exact), jax.tree.leaves(near), strict=True):
        assert b.dtype == jnp.float32
        assert float(jnp.linalg.norm(a - b) / jnp.linalg.norm(a)) < 2e-2


@pytest.mark.parametrize("projected", [True, False])
def test_gru_equals_numpy_and_freezes_at_padding(projected: bool) -> None:
    cell = Cell(0.8, 0.6, "float32")
    weights, gates, state = random_weights(3, projected, gates=3)
    outputs, last = single(gru, cell, weights, gates, MASK, state)
    x, (c, h) = np.asarray(gates), (np.asarray(part) for part in state)
    for t in range(T):
        hr, hz, hc = np.split(h @ np.asarray(weights.recurrent), 3, -1)
        xr, xz, xc = np.split(x[t], 3, -1)
        r, z = 1 / (1 + np.exp(-(xr + hr))), 1 / (1 + np.exp(-(xz + hz)))
        new_c = np.clip(z * c + (1 - z) * np.tanh(xc + r * hc), -0.8, 0.8)
        new_h = new_c if weights.projection is None else np.clip(new_c @ np.asarray(weights.projection), -0.6, 0.6)
        real = np.asarray(MASK)[t][:, None] > 0
        np.testing.assert_allclose(outputs[t], np.where(real, new_h, 0), rtol=1e-5, atol=1e-5)
        c, h = np.where(real, new_c, c), np.where(real, new_h, h)
    np.testing.assert_allclose(last.c, c, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(last.h, h, rtol=1e-5, atol=1e-5)
