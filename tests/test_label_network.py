"""What a mix and a linear layer learn from stored vectors: a planted signal at its layer, and nothing from noise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys.bag_of_characters import BagOfCharacters

from ctx_jax.losses.labels import label_loss
from ctx_jax.ops.dropout import Dropout
from ctx_jax.tasks.label_network import LabelNetwork, mix_metrics

L, D, T, N = 4, 16, 3, 512


class Deep(BagOfCharacters):
    """A model of L layers, of which only the numbers count here."""

    num_layers = L  # type: ignore[assignment]


def trained(network: LabelNetwork, inputs: dict[str, np.ndarray], labels: np.ndarray) -> dict:
    params = {"encoder": {}, "head": network.init_heads(jax.random.key(0))}
    chain = optax.adam(0.02)

    def loss(params: dict) -> jax.Array:
        logits = network.logits(params, inputs)
        total, weight = label_loss(logits, labels, jnp.ones(labels.shape, jnp.float32), np.ones(2, np.float32))["label"]
        return total / weight

    @jax.jit
    def step(params: dict, moments: optax.OptState) -> tuple[dict, optax.OptState]:
        with jax.numpy_dtype_promotion("standard"):
            updates, moments = chain.update(jax.grad(loss)(params), moments)
            return optax.apply_updates(params, updates), moments

    moments = chain.init(params)
    for _ in range(150):
        params, moments = step(params, moments)
    return params


def accuracy(network: LabelNetwork, params: dict, inputs: dict[str, np.ndarray], labels: np.ndarray) -> float:
    return float(np.mean(np.asarray(network.logits(params, inputs)).argmax(-1) == labels))


@pytest.mark.parametrize("pooling", ["mean", None])
@pytest.mark.parametrize("layer", [0, 2])
def test_a_planted_signal_is_found_in_its_layer(pooling: None, layer: int) -> None:
    random = np.random.default_rng(layer)
    inputs = {"vectors": random.normal(size=(N, L, T, D)).astype(np.float32), "mask": np.ones((N, T), bool)}
    planted = inputs["vectors"][:, layer, :, 0]
    labels = ((planted.mean(axis=1) if pooling else planted) > 0).astype(np.int32)
    network = LabelNetwork(Deep(), ("no", "yes"), pooling=pooling)
    params = trained(network, inputs, labels)
    weights = mix_metrics(params)
    assert max(range(L), key=lambda each: weights[f"mix_{each}"]) == layer
    assert weights[f"mix_{layer}"] > 0.7 and accuracy(network, params, inputs, labels) > 0.9


def test_random_labels_give_nothing_on_other_texts() -> None:
    random = np.random.default_rng(0)
    sets = [
        (
            {"vectors": random.normal(size=(N, L, T, D)).astype(np.float32), "mask": np.ones((N, T), bool)},
            random.integers(0, 2, N).astype(np.int32),
        )
        for _ in range(2)
    ]
    network = LabelNetwork(Deep(), ("no", "yes"), pooling="mean")
    params = trained(network, *sets[0])
    share = accuracy(network, params, *sets[1])
    assert abs(share - 0.5) < 4 * 0.5 / N**0.5  # four standard deviations of chance


def test_dropout_is_by_global_row_and_off_without_a_key() -> None:
    random = np.random.default_rng(1)
    inputs = {"vectors": random.normal(size=(8, L, T, D)).astype(np.float32), "mask": np.ones((8, T), bool)}
    network = LabelNetwork(Deep(), ("no", "yes"), pooling="mean", dropout=0.5)
    params, key = {"encoder": {}, "head": network.init_heads(jax.random.key(0))}, jax.random.key(3)
    whole = network.logits(params, inputs, Dropout(key))
    half = network.logits(params, jax.tree.map(lambda array: array[4:], inputs), Dropout(key, jnp.arange(4, 8)))
    np.testing.assert_allclose(half, whole[4:], atol=1e-6)
    assert np.abs(whole - network.logits(params, inputs)).max() > 0
