"""The laws that every family of encoders obeys, run over each of them: a family is held to them by being listed in
`CASES`. What is special to a family is tested in its own files.

Letters: L layers, B sentences, T words, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from toys import bag_of_characters
from toys.bag_of_characters import BagOfCharacters

import ctx_jax
from ctx_jax.checkpoints.run_files import ENCODER, VOCABULARY, EncoderFile
from ctx_jax.checkpoints.runs import RunCheckpoints
from ctx_jax.distributed.sharding import AXIS, SHARDED_ROWS, GatheredParams, data_mesh, fsdp_spec
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.encoders import FAMILIES
from ctx_jax.encoders.elmo import BiLM
from ctx_jax.encoders.elmo.inputs import WordInputs
from ctx_jax.encoders.stack import Member, Stack, StackInputs
from ctx_jax.encoders.static import StaticInputs, StaticTable
from ctx_jax.encoders.transformer import SubwordInputs, Transformer
from ctx_jax.io import configs
from ctx_jax.ops.dropout import Dropout
from ctx_jax.tokenizers.subword_training import train
from ctx_jax.tokenizers.vocabulary import Vocabulary
from ctx_jax.training.parameter_groups import map_named, named

WORDS = Vocabulary(("<S>", "</S>", "<UNK>", "the", "cat", "sat", "dogs"))
SUBWORDS = train(["the cat sat on the mat", "a dog and a cat", "the dogs sat", "mats and cats"] * 5, "wordpiece", 60)
SENTENCES = [["the", "cat", "sat", "here"], ["a"], [], ["", "dogs", "été"], ["the", "the"], ["cat"], ["sat"], ["mat"]]
ROWS, LENGTH = len(SENTENCES), 4  # one row for each of 8 devices
MASK = np.arange(LENGTH)[None] < np.array([len(sentence) for sentence in SENTENCES])[:, None]

BILM = BiLM(
    filters=((1, 8), (2, 8)), character_dim=4, activation="tanh", dim=16, projection=8, max_characters=9,
    length_buckets=((5, 0.5),), dedup_table_factors=(1.0,),
)  # fmt: skip
BERT = Transformer(len(SUBWORDS), dim=16, depth=1, heads=2, feed_forward=24, max_positions=24)
MODERN = replace(
    BERT, depth=2, positions="rotary", norm="pre", first_attention_norm=False, gated=True, local_layers=(1,), window=2,
    token_types=0, norm_bias=False, attention_bias=False, feed_forward_bias=False,
)  # fmt: skip
GPT = replace(
    BERT, depth=2, causal=True, norm="pre", embedding_norm=False, token_types=0, activation="gelu_tanh", scan=True
)
ALBERT = replace(BERT, depth=2, shared_layers=True, embedding_dim=8, scan=True)
T5 = replace(  # its embeddings scaled, so that the gradients' test takes small steps
    BERT, norm="pre", norm_kind="rms", norm_bias=False, embedding_norm=False, attention_bias=False, head_dim=6,
    feed_forward_bias=False, gated=True, positions="none", relative="bias", relative_buckets=8, relative_distance=6,
    attention_scale=1.0, token_types=0, scaled_embeddings=True,
)  # fmt: skip
DEBERTA = replace(BERT, positions="none", relative="disentangled", relative_buckets=4, relative_distance=9)
GEMMA = replace(
    MODERN, norm="both", norm_kind="rms", first_attention_norm=True, heads=4, kv_heads=2, head_dim=6, head_norms=True,
    scaled_embeddings=True, embedding_norm=False, activation="gelu_tanh",
)  # fmt: skip


def no_files(folder: Path) -> None:
    """What a run of a model without vocabulary or tokenizer holds besides."""


def write_member_files(folder: Path) -> None:
    """The tokenizer and the word lists of the stacks below: each member reads its own."""
    for number in range(3):
        member = folder / f"member_{number}"
        member.mkdir()
        SUBWORDS.save(member)
        TABLE_WORDS.save(member)


@dataclass(frozen=True)
class Case:
    """A small model of a family, and the files from which a run's folder makes its inputs."""

    model: Any
    processor: Any
    write_files: Callable[[Path], Any] = no_files

    @cached_property
    def params(self) -> Any:
        """Random ones, so that biases and scales matter too."""
        random = np.random.default_rng(0)
        return map_named(
            lambda name, leaf: np.float32(random.normal(name.endswith("scale"), 0.3, leaf.shape)), self.shapes
        )

    @property
    def shapes(self) -> Any:
        return jax.eval_shape(self.model.init, jax.random.key(0))

    @cached_property
    def layers(self) -> ctx_jax.Layers:
        """Those of SENTENCES."""
        return self.embed(self.inputs(SENTENCES))

    @property
    def encoder(self) -> Encoder:
        return Encoder(self.model, self.params, self.processor)

    def inputs(self, sentences: Any) -> dict[str, np.ndarray]:
        return self.encoder.tokenize(sentences, rows=ROWS, length=LENGTH)

    def embed(self, inputs: Any) -> ctx_jax.Layers:
        return EMBED(self.model, self.params, inputs)


EMBED = jax.jit(ctx_jax.embed, static_argnums=0)
ALL_FAMILIES = (*FAMILIES, bag_of_characters.FAMILY)
WORD_BILM = replace(BILM, token_input="words", vocabulary=len(WORDS))
GRU_BILM = replace(WORD_BILM, cell="gru", depth=1)
PIECES = SubwordInputs(SUBWORDS, BERT.longest)
TABLE_WORDS = StaticInputs(("the", "cat", "dogs", "a lot", "sat"), unknown="mean")
TABLE = StaticTable(5, 16, unknown="mean", words=TABLE_WORDS.words_digest)
BAG = BagOfCharacters(dim=24)
WORDS_STACK = Stack((Member(BILM), Member(TABLE), Member(BAG, (0.5, -0.25))))
WORDS_INPUTS = (BILM.inputs(), TABLE_WORDS, BAG.inputs())
PIECES_STACK = Stack((Member(TABLE), Member(BERT), Member(BAG, 1)), how="add")
CASES = {
    "bilm": Case(BILM, BILM.inputs()),
    "bilm_words": Case(WORD_BILM, WordInputs(WORDS), lambda folder: WORDS.write(folder / VOCABULARY)),
    "bilm_gru": Case(GRU_BILM, WordInputs(WORDS), lambda folder: WORDS.write(folder / VOCABULARY)),
    "bert": Case(BERT, PIECES, SUBWORDS.save),
    "modernbert": Case(MODERN, PIECES, SUBWORDS.save),
    "gpt": Case(GPT, PIECES, SUBWORDS.save),
    "albert": Case(ALBERT, PIECES, SUBWORDS.save),
    "t5": Case(T5, PIECES, SUBWORDS.save),
    "deberta": Case(DEBERTA, PIECES, SUBWORDS.save),
    "gemma": Case(GEMMA, PIECES, SUBWORDS.save),
    "static": Case(TABLE, TABLE_WORDS, TABLE_WORDS.save),
    "bag_of_characters": Case(BagOfCharacters(), BagOfCharacters().inputs()),
    "stack": Case(WORDS_STACK, WORDS_STACK.inputs_of(WORDS_INPUTS, "whitespace"), write_member_files),
    "stack_added": Case(
        PIECES_STACK, PIECES_STACK.inputs_of((TABLE_WORDS, PIECES, BAG.inputs()), "whitespace"), write_member_files
    ),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


def same(found: Any, expected: Any, tolerance: float = 2e-5) -> None:
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=tolerance)


def test_every_family_of_the_package_is_listed() -> None:
    assert {type(case.model) for case in CASES.values()} == {family.model for family in ALL_FAMILIES}


def test_shapes_are_those_the_model_states_and_nothing_stands_past_a_sentences_end(case: Case) -> None:
    values, mask = np.asarray(case.layers.values), np.asarray(case.layers.mask)
    assert values.shape == (case.model.num_layers, ROWS, LENGTH, case.model.width)
    assert values.dtype == np.float32 and mask.dtype == bool
    np.testing.assert_array_equal(mask, MASK)
    assert not values[:, ~mask].any()
    assert np.isfinite(values).all() and values[:, mask].any(axis=-1).mean() > 0.9  # the empty word's may be 0


def test_the_same_call_twice_is_bit_identical(case: Case) -> None:
    np.testing.assert_array_equal(case.embed(case.inputs(SENTENCES)).values, case.layers.values)


@pytest.mark.slow
def test_compiled_equals_not_compiled(case: Case) -> None:
    same(ctx_jax.embed(case.model, case.params, case.inputs(SENTENCES)).values, case.layers.values)


def test_a_sentence_depends_on_no_other_row(case: Case) -> None:
    order = np.array([2, 7, 0, 3, 1, 6, 4, 5])
    moved = case.embed(case.inputs([SENTENCES[row] for row in order]))
    same(moved.values, case.layers.values[:, order])
    for row, sentence in enumerate(SENTENCES[:4]):
        alone = case.embed(case.inputs([sentence]))
        same(alone.values[:, 0], case.layers.values[:, row])
        assert not np.asarray(alone.values)[:, 1:].any() and not np.asarray(alone.mask)[1:].any()


def test_padded_equals_unpadded(case: Case) -> None:
    """One sentence by itself, [L, 1, T, D], against its row of the padded batch."""
    alone = case.embed(case.encoder.tokenize(SENTENCES[3:4]))
    assert alone.values.shape[1:3] == (1, 3) and alone.mask.all()
    same(alone.values[:, 0], case.layers.values[:, 3, :3])


def test_no_sentences_and_no_words(case: Case) -> None:
    model, tokenize = case.model, case.encoder.tokenize
    for inputs, shape in (
        (tokenize([]), (0, 0)),
        (tokenize([], length=LENGTH), (0, LENGTH)),
        (tokenize(["", ""]), (2, 0)),
        (tokenize([], rows=2, length=3), (2, 3)),
    ):
        layers = jax.eval_shape(partial(ctx_jax.embed, model), case.shapes, inputs)
        assert (layers.values.shape, layers.mask.shape) == ((model.num_layers, *shape, model.width), shape)
    assert list(case.encoder.encode([])) == []
    assert case.encoder.word_vectors([]).shape == (0, model.width)


def test_the_token_layer_is_layer_zero(case: Case) -> None:
    layer = jax.jit(type(case.model).token_layer, static_argnums=0)(case.model, case.params, case.inputs(SENTENCES))
    same(layer, case.layers.values[0], 1e-6)


def test_every_parameter_has_a_depth(case: Case) -> None:
    depths = {case.model.depth_of(name) for name in named(case.shapes)}
    # A table's one layer is the table itself; other families have parameters below layer 1 and in it. A layer that all
    # depths share is the top one, so that rates by depth and unfreezing train it first.
    first = case.model.num_layers - 1 if getattr(case.model, "shared_layers", False) else 1
    assert {0, min(first, case.model.num_layers - 1)} <= depths <= set(range(case.model.num_layers + 1))
    with pytest.raises(ValueError, match="wavelet"):
        case.model.depth_of("wavelet/kernel")


def test_a_model_is_a_static_argument(case: Case) -> None:
    assert hash(case.model) == hash(replace(case.model)) and case.model == replace(case.model)


@pytest.mark.slow
def test_gradients_flow_where_the_caller_lets_them(case: Case) -> None:
    inputs = case.inputs(SENTENCES)

    def loss(params: Any, mixing: Any, frozen: jax.Array) -> jax.Array:
        params = jax.tree.map(lambda leaf: jnp.where(frozen, jax.lax.stop_gradient(leaf), leaf), params)
        vectors = ctx_jax.mix(ctx_jax.embed(case.model, params, inputs).values, mixing)
        return jnp.mean(vectors * jnp.cos(jnp.arange(vectors.size, dtype=jnp.float32)).reshape(vectors.shape))

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    mixing = ctx_jax.init_mix(case.model.num_layers)
    value, (gradient, mixing_gradient) = step(case.params, mixing, False)
    for name, leaf in named(gradient).items():
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, name
    # Along the gradient the loss grows at the rate of its squared length.
    squared = sum(float(jnp.sum(jnp.square(leaf))) for leaf in jax.tree.leaves(gradient))
    ahead, behind = (
        step(jax.tree.map(lambda leaf, change, by=by: leaf + by * change, case.params, gradient), mixing, False)[0]
        for by in (0.02 / squared**0.5, -0.02 / squared**0.5)
    )
    assert float(ahead - behind) == pytest.approx(2 * 0.02 * squared**0.5, rel=2e-2)
    stopped_value, (stopped, mixing_alone) = step(case.params, mixing, True)
    assert not any(np.abs(leaf).max() for leaf in jax.tree.leaves(stopped))
    same(stopped_value, value)
    same(mixing_alone["weights"], mixing_gradient["weights"])


@pytest.mark.slow
def test_dropout_is_by_global_row(case: Case) -> None:
    layers = jax.jit(type(case.model).layers, static_argnums=0)
    inputs, key = case.inputs(SENTENCES), jax.random.key(7)
    whole = layers(case.model, case.params, inputs, dropout=Dropout(key)).values
    half = jax.tree.map(lambda array: array[2:4], inputs)
    same(layers(case.model, case.params, half, dropout=Dropout(key, jnp.arange(2, 4))).values, whole[:, 2:4])


@pytest.mark.slow
def test_vmap_over_batches_equals_a_loop(case: Case) -> None:
    batches = [case.inputs(SENTENCES), case.inputs(SENTENCES[::-1])]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
    values = jax.jit(jax.vmap(lambda inputs: ctx_jax.embed(case.model, case.params, inputs).values))(stacked)
    same(values[0], case.layers.values)
    same(values[1], case.layers.values[:, ::-1])


@pytest.mark.slow
def test_bfloat16_is_close_to_float32(case: Case) -> None:
    low = EMBED(replace(case.model, compute="bfloat16"), case.params, case.inputs(SENTENCES)).values
    assert low.dtype == jnp.float32
    difference = np.abs(low - case.layers.values).max()
    if case.model.flops_per_token(LENGTH) == 0:  # no matrix products, which are all that is in bfloat16
        assert difference == 0
    else:
        assert 0 < difference < 0.02 * np.abs(case.layers.values).max()


@pytest.mark.slow
def test_parameters_sharded_over_eight_devices_give_the_same_layers(case: Case) -> None:
    mesh = data_mesh(jax.devices())
    specs = jax.tree.map(lambda leaf: fsdp_spec(leaf.shape, 8), case.params)
    assert any(AXIS in spec for spec in jax.tree.leaves(specs, is_leaf=lambda leaf: isinstance(leaf, PartitionSpec)))

    def on_device(shards: Any, inputs: Any) -> jax.Array:
        return ctx_jax.embed(case.model, GatheredParams.of(shards, specs, AXIS), inputs).values

    rows_second = PartitionSpec(None, AXIS)  # [L, B, T, D]
    sharded_embed = jax.shard_map(
        on_device, mesh=mesh, in_specs=(specs, SHARDED_ROWS), out_specs=rows_second, check_vma=False
    )
    shards = jax.device_put(case.params, jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs))
    same(jax.jit(sharded_embed)(shards, case.inputs(SENTENCES)), case.layers.values)


def test_a_run_is_loaded_as_it_was_saved_and_encode_equals_embed(case: Case, tmp_path: Path) -> None:
    (tmp_path / ENCODER).write_text(configs.text(EncoderFile(case.model, {}, "prose")))
    case.write_files(tmp_path)
    with RunCheckpoints(tmp_path / "checkpoints", clean=True) as checkpoints:
        state = {"params": {"encoder": case.params, "head": {}}, "step": jnp.int32(3)}
        checkpoints.save(3, state, {"sentence": np.int64(3)}, {"loss": 1.0})
    loaded = ctx_jax.load(tmp_path, families=ALL_FAMILIES)
    assert (loaded.model, dict(loaded.heads)) == (case.model, {})
    jax.tree.map(np.testing.assert_array_equal, loaded.params, case.params)
    for name, array in case.encoder.tokenize([["the", "cat", "."]]).items():
        np.testing.assert_array_equal(loaded.tokenize(["the cat."])[name], array, "the run's rule splits strings")
    found = list(loaded.encode(SENTENCES))
    for row, sentence in enumerate(SENTENCES):
        expected = np.asarray(case.layers.values)[:, row, : len(sentence)]
        same(found[row], expected)
        assert found[row].dtype == np.float32


def test_a_texts_vector_is_the_mean_of_its_tokens_whatever_its_batch(case: Case) -> None:
    texts = ["the cat sat", "dogs", "a lot"]
    # Members in pieces have no tokens in common: the texts of their stack are words.
    level: Any = "words" if isinstance(case.processor, StackInputs) else "tokens"
    layers = case.embed(case.encoder.tokenize(texts, level=level, rows=4, length=8))
    expected = ctx_jax.pool(layers.values[-1], layers.mask)
    found = list(case.encoder.encode([*texts, ""], level="sentence"))
    same(np.stack(found[:3]), expected[:3])
    assert found[3].shape == (case.model.width,)
    assert np.isfinite(found[3]).all()
    behind = list(case.encoder.encode(["cat sat", "", "", ""], level="sentence", prompt="the "))
    same(behind[0], found[0])
    assert case.processor.prompt_length("the cat ", None) >= 2


def test_word_vectors_are_layer_zero_of_the_word_alone(case: Case) -> None:
    words = ["dogs", "", "cat", "dogs"]
    vectors = case.encoder.word_vectors(words)
    alone = case.embed(case.inputs([[word] for word in words]))
    same(vectors, alone.values[0, :4, 0], 1e-6)
    np.testing.assert_array_equal(vectors[0], vectors[3])
