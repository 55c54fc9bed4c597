"""`embed`: the original's layers and states, and the laws of a pure function."""

from pathlib import Path
from typing import Any

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ctx_jax.encoders.transformer.config import Transformer
from flax import linen, nnx

import ctx_jax
from ctx_jax.encoders.elmo import model as bilm
from ctx_jax.encoders.elmo.model import BiLM
from ctx_jax.tokenizers.characters import char_ids

TINY = BiLM(filters=((1, 4), (2, 8)), character_dim=4, highways=1, dim=6, projection=5, max_characters=9)
SENTENCES = [["the", "cat", "sat", "."], ["a"], [], ["", "extraordinarily", "été"]]
ROWS, LENGTH = len(SENTENCES), 4
STEP = jax.jit(ctx_jax.embed, static_argnums=0)

Params = dict[str, Any]


def inputs_of(sentences: list[list[str]], rows: int | None = ROWS, length: int | None = LENGTH) -> dict[str, Any]:
    return {"char_ids": char_ids(sentences, TINY.max_characters, rows=rows, length=length)}


@pytest.fixture(scope="module")
def params() -> Params:
    """Parameters large enough for every part to matter, biases included."""
    shapes = jax.eval_shape(lambda key: bilm.init(TINY, key), jax.random.key(0))
    generator = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(generator.normal(0, 0.4, leaf.shape), jnp.float32), shapes)


@pytest.fixture(scope="module")
def layers(params: Params) -> ctx_jax.Layers:
    return STEP(TINY, params, inputs_of(SENTENCES))


def same(found: Any, expected: Any, tolerance: float = 1e-6) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance), found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["emb_relu_skip_clip", "emb_tanh_noskip"])
def test_every_layer_mask_and_state_is_the_originals(golden: Path, case: str) -> None:
    """Nine batches of varying size, padded to one shape: rows that are not there keep their state."""
    encoder = ctx_jax.load(options=golden / case / "options.json", weights=golden / case / "lm_weights.hdf5")
    carry, half = bilm.zero_carry(encoder.model, 4), encoder.model.projection
    with h5py.File(golden / case / "expected.hdf5") as file:
        longest = max(file[str(i)]["char_ids"].shape[1] for i in range(9))
        for i in range(9):
            ids, mask = file[f"{i}/char_ids"][()], file[f"{i}/mask"][()].astype(bool)
            rows, length = mask.shape
            padded = np.zeros((4, longest, ids.shape[2]), np.int32)
            padded[:rows, : length + 2] = ids
            layers = STEP(encoder.model, encoder.params, {"char_ids": padded}, carry=carry)
            carry, found = layers.carry, np.asarray(layers.values)
            np.testing.assert_array_equal(layers.mask[:rows, :length], mask)
            assert layers.mask.sum() == mask.sum() == file[f"{i}/lengths"][()].sum()
            assert not found[:, ~np.asarray(layers.mask)].any()
            expected = np.moveaxis(file[f"{i}/lm_embeddings"][()], 1, 0)
            np.testing.assert_allclose(found[:, :rows, :length][:, mask], expected[:, mask], atol=1e-5, rtol=1e-5)
            tokens = file[f"{i}/token_embeddings_with_bos_eos"][()][:, 1:-1]
            np.testing.assert_allclose(found[0, :rows, :length, :half][mask], tokens[mask], atol=1e-5, rtol=1e-5)
            for direction in bilm.DIRECTIONS:
                for layer, state in enumerate(carry[direction]):
                    for name, leaf in state.items():
                        after = file[f"{i}/state_after/{direction}/{layer}/{name}"][()]
                        np.testing.assert_allclose(leaf, after, atol=1e-5, rtol=1e-5)


def test_shapes_masks_and_zeros(layers: ctx_jax.Layers) -> None:
    assert layers.values.shape == (3, ROWS, LENGTH, 10)
    assert layers.values.dtype == jnp.float32
    expected = [[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]]
    np.testing.assert_array_equal(layers.mask, np.array(expected, bool))
    assert not np.asarray(layers.values)[:, ~np.asarray(layers.mask)].any()
    assert np.abs(np.asarray(layers.values)[:, np.asarray(layers.mask)]).min(axis=-1).max() > 0
    np.testing.assert_array_equal(layers.values[0, ..., :5], layers.values[0, ..., 5:])


@pytest.mark.slow
def test_markers_may_stay_and_allennlp_counts_them(params: Params, layers: ctx_jax.Layers) -> None:
    kept = jax.jit(ctx_jax.embed, static_argnums=0, static_argnames="markers")(
        TINY, params, inputs_of(SENTENCES), markers=True
    )
    values, mask = np.asarray(kept.values), np.asarray(kept.mask)
    assert (values.shape, mask.sum(1).tolist()) == ((3, ROWS, LENGTH + 2, 10), [6, 3, 2, 5])
    assert not values[:, ~mask].any()
    same(np.where(mask[:, 2:, None], values[:, :, 1:-1], 0), layers.values)
    same(kept.carry, layers.carry)
    # The markers' own vectors: the streams of "<S> a </S>", which nobody pads or reverses by length.
    tokens = bilm.token_vectors(TINY, params, inputs_of([["a"]], None, None)["char_ids"] - 1)
    outputs, _ = bilm.streams(TINY, params, {"forward": tokens, "backward": tokens[:, ::-1]})
    for layer in range(2):
        both = [outputs["forward"][layer][0], outputs["backward"][layer][0, ::-1]]
        same(values[layer + 1, 1, :3], np.concatenate(both, axis=-1))
    same(values[0, 1, :3], np.concatenate([tokens[0], tokens[0]], axis=-1))
    # AllenNLP: mean and variance over words and markers, eps 1e-13, then the markers are cut off.
    real = values[:, mask].astype(np.float64)  # [L, tokens, D]
    centred = values - real.mean((1, 2))[:, None, None, None]
    normed = centred / np.sqrt(real.var((1, 2)) + 1e-13)[:, None, None, None]
    expected = np.where(mask[:, 2:, None], normed.mean(0)[:, 1:-1], 0)
    mixed = ctx_jax.mix(kept.values, ctx_jax.init_mix(3), mask=kept.mask, layer_norm="allennlp")[:, 1:-1]
    same(np.where(mask[:, 2:, None], mixed, 0), expected, 1e-5)
    without = ctx_jax.mix(layers.values, ctx_jax.init_mix(3), mask=layers.mask, layer_norm="allennlp")
    assert np.abs(without - expected).max() > 1e-3
    none = jax.eval_shape(lambda: ctx_jax.embed(TINY, params, inputs_of([], 0, LENGTH), markers=True))
    assert (none.values.shape, none.mask.shape) == ((3, 0, 6, 10), (0, 6))


def test_the_same_call_twice_is_bit_identical(params: Params, layers: ctx_jax.Layers) -> None:
    again = STEP(TINY, params, inputs_of(SENTENCES))
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, again, layers)))


@pytest.mark.slow
def test_padded_equals_unpadded_and_batched_equals_single(params: Params, layers: ctx_jax.Layers) -> None:
    for row, sentence in enumerate(SENTENCES):
        alone = STEP(TINY, params, inputs_of([sentence], None, None))
        same(alone.values[:, 0], layers.values[:, row, : len(sentence)])
        same(jax.tree.map(lambda leaf: leaf[0], alone.carry), jax.tree.map(lambda leaf, at=row: leaf[at], layers.carry))
    longer = STEP(TINY, params, inputs_of(SENTENCES, ROWS + 3, LENGTH + 5))
    same(longer.values[:, :ROWS, :LENGTH], layers.values)
    assert not np.asarray(longer.values)[:, ROWS:].any()
    assert not np.asarray(longer.mask)[:, LENGTH:].any()


def test_the_order_of_rows_changes_nothing(params: Params, layers: ctx_jax.Layers) -> None:
    order = np.array([2, 0, 3, 1])
    moved = STEP(TINY, params, inputs_of([SENTENCES[row] for row in order]))
    same(moved.values, layers.values[:, order])


def test_the_state_is_an_argument(params: Params, layers: ctx_jax.Layers) -> None:
    started = STEP(TINY, params, inputs_of(SENTENCES), carry=bilm.zero_carry(TINY, ROWS))
    same(started, layers)
    after = STEP(TINY, params, inputs_of(SENTENCES), carry=layers.carry)
    same(after.values[0], layers.values[0])
    assert np.abs(after.values[1, 0] - layers.values[1, 0]).max() > 1e-3
    nothing = STEP(TINY, params, inputs_of([]), carry=layers.carry)
    same(nothing.carry, layers.carry, 0)


@pytest.mark.slow
def test_gradients_flow_where_the_caller_lets_them(params: Params) -> None:
    def loss(params: Params, mixing: dict[str, Any], frozen: bool) -> jax.Array:
        params = jax.lax.stop_gradient(params) if frozen else params
        vectors = ctx_jax.mix(ctx_jax.embed(TINY, params, inputs_of(SENTENCES)).values, mixing)
        return jnp.sum(vectors * jnp.cos(jnp.arange(vectors.size, dtype=jnp.float32)).reshape(vectors.shape))

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)), static_argnums=2)
    through, mixing = gradient(params, ctx_jax.init_mix(3), False)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves((through, mixing)))
    stopped, again = gradient(params, ctx_jax.init_mix(3), True)
    assert not any(np.abs(leaf).max() for leaf in jax.tree.leaves(stopped))
    same(again, mixing, 1e-5)


def test_forward_mode_is_refused(params: Params) -> None:
    one = jax.tree.map(jnp.ones_like, params)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda tree: ctx_jax.embed(TINY, tree, inputs_of(SENTENCES)).values, (params,), (one,))


def test_vmap_over_batches_equals_a_loop(params: Params, layers: ctx_jax.Layers) -> None:
    other = inputs_of(SENTENCES[::-1])
    stacked = {"char_ids": np.stack([inputs_of(SENTENCES)["char_ids"], other["char_ids"]])}
    both = jax.jit(jax.vmap(lambda inputs: ctx_jax.embed(TINY, params, inputs)))(stacked)
    same(jax.tree.map(lambda leaf: leaf[0], both), layers)
    same(both.values[1], layers.values[:, ::-1])


def test_scan_carries_the_state(params: Params) -> None:
    batches = [inputs_of(SENTENCES), inputs_of(SENTENCES[::-1])]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *batches)

    def step(carry: bilm.Carry, inputs: dict[str, Any]) -> tuple[bilm.Carry, jax.Array]:
        layers = ctx_jax.embed(TINY, params, inputs, carry=carry)
        return layers.carry, layers.values

    carry, values = jax.jit(lambda: jax.lax.scan(step, bilm.zero_carry(TINY, ROWS), stacked))()
    looped = bilm.zero_carry(TINY, ROWS)
    for number, inputs in enumerate(batches):
        layers = STEP(TINY, params, inputs, carry=looped)
        looped = layers.carry
        same(values[number], layers.values)
    same(carry, looped)


@pytest.mark.slow
def test_inside_a_linen_and_an_nnx_module(params: Params, layers: ctx_jax.Layers) -> None:
    class Linen(linen.Module):
        @linen.compact
        def __call__(self, inputs: dict[str, Any]) -> jax.Array:
            mixing = self.param("mix", lambda _: ctx_jax.init_mix(3))
            return linen.Dense(2)(ctx_jax.mix(ctx_jax.embed(TINY, params, inputs).values, mixing))

    class Nnx(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.mix = nnx.data(jax.tree.map(nnx.Param, ctx_jax.init_mix(3)))
            self.dense = nnx.Linear(10, 2, rngs=rngs)

        def __call__(self, inputs: dict[str, Any]) -> jax.Array:
            mixing = jax.tree.map(lambda leaf: leaf[...], self.mix, is_leaf=lambda leaf: isinstance(leaf, nnx.Param))
            return self.dense(ctx_jax.mix(ctx_jax.embed(TINY, params, inputs).values, mixing))

    inputs, mean = inputs_of(SENTENCES), layers.values.mean(0)
    module = Linen()
    output, variables = jax.jit(module.init_with_output)(jax.random.key(0), inputs)
    same(output, mean @ variables["params"]["Dense_0"]["kernel"], 1e-5)
    other = Nnx(nnx.Rngs(0))
    same(nnx.jit(lambda module, inputs: module(inputs))(other, inputs), mean @ other.dense.kernel[...], 1e-5)


def test_a_plain_optax_loop_trains_the_mix_alone(params: Params) -> None:
    inputs, before = inputs_of(SENTENCES), jax.tree.map(np.array, params)
    target = 2 * STEP(TINY, params, inputs).values[2]  # the top layer, twice: the mix can reach it
    optimizer = optax.sgd(5.0)
    mixing = ctx_jax.init_mix(3)
    state = optimizer.init(mixing)

    def loss(mixing: dict[str, Any]) -> jax.Array:
        layers = ctx_jax.embed(TINY, params, inputs)
        vectors = ctx_jax.mix(layers.values, mixing, mask=layers.mask)
        return jnp.mean(jnp.square(vectors - target)) + ctx_jax.mix_penalty(mixing, 1e-5)

    @jax.jit
    def train(mixing: dict[str, Any], state: Any) -> tuple[Any, Any, jax.Array]:
        value, gradients = jax.value_and_grad(loss)(mixing)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(mixing, updates), state, value

    losses = []
    for _ in range(60):
        mixing, state, value = train(mixing, state)
        losses.append(float(value))
    assert losses[-1] < 0.5 * losses[0]
    assert int(jnp.argmax(mixing["weights"])) == 2
    same(params, before, 0)


@pytest.mark.slow
def test_one_word_and_three_thousand(params: Params) -> None:
    words = [f"w{number % 7}" for number in range(3000)]
    layers = STEP(TINY, params, inputs_of([words, ["w0"]], 2, 3000))
    assert np.isfinite(layers.values).all()
    np.testing.assert_array_equal(layers.mask.sum(1), [3000, 1])
    # What stands to the right of a word does not reach the forward direction, nor what stands to the left the backward.
    start = STEP(TINY, params, inputs_of([words[:5], words[-5:]], 2, 5)).values
    same(layers.values[:, 0, :5, :5], start[:, 0, :, :5], 1e-5)
    same(layers.values[:, 0, -5:, 5:], start[:, 1, :, 5:], 1e-5)


def test_no_rows_and_no_words(params: Params) -> None:
    none = STEP(TINY, params, inputs_of([], None, None))
    assert (none.values.shape, none.mask.shape) == ((3, 0, 0, 10), (0, 0))
    assert jax.tree.map(jnp.shape, none.carry) == jax.tree.map(jnp.shape, bilm.zero_carry(TINY, 0))
    empty = STEP(TINY, params, inputs_of([[], []], None, None))
    assert (empty.values.shape, empty.mask.shape) == ((3, 2, 0, 10), (2, 0))


def test_a_model_of_words_reads_ids() -> None:
    model = BiLM(inputs="words", vocabulary=7, dim=6, projection=5)
    params = bilm.init(model, jax.random.key(0))
    ids = np.array([[0, 4, 5, 1], [0, 6, 1, -1]], np.int32)
    layers = STEP(model, params, {"token_ids": ids})
    np.testing.assert_array_equal(layers.mask, [[True, True], [True, False]])
    table = params["words"]["embedding"]
    same(layers.values[0, 0, :, :5], table[jnp.array([4, 5])])
    assert not np.asarray(layers.values)[:, 1, 1].any()


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (
            {"token_ids": np.zeros((2, 4), np.int32)},
            ValueError,
            r"reads inputs \{'char_ids': ...\}, got \['token_ids'\]",
        ),
        ({}, ValueError, "use encoder.tokenize"),
        ([], ValueError, "got list"),
        ({"char_ids": np.zeros((4, 9), np.int32)}, ValueError, r"must be \[B, T \+ 2, 9\], got shape \(4, 9\)"),
        ({"char_ids": np.zeros((2, 4, 50), np.int32)}, ValueError, r"got shape \(2, 4, 50\)"),
        ({"char_ids": np.zeros((2, 1, 9), np.int32)}, ValueError, "both sentence markers"),
        ({"char_ids": np.zeros((2, 4, 9), np.float32)}, TypeError, "must be integers, got float32"),
    ],
)
def test_wrong_inputs_are_refused_while_tracing(inputs: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        jax.eval_shape(lambda inputs: ctx_jax.embed(TINY, {}, inputs), inputs)


def test_wrong_models_and_states_are_refused() -> None:
    with pytest.raises(TypeError, match="got dict"):
        ctx_jax.embed({"dim": 3}, {}, inputs_of(SENTENCES))
    with pytest.raises(ValueError, match=r"batch of 4 rows needs \(4, 6\)"):
        ctx_jax.embed(TINY, {}, inputs_of(SENTENCES), carry=bilm.zero_carry(TINY, 3))
    with pytest.raises(ValueError, match="carry must be"):
        ctx_jax.embed(TINY, {}, inputs_of(SENTENCES), carry=np.zeros(3))
    with pytest.raises(TypeError, match='level="tokens"'):
        ctx_jax.embed(Transformer(vocabulary=9), {}, {}, markers=True)
