"""`ctx_jax.flax`: an encoder and a mix inside a user's own Linen and NNX module, frozen and trained."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import ctx_jax
from ctx_jax.encoders.elmo import BiLM, zero_carry
from ctx_jax.encoders.elmo.inputs import WordInputs
from ctx_jax.flax import LinenEncoder, LinenMix, NNXEncoder, NNXMix
from ctx_jax.io.errors import InputError
from ctx_jax.tokenizers.vocabulary import Vocabulary

WORDS = Vocabulary(("<S>", "</S>", "<UNK>", "the", "cat", "sat"))
TINY = BiLM(token_input="words", vocabulary=len(WORDS), dim=6, projection=5, depth=1)
CLASSES = 2
SENTENCES = ["the cat sat", "a", "", "cats"]
TAGS = np.array([[0, 1, 1], [0, 0, 0], [0, 0, 0], [1, 0, 0]], np.int32)


@pytest.fixture(scope="module")
def encoder() -> ctx_jax.Encoder:
    return ctx_jax.Encoder(TINY, TINY.init(jax.random.key(0)), WordInputs(WORDS))


@pytest.fixture(scope="module")
def inputs(encoder: ctx_jax.Encoder) -> dict[str, np.ndarray]:
    return encoder.tokenize(SENTENCES)


class LinenTagger(nn.Module):
    """As the module's docstring shows it."""

    encoder: ctx_jax.Encoder
    frozen: bool = True

    @nn.compact
    def __call__(self, inputs: Any) -> jax.Array:
        layers = LinenEncoder.of(self.encoder, frozen=self.frozen, name="encoder")(inputs)
        vectors = LinenMix(name="mix")(layers.values)
        return nn.Dense(CLASSES, name="head")(vectors)


class NNXTagger(nnx.Module):
    """As the module's docstring shows it."""

    def __init__(self, encoder: ctx_jax.Encoder, rngs: nnx.Rngs, *, frozen: bool = True) -> None:
        self.encoder = NNXEncoder(encoder, frozen=frozen)
        self.mix = NNXMix(encoder.model.num_layers)
        self.head = nnx.Linear(encoder.model.width, CLASSES, rngs=rngs)

    def __call__(self, inputs: Any) -> jax.Array:
        layers = self.encoder(inputs)
        return self.head(self.mix(layers.values))


def nats(logits: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(TAGS)).mean()


def expected_loss(params: Any, mixing: Any, head: Any, inputs: Any) -> jax.Array:
    """The same tagger of `embed` and `mix`."""
    vectors = ctx_jax.mix(ctx_jax.embed(TINY, params, inputs).values, mixing)
    return nats(vectors @ head["kernel"] + head["bias"][None, None])


EXPECTED = jax.jit(jax.value_and_grad(expected_loss, argnums=(0, 1, 2)))


def same(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance), found, expected)


def identical(found: Any, expected: Any) -> bool:
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, found, expected)))


OPTIMIZER = optax.chain(optax.add_decayed_weights(0.01), optax.sgd(0.5))


@pytest.mark.parametrize("frozen", [True, False])
def test_a_linen_tagger_learns(encoder: ctx_jax.Encoder, inputs: Any, frozen: bool) -> None:
    tagger = LinenTagger(encoder, frozen)
    variables = jax.jit(tagger.init)(jax.random.key(1), inputs)
    params, others = variables["params"], {name: part for name, part in variables.items() if name != "params"}
    assert params.keys() == {"mix", "head"} if frozen else params.keys() == {"encoder", "mix", "head"}
    own = (others["frozen"] if frozen else params)["encoder"]["encoder"]
    assert identical(own, encoder.params)
    state = OPTIMIZER.init(params)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        value, gradients = jax.value_and_grad(lambda params: nats(tagger.apply({"params": params, **others}, inputs)))(
            params
        )
        updates, state = OPTIMIZER.update(gradients, state, params)
        return value, gradients, optax.apply_updates(params, updates), state

    first, gradients, after, state = step(params, state)
    value, wanted = EXPECTED(encoder.params, params["mix"], params["head"], inputs)
    same(first, value)
    same((gradients["mix"], gradients["head"]), wanted[1:])
    if not frozen:
        same(gradients["encoder"]["encoder"], wanted[0])
    for _ in range(5):
        value, _, after, state = step(after, state)
    assert value < first
    if frozen:
        assert identical(others["frozen"]["encoder"]["encoder"], encoder.params)
    else:
        changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), after["encoder"]["encoder"], encoder.params)
        assert all(jax.tree.leaves(changed))
    assert np.abs(after["mix"]["weights"]).min() > 0


@pytest.mark.parametrize("frozen", [True, False])
def test_an_nnx_tagger_learns(encoder: ctx_jax.Encoder, inputs: Any, frozen: bool) -> None:
    tagger = NNXTagger(encoder, nnx.Rngs(1), frozen=frozen)
    optimizer = nnx.Optimizer(tagger, OPTIMIZER, wrt=nnx.Param)
    params = nnx.to_pure_dict(nnx.state(tagger, nnx.Param))
    assert params.keys() == {"mix", "head"} if frozen else params.keys() == {"encoder", "mix", "head"}

    def own() -> Any:
        return jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(tagger.encoder))["params"])

    assert identical(own(), encoder.params)

    @nnx.jit
    def step(tagger: NNXTagger, optimizer: Any, inputs: Any) -> Any:
        value, gradients = nnx.value_and_grad(lambda tagger: nats(tagger(inputs)))(tagger)
        optimizer.update(tagger, gradients)
        return value, gradients

    value, wanted = EXPECTED(encoder.params, params["mix"], params["head"], inputs)
    first, gradients = step(tagger, optimizer, inputs)
    same(first, value)
    found = nnx.to_pure_dict(gradients)
    same((found["mix"], found["head"]), wanted[1:])
    if not frozen:
        same(found["encoder"]["params"], wanted[0])
    for _ in range(5):
        value, _ = step(tagger, optimizer, inputs)
    assert value < first
    if frozen:
        assert identical(own(), encoder.params)
    else:
        assert all(jax.tree.leaves(jax.tree.map(lambda a, b: not np.array_equal(a, b), own(), encoder.params)))
    assert np.abs(np.asarray(tagger.mix.weights.get_value())).min() > 0


def test_the_modules_take_a_carry_and_give_all_of_the_layers(encoder: ctx_jax.Encoder, inputs: Any) -> None:
    embed = jax.jit(ctx_jax.embed, static_argnums=0)
    before = jax.tree.map(lambda leaf: leaf + 0.1, zero_carry(TINY, len(SENTENCES)))
    expected = embed(TINY, encoder.params, inputs, carry=before)
    linen, module = LinenEncoder.of(encoder), NNXEncoder(encoder)
    same(jax.jit(linen.apply)({"frozen": {"encoder": encoder.params}}, inputs, carry=before), expected)
    same(nnx.jit(lambda module: module(inputs, carry=before))(module), expected)


def test_a_linen_encoder_without_parameters_starts_from_the_models(inputs: Any) -> None:
    key, shapes = jax.random.key(3), jax.eval_shape(TINY.init, jax.random.key(0))
    for frozen, collection in ((True, "frozen"), (False, "params")):
        variables = jax.eval_shape(LinenEncoder(TINY, frozen=frozen).init, key, inputs)
        assert variables == {collection: {"encoder": shapes}}


def test_a_mix_hides_what_the_mask_hides(encoder: ctx_jax.Encoder) -> None:
    values = jax.random.normal(jax.random.key(0), (3, 2, 4, 5))
    mask = jnp.array([[True, True, False, False], [True, True, True, True]])
    linen = LinenMix()
    variables = linen.init(jax.random.key(0), values)
    assert jax.tree.map(jnp.shape, variables["params"]) == {"gamma": (), "weights": (3,)}
    expected = jnp.where(mask[..., None], values.mean(0), 0)
    same(linen.apply(variables, values, mask=mask), expected)
    same(NNXMix(3)(values, mask=mask), expected)
    normed = ctx_jax.mix(values, ctx_jax.init_mix(3), mask=mask, layer_norm="allennlp")
    same(LinenMix(layer_norm="allennlp").apply(variables, values, mask=mask), normed)
    same(NNXMix(3, layer_norm="allennlp")(values, mask=mask), normed)
    with pytest.raises(InputError, match="3"):
        NNXMix(2)(values)


@pytest.mark.slow
def test_embed_works_inside_modules_of_ones_own(encoder: ctx_jax.Encoder, inputs: Any) -> None:
    """Without `ctx_jax.flax`: parameters closed over, the mix a parameter of the module."""

    class Linen(nn.Module):
        @nn.compact
        def __call__(self, inputs: Any) -> jax.Array:
            mixing = self.param("mix", lambda _: ctx_jax.init_mix(2))
            return nn.Dense(2)(ctx_jax.mix(ctx_jax.embed(TINY, encoder.params, inputs).values, mixing))

    class NNX(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.mix = nnx.data(jax.tree.map(nnx.Param, ctx_jax.init_mix(2)))
            self.dense = nnx.Linear(10, 2, rngs=rngs)

        def __call__(self, inputs: Any) -> jax.Array:
            mixing = jax.tree.map(lambda leaf: leaf[...], self.mix, is_leaf=lambda leaf: isinstance(leaf, nnx.Param))
            return self.dense(ctx_jax.mix(ctx_jax.embed(TINY, encoder.params, inputs).values, mixing))

    mean = jax.jit(ctx_jax.embed, static_argnums=0)(TINY, encoder.params, inputs).values.mean(0)
    output, variables = jax.jit(Linen().init_with_output)(jax.random.key(0), inputs)
    same(output, mean @ variables["params"]["Dense_0"]["kernel"])
    module = NNX(nnx.Rngs(0))
    same(nnx.jit(lambda module, inputs: module(inputs))(module, inputs), mean @ module.dense.kernel[...])
