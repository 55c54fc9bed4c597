"""Our biLM against the same network in standard torch parts (benchmarks/torch_bilm.py), with the same weights."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctx_jax import losses
from ctx_jax.data.batch import BiLMBatch
from ctx_jax.encoders.elmo import BiLM
from ctx_jax.encoders.elmo.init import init_softmax
from ctx_jax.tokenizers.characters import char_ids

torch = pytest.importorskip("torch")

SMALL = BiLM(
    max_characters=12, character_dim=4, filters=((1, 3), (2, 4), (3, 5)), highways=2, dim=8, projection=6, depth=3,
    cell_clip=None, projection_clip=None, dropout=0.0,
)  # fmt: skip
SENTENCES = [["the", "bank", "of", "the", "river"], ["an"], [], ["a", "word", "of", "élan", "abcdefghijklmnop"]]
CLOSE = {"atol": 1e-5, "rtol": 1e-4}


@pytest.fixture
def torch_bilm(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark's module, which is not part of the package."""
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1] / "benchmarks")
    import torch_bilm

    torch.set_num_threads(1)
    return torch_bilm


run = jax.jit(BiLM.layers, static_argnums=0)


def large(model: BiLM) -> Any:
    """Encoder and softmax parameters large enough that every bias, gate and layer has an effect."""

    def make(key: jax.Array) -> Any:
        return {"encoder": model.init(key), "head": {"softmax": init_softmax(model, key, vocabulary=11)}}

    leaves, tree = jax.tree.flatten(jax.eval_shape(make, jax.random.key(0)))
    random = np.random.default_rng(0)
    return jax.tree.unflatten(tree, [random.normal(0, 0.4, leaf.shape).astype(np.float32) for leaf in leaves])


@pytest.mark.parametrize("dedup", [False, True])
@pytest.mark.parametrize(
    "change",
    [{}, {"activation": "tanh", "residual": False}, {"projection": 8, "highways": 0}, {"projection": 12, "dim": 12}],
    ids=str,
)
def test_every_layer_is_torchs(torch_bilm: Any, change: dict[str, Any], dedup: bool) -> None:
    model = dataclasses.replace(SMALL, **change)
    params = large(model)
    network = torch_bilm.load_params(torch_bilm.TorchBiLM(model, dedup=dedup), params)
    ids = char_ids(SENTENCES, model.max_characters, rows=5)
    layers = run(model, params["encoder"], {"char_ids": ids})
    with torch.no_grad():
        reference = network(torch.from_numpy(ids).long()).numpy()
    assert layers.values.shape == reference.shape == (4, 5, 5, 2 * model.projection)
    np.testing.assert_allclose(layers.values, reference, **CLOSE)


def test_word_inputs_are_torchs(torch_bilm: Any) -> None:
    model = dataclasses.replace(SMALL, token_input="words", vocabulary=11)
    params = large(model)
    network = torch_bilm.load_params(torch_bilm.TorchBiLM(model), params)
    ids = np.array([[1, 4, 5, 2], [1, 7, 2, -1], [1, 2, -1, -1]], np.int32)
    with torch.no_grad():
        reference = network(torch.from_numpy(ids).long()).numpy()
    np.testing.assert_allclose(run(model, params["encoder"], {"token_ids": ids}).values, reference, **CLOSE)


@pytest.mark.slow
def test_loss_and_gradients_are_torchs(torch_bilm: Any) -> None:
    params = large(SMALL)
    network = torch_bilm.load_params(torch_bilm.TorchBiLM(SMALL, vocabulary=11, dedup=True), params)
    ids = char_ids([["the", "bank", "of"], ["a", "the", "élan"]], SMALL.max_characters)  # <S> w1 w2 w3 </S>
    words = np.array([[0, 5, 6, 7, 1], [0, 8, 5, 9, 1]], np.int32)
    batch = BiLMBatch(ids[:, :-1], ids[:, :0:-1], words[:, 1:], words[:, -2::-1])

    def loss(params: Any) -> tuple[jax.Array, jax.Array]:
        terms, _ = losses.bilm(SMALL, params, jax.tree.map(jnp.asarray, batch), None)
        both = jnp.stack([terms[name][0] / terms[name][1] for name in ("forward", "backward")])
        return 0.5 * jnp.sum(both), both

    gradients, both = jax.jit(jax.grad(loss, has_aux=True))(params)
    targets = [torch.tensor(array.copy()).long() for array in (batch.forward_targets, batch.backward_targets)]
    reference = network.loss(torch.from_numpy(ids).long(), *targets)
    np.testing.assert_allclose(both, [value.item() for value in reference], rtol=1e-5)
    (0.5 * sum(reference)).backward()
    lstm, encoder, encoder_gradients = network.directions[1][2], network.tokens, gradients["encoder"]
    for ours, theirs in (
        (gradients["head"]["softmax"]["decoder"]["matrix"], network.softmax.weight.grad),
        (encoder_gradients["backward_2"]["projection"], lstm.weight_hr_l0.grad.T),
        (encoder_gradients["projection"]["kernel"], encoder.projection.weight.grad.T),
        (encoder_gradients["convolution_1"]["kernel"], encoder.convolutions[1].weight.grad.permute(2, 1, 0)),
        (encoder_gradients["characters"]["embedding"], encoder.embedding.weight.grad[1:]),
    ):
        np.testing.assert_allclose(ours, theirs.numpy(), **CLOSE)
