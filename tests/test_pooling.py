"""Pooling words to one vector a sentence."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ctx_jax

# mask   row 0: 1 1 1 0     row 1: 0 1 1 0 (a hole in front)     row 2: 0 0 0 0
MASK = np.array([[1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]], bool)
VECTORS = np.random.default_rng(0).normal(-3.0, 1.0, (3, 4, 5)).astype(np.float32)
WAYS = {"mean": lambda x: x.mean(0), "max": lambda x: x.max(0), "first": lambda x: x[0], "last": lambda x: x[-1]}


@pytest.mark.parametrize("how", WAYS)
def test_pools_real_words_alone(how: str) -> None:
    found = np.asarray(jax.jit(ctx_jax.pool, static_argnums=2)(VECTORS, MASK, how))
    for row in (0, 1):
        np.testing.assert_allclose(found[row], WAYS[how](VECTORS[row][MASK[row]]), rtol=1e-6)
    assert not found[2].any(), "a sentence without words is zeros"
    assert ctx_jax.pool(VECTORS[:, :0], MASK[:, :0], how).shape == (3, 5)
    assert ctx_jax.pool(VECTORS[:0], MASK[:0], how).shape == (0, 5)
    layers = jax.vmap(partial(ctx_jax.pool, how=how), (0, None))(jnp.stack([VECTORS, 2 * VECTORS]), MASK)
    np.testing.assert_allclose(layers[1], 2 * found, rtol=1e-6)


@pytest.mark.parametrize("how", WAYS)
def test_gradients_are_finite_and_stay_off_the_padding(how: str) -> None:
    gradient = np.asarray(jax.grad(lambda vectors: ctx_jax.pool(vectors, MASK, how).sum())(jnp.asarray(VECTORS)))
    assert np.isfinite(gradient).all()
    assert not gradient[~MASK].any()
    np.testing.assert_allclose(gradient[:2].sum((1, 2)), 5.0, rtol=1e-5)


def test_the_mean_is_the_default_and_wrong_calls_are_refused() -> None:
    np.testing.assert_array_equal(ctx_jax.pool(VECTORS, MASK), ctx_jax.pool(VECTORS, MASK, "mean"))
    with pytest.raises(ValueError, match="how must be"):
        ctx_jax.pool(VECTORS, MASK, "median")
    with pytest.raises(ValueError, match=r"mask \[B, T\]"):
        ctx_jax.pool(VECTORS, MASK[:, :3])
