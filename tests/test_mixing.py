"""Scalar mixes: the original's numbers, and the laws of the formula."""

from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ctx_jax
from ctx_jax.embedding.mixing import Mixing

CASES = ("emb_relu_skip_clip", "emb_tanh_noskip")
BATCHES = (0, 1, 2)


def softmax(weights: np.ndarray) -> np.ndarray:
    powers = np.exp(weights - weights.max())
    return powers / powers.sum()


def random_layers(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    mask = np.arange(5)[None] < np.array([5, 2, 0])[:, None]
    return generator.normal(1.0, 2.0, (4, 3, 5, 6)).astype(np.float32) * mask[None, :, :, None], mask


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batch", BATCHES)
def test_mixes_are_the_originals(golden: Path, case: str, batch: int) -> None:
    with h5py.File(golden / case / "expected.hdf5") as file:
        group, facts = file[str(batch)], dict(file.attrs)
        mask = group["mask"][()].astype(bool)
        values = np.moveaxis(group["lm_embeddings"][()], 1, 0) * mask[None, :, :, None]
        raw = jnp.asarray(facts["mix_W_raw"], jnp.float32)
        for name, layer_norm in (("mix", None), ("mix_ln", "bilm_tf")):
            mixing = {"weights": raw, "gamma": jnp.float32(facts[f"gamma_{name}"])}
            found = ctx_jax.mix(values, mixing, mask=mask, layer_norm=layer_norm)
            np.testing.assert_allclose(np.asarray(found)[mask], group[name][()][mask], atol=1e-5, rtol=1e-5)
        top = facts["gamma_top"] * values[-1]
        np.testing.assert_allclose(top[mask], group["top_only"][()][mask], atol=1e-5, rtol=1e-5)
        penalty = ctx_jax.mix_penalty({"weights": raw, "gamma": jnp.float32(1)}, file["l2_reg_mix"].attrs["lambda"])
        np.testing.assert_allclose(penalty, file["l2_reg_mix"][()], rtol=1e-5)


def test_a_new_mix_is_the_plain_mean() -> None:
    values, _ = random_layers()
    mixing = ctx_jax.init_mix(4)
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in mixing.items()} == {
        "weights": ((4,), jnp.float32),
        "gamma": ((), jnp.float32),
    }
    np.testing.assert_allclose(ctx_jax.mix(values, mixing), values.mean(0), atol=1e-6)
    assert ctx_jax.mix_penalty(mixing) == 0


def test_weights_pass_the_softmax_and_a_shift_changes_nothing() -> None:
    values, _ = random_layers()
    weights = np.array([0.3, -1.0, 2.0, 0.0], np.float32)
    expected = 1.7 * np.tensordot(softmax(weights), values, 1)
    for shift in (0.0, 5.0):
        mixing = {"weights": jnp.asarray(weights + np.float32(shift)), "gamma": jnp.float32(1.7)}
        np.testing.assert_allclose(ctx_jax.mix(values, mixing), expected, atol=1e-5)
    mixing = {"weights": jnp.asarray(weights), "gamma": jnp.float32(1.7)}
    np.testing.assert_allclose(ctx_jax.mix_penalty(mixing, 0.5), 0.5 * (weights**2).sum(), rtol=1e-6)


@pytest.mark.parametrize(("variant", "epsilon"), [("bilm_tf", 1e-12), ("allennlp", 1e-13)])
@pytest.mark.parametrize("scale", [1.0, 1e-6])  # at 1e-6 the variance is of the size of epsilon
def test_layer_norm_counts_real_elements_alone(variant: str, epsilon: float, scale: float) -> None:
    values, mask = random_layers()
    values = values * np.float32(scale)
    normed = []
    for layer in values.astype(np.float64):
        real = layer[mask]
        normed.append((layer - real.mean()) / np.sqrt(real.var() + epsilon))
    expected = np.mean(normed, 0) * mask[..., None]
    found = ctx_jax.mix(values, ctx_jax.init_mix(4), mask=mask, layer_norm=variant)
    np.testing.assert_allclose(found, expected, atol=2e-5, rtol=1e-4)
    longer = np.pad(values, ((0, 0), (0, 1), (0, 3), (0, 0)), constant_values=9.0)
    again = ctx_jax.mix(longer, ctx_jax.init_mix(4), mask=np.pad(mask, ((0, 1), (0, 3))), layer_norm=variant)
    np.testing.assert_allclose(again[:3, :5], found, atol=1e-6)
    assert not np.asarray(again)[3:].any()
    assert not np.asarray(again)[:, 5:].any()


@pytest.mark.slow
def test_a_batch_without_words_has_finite_values_and_gradients() -> None:
    values, mask = np.zeros((2, 1, 3, 4), np.float32), np.zeros((1, 3), bool)

    def total(mixing: dict, values: jax.Array) -> jax.Array:
        return ctx_jax.mix(values, mixing, mask=mask, layer_norm="bilm_tf").sum()

    value, gradients = jax.value_and_grad(total, argnums=(0, 1))(ctx_jax.init_mix(2), jnp.asarray(values))
    assert value == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer_norm": "bilm_tf"}, "mask=layers.mask"),
        ({"layer_norm": "torch", "mask": np.ones((3, 5), bool)}, "layer_norm must be"),
        ({"mask": np.ones((3, 4), bool)}, r"mask must be \[B, T\]"),
        ({"mixing": ctx_jax.init_mix(3)}, r"init_mix\(4\)"),
        ({"mixing": {"weights": jnp.zeros(4), "gamma": jnp.ones(4)}}, "one number"),
        ({"values": np.zeros((3, 5, 6), np.float32)}, r"\[L, B, T, D\]"),
    ],
)
def test_wrong_calls_say_what_to_give(change: dict, message: str) -> None:
    arguments = {"values": random_layers()[0], "mixing": ctx_jax.init_mix(4)} | change
    with pytest.raises(ValueError, match=message):
        ctx_jax.mix(arguments.pop("values"), arguments.pop("mixing"), **arguments)
    with pytest.raises(ValueError, match="at least one layer"):
        ctx_jax.init_mix(0)


@pytest.mark.slow
def test_the_norm_of_a_row_is_that_of_a_batch_of_one() -> None:
    """AllenNLP's formula without the other sentences."""
    values, mask = random_layers()
    mixing: Mixing = {"weights": jnp.array([0.5, 0.0, -1.0, 2.0]), "gamma": jnp.float32(1.3)}
    together = ctx_jax.mix(values, mixing, mask=mask, layer_norm="row")
    for row, real in enumerate(mask.sum(1)):
        alone = ctx_jax.mix(values[:, row : row + 1], mixing, mask=mask[row : row + 1], layer_norm="allennlp")
        np.testing.assert_allclose(together[row], alone[0], atol=1e-6)
        own = values[:, row, :real].astype(np.float64)
        if real:
            own = (own - own.mean((1, 2), keepdims=True)) / np.sqrt(own.var((1, 2), keepdims=True) + 1e-13)
        expected = 1.3 * np.tensordot(softmax(np.array([0.5, 0.0, -1.0, 2.0])), own, 1)
        np.testing.assert_allclose(together[row, :real], expected, atol=1e-5)
        assert not np.asarray(together[row, real:]).any()
