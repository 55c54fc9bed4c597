"""`embed` of a biLM: the original's layers and states, sentence markers, the carry, a mix trained on top, bad input.

What every family obeys is in `test_families.py`.
"""

from pathlib import Path
from typing import Any

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ctx_jax
from ctx_jax.encoders.elmo import BiLM, zero_carry
from ctx_jax.encoders.elmo.network import DIRECTIONS, run_directions, token_vectors
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.io.errors import InputError, InputTypeError
from ctx_jax.tokenizers.characters import char_ids
from ctx_jax.typing import Carry

TINY = BiLM(filters=((1, 4), (2, 8)), character_dim=4, highways=1, dim=6, projection=5, max_characters=9)
SENTENCES = [["the", "cat", "sat", "."], ["a"], [], ["", "extraordinarily", "été"]]
ROWS, LENGTH = len(SENTENCES), 4
EMBED = jax.jit(ctx_jax.embed, static_argnums=0)

Params = dict[str, Any]


def inputs_of(sentences: list[list[str]], rows: int | None = ROWS, length: int | None = LENGTH) -> dict[str, Any]:
    return {"char_ids": char_ids(sentences, TINY.max_characters, rows=rows, length=length)}


@pytest.fixture(scope="module")
def params() -> Params:
    """Parameters large enough for every part to matter, biases included."""
    shapes = jax.eval_shape(TINY.init, jax.random.key(0))
    generator = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(generator.normal(0, 0.4, leaf.shape), jnp.float32), shapes)


@pytest.fixture(scope="module")
def layers(params: Params) -> ctx_jax.Layers:
    return EMBED(TINY, params, inputs_of(SENTENCES))


def same(found: Any, expected: Any, tolerance: float = 1e-6) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance), found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["emb_relu_skip_clip", "emb_tanh_noskip"])
def test_every_layer_mask_and_state_is_the_originals(golden: Path, case: str) -> None:
    """Nine batches of varying size, padded to one shape: rows that are not there keep their state."""
    encoder = ctx_jax.load(options=golden / case / "options.json", weights=golden / case / "lm_weights.hdf5")
    carry, half = zero_carry(encoder.model, 4), encoder.model.projection
    with h5py.File(golden / case / "expected.hdf5") as file:
        longest = max(file[str(i)]["char_ids"].shape[1] for i in range(9))
        for i in range(9):
            ids, mask = file[f"{i}/char_ids"][()], file[f"{i}/mask"][()].astype(bool)
            rows, length = mask.shape
            padded = np.zeros((4, longest, ids.shape[2]), np.int32)
            padded[:rows, : length + 2] = ids
            layers = EMBED(encoder.model, encoder.params, {"char_ids": padded}, carry=carry)
            carry, found = layers.carry, np.asarray(layers.values)
            np.testing.assert_array_equal(layers.mask[:rows, :length], mask)
            assert layers.mask.sum() == mask.sum() == file[f"{i}/lengths"][()].sum()
            assert not found[:, ~np.asarray(layers.mask)].any()
            expected = np.moveaxis(file[f"{i}/lm_embeddings"][()], 1, 0)
            np.testing.assert_allclose(found[:, :rows, :length][:, mask], expected[:, mask], atol=1e-5, rtol=1e-5)
            tokens = file[f"{i}/token_embeddings_with_bos_eos"][()][:, 1:-1]
            np.testing.assert_allclose(found[0, :rows, :length, :half][mask], tokens[mask], atol=1e-5, rtol=1e-5)
            for direction in DIRECTIONS:
                for layer, state in enumerate(carry[direction]):
                    for name, leaf in state.items():
                        after = file[f"{i}/state_after/{direction}/{layer}/{name}"][()]
                        np.testing.assert_allclose(leaf, after, atol=1e-5, rtol=1e-5)


def test_layer_zero_is_the_token_vector_twice(layers: ctx_jax.Layers) -> None:
    np.testing.assert_array_equal(layers.values[0, ..., :5], layers.values[0, ..., 5:])


@pytest.mark.slow
def test_markers_may_stay_and_allennlp_counts_them(params: Params, layers: ctx_jax.Layers) -> None:
    kept = jax.jit(BiLM.layers, static_argnums=0, static_argnames="markers")(
        TINY, params, inputs_of(SENTENCES), markers=True
    )
    values, mask = np.asarray(kept.values), np.asarray(kept.mask)
    assert (values.shape, mask.sum(1).tolist()) == ((3, ROWS, LENGTH + 2, 10), [6, 3, 2, 5])
    assert not values[:, ~mask].any()
    same(np.where(mask[:, 2:, None], values[:, :, 1:-1], 0), layers.values)
    same(kept.carry, layers.carry)
    # The markers' own vectors: the streams of "<S> a </S>", which nobody pads or reverses by length.
    tokens = jax.jit(token_vectors, static_argnums=0)(TINY, params, inputs_of([["a"]], None, None)["char_ids"])
    both_ways = {"forward": tokens, "backward": tokens[:, ::-1]}
    outputs, _ = jax.jit(run_directions, static_argnums=0)(TINY, params, both_ways)
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
    none = jax.eval_shape(lambda: TINY.layers(params, inputs_of([], 0, LENGTH), markers=True))
    assert (none.values.shape, none.mask.shape) == ((3, 0, 6, 10), (0, 6))


@pytest.mark.slow
def test_the_state_is_an_argument(params: Params, layers: ctx_jax.Layers) -> None:
    started = EMBED(TINY, params, inputs_of(SENTENCES), carry=zero_carry(TINY, ROWS))
    same(started, layers)
    after = EMBED(TINY, params, inputs_of(SENTENCES), carry=layers.carry)
    same(after.values[0], layers.values[0])
    assert np.abs(after.values[1, 0] - layers.values[1, 0]).max() > 1e-3
    # Rows without words keep their state.
    same(EMBED(TINY, params, inputs_of([]), carry=layers.carry).carry, layers.carry, 0)
    # A row's state is that of its sentence alone, whatever the padding.
    alone = EMBED(TINY, params, inputs_of(SENTENCES[3:], None, None)).carry
    same(jax.tree.map(lambda leaf: leaf[0], alone), jax.tree.map(lambda leaf: leaf[3], layers.carry))
    none = jax.eval_shape(lambda: ctx_jax.embed(TINY, params, inputs_of([], None, None))).carry
    assert jax.tree.map(jnp.shape, none) == jax.tree.map(jnp.shape, zero_carry(TINY, 0))


def test_scan_carries_the_state(params: Params) -> None:
    batches = [inputs_of(SENTENCES), inputs_of(SENTENCES[::-1])]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *batches)

    def step(carry: Carry, inputs: dict[str, Any]) -> tuple[Carry, jax.Array]:
        layers = ctx_jax.embed(TINY, params, inputs, carry=carry)
        return layers.carry, layers.values

    carry, values = jax.jit(lambda: jax.lax.scan(step, zero_carry(TINY, ROWS), stacked))()
    looped = zero_carry(TINY, ROWS)
    for number, inputs in enumerate(batches):
        layers = EMBED(TINY, params, inputs, carry=looped)
        looped = layers.carry
        same(values[number], layers.values)
    same(carry, looped)


@pytest.mark.slow
def test_forward_mode_is_refused(params: Params) -> None:
    one = jax.tree.map(jnp.ones_like, params)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda tree: ctx_jax.embed(TINY, tree, inputs_of(SENTENCES)).values, (params,), (one,))


def test_a_plain_optax_loop_trains_the_mix_alone(params: Params) -> None:
    inputs, before = inputs_of(SENTENCES), jax.tree.map(np.array, params)
    target = 2 * EMBED(TINY, params, inputs).values[2]  # the top layer, twice: the mix can reach it
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
    layers = EMBED(TINY, params, inputs_of([words, ["w0"]], 2, 3000))
    assert np.isfinite(layers.values).all()
    np.testing.assert_array_equal(layers.mask.sum(1), [3000, 1])
    # What stands to the right of a word does not reach the forward direction, nor what stands to the left the backward.
    start = EMBED(TINY, params, inputs_of([words[:5], words[-5:]], 2, 5)).values
    same(layers.values[:, 0, :5, :5], start[:, 0, :, :5], 1e-5)
    same(layers.values[:, 0, -5:, 5:], start[:, 1, :, 5:], 1e-5)


def test_a_model_of_words_looks_them_up() -> None:
    model = BiLM(token_input="words", vocabulary=7, dim=6, projection=5)
    params = model.init(jax.random.key(0))
    ids = np.array([[0, 4, 5, 1], [0, 6, 1, -1]], np.int32)
    layers = EMBED(model, params, {"token_ids": ids})
    np.testing.assert_array_equal(layers.mask, [[True, True], [True, False]])
    same(layers.values[0, 0, :, :5], params["words"]["embedding"][jnp.array([4, 5])])
    assert not np.asarray(layers.values)[:, 1, 1].any()


def test_what_no_model_reads_is_refused_while_tracing() -> None:
    """Inputs of other names and shapes, and other carries: `test_bilm.py`, `test_subword_inputs.py`."""
    for inputs, found in (({}, r"\[\]"), ([], "list")):
        with pytest.raises(InputError, match=f"char_ids.*{found}"):
            jax.eval_shape(lambda inputs: ctx_jax.embed(TINY, {}, inputs), inputs)
    for shape in ((4, 9), (2, 4, 50)):
        with pytest.raises(InputError, match=str(shape).replace("(", r"\(").replace(")", r"\)")):
            jax.eval_shape(lambda ids: ctx_jax.embed(TINY, {}, {"char_ids": ids}), np.zeros(shape, np.int32))
    with pytest.raises(InputTypeError, match="dict"):
        ctx_jax.embed({"dim": 3}, {}, inputs_of(SENTENCES))  # type: ignore[arg-type]
    with pytest.raises(InputTypeError, match="Transformer"):  # the class, not a model
        ctx_jax.embed(Transformer, {}, {})  # type: ignore[arg-type]
