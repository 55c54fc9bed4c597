"""What a mix and a head learn from stored vectors: a planted signal at its layer or in the order of labels, and nothing
from noise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys.bag_of_characters import BagOfCharacters

from ctx_jax.heads import TaggerHead
from ctx_jax.losses.labels import crf_loss, label_loss
from ctx_jax.ops.dropout import Dropout, dropout_mask, fold_seeds, row_seeds
from ctx_jax.tasks.label_network import LabelNetwork, mix_metrics

L, D, T, N = 4, 16, 3, 512


class Deep(BagOfCharacters):
    """A model of L layers, of which only the numbers count here."""

    num_layers = L  # type: ignore[assignment]


def trained(network: LabelNetwork, inputs: dict[str, np.ndarray], labels: np.ndarray) -> dict:
    params = {"encoder": {}, "head": network.init_heads(jax.random.key(0))}
    chain = optax.adam(0.02)

    def loss(params: dict) -> jax.Array:
        scored, weights = network.scored(params, inputs), jnp.ones(labels.shape, jnp.float32)
        if scored.transitions is None:
            terms = label_loss(scored.logits, labels, weights, np.ones(2, np.float32))
        else:
            terms = crf_loss(scored.logits, scored.mask, scored.transitions, labels, weights)
        return terms["label"][0] / terms["label"][1]

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
    return float(np.mean(np.asarray(network.best(network.scored(params, inputs))) == labels))


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


@pytest.mark.slow
def test_a_crf_learns_what_follows_a_label_and_a_linear_layer_does_not() -> None:
    """Only the first word's vector says its label; each other label is unlike the one before it."""
    random = np.random.default_rng(0)
    first = random.integers(0, 2, N)
    labels = ((first[:, None] + np.arange(6)) % 2).astype(np.int32)
    vectors = np.zeros((N, L, 6, D), np.float32)
    vectors[:, :, 0, 0] = 2 * first[:, None] - 1
    inputs = {"vectors": vectors, "mask": np.ones((N, 6), bool)}
    names = ("no", "yes")
    linear, crf = LabelNetwork(Deep(), names), LabelNetwork(Deep(), names, head=TaggerHead(names, crf=True))
    assert accuracy(crf, trained(crf, inputs, labels), inputs, labels) == 1.0
    chance = 1 / 6 + 5 / 6 * 0.5
    assert abs(accuracy(linear, trained(linear, inputs, labels), inputs, labels) - chance) < 0.05


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


@pytest.mark.slow
def test_dropout_is_by_global_row_and_off_without_a_key() -> None:
    random = np.random.default_rng(1)
    inputs = {"vectors": random.normal(size=(8, L, T, D)).astype(np.float32), "mask": np.ones((8, T), bool)}
    network = LabelNetwork(Deep(), ("no", "yes"), pooling="mean", dropout=0.5)
    params, key = {"encoder": {}, "head": network.init_heads(jax.random.key(0))}, jax.random.key(3)
    whole = network.logits(params, inputs, Dropout(key))
    half = network.logits(params, jax.tree.map(lambda array: array[4:], inputs), Dropout(key, jnp.arange(4, 8)))
    np.testing.assert_allclose(half, whole[4:], atol=1e-6)
    assert np.abs(whole - network.logits(params, inputs)).max() > 0


def test_a_head_drops_out_apart_from_every_layer_of_its_encoder() -> None:
    """Two independent masks of rate 0.5 agree in half of their values."""
    rows, width = 64, Deep().width
    network = LabelNetwork(Deep(), tuple(map(str, range(width))), pooling="mean", dropout=0.5)
    params = network.init_heads(jax.random.key(0))
    scores = {"scores": {"kernel": jnp.eye(width), "bias": jnp.zeros(width)}}
    dropout = Dropout(jax.random.key(1), jnp.arange(rows))
    ones = jnp.ones((rows, width))
    scored = network.scores({"head": params | {"labels": scores}}, ones, jnp.ones(rows, bool), dropout)
    kept = np.asarray(scored.logits) > 0
    seeds = row_seeds(dropout.key, dropout.rows)
    for own in (seeds, *(fold_seeds(seeds, layer) for layer in range(1, 50))):
        for number in range(4):
            same = np.mean(kept == np.asarray(dropout_mask(own, number, 0.5, (width,))))
            assert abs(same - 0.5) < 5 * 0.5 / np.sqrt(rows * width)
