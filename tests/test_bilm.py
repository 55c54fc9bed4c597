"""The biLM as a model: sizes, initialisation, shapes, settings, inputs, and how it takes its parameters."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from math import nan
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from ctx_jax import losses
from ctx_jax.data.batch import BiLMBatch
from ctx_jax.encoders.elmo.init import init_softmax
from ctx_jax.encoders.elmo.model import BiLM
from ctx_jax.encoders.elmo.network import reversal, zero_carry
from ctx_jax.io.errors import ConfigError
from ctx_jax.tokenizers.characters import char_ids
from ctx_jax.tokenizers.vocabulary import Vocabulary

WORDS = 19
TINY = BiLM(
    max_characters=7, character_dim=3, filters=((1, 3), (2, 4)), dim=5, projection=4, depth=1, dropout=0.2,
    long_word_share=0.5, dedup_table_factors=(1.0,),
)  # fmt: skip


def sizes(model: BiLM) -> dict[str, int]:
    """Number of parameters by the first part of their names, from shapes alone."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in shapes.items()}


@pytest.mark.parametrize(
    ("highways", "dim", "projection", "millions"), [(1, 1024, 128, 13.6), (1, 2048, 256, 28.0), (2, 4096, 512, 93.6)]
)
def test_the_published_sizes(highways: int, dim: int, projection: int, millions: float) -> None:
    model = BiLM(highways=highways, dim=dim, projection=projection)
    assert round(sum(sizes(model).values()) / 1e6, 1) == millions
    assert (model.num_layers, model.width) == (3, 2 * projection)


def uniform(values: np.ndarray, bound: float) -> None:
    """Even over -bound to bound: as many in each tenth, to 5 deviations."""
    counts, _ = np.histogram(values, 10, (-bound, bound))
    assert counts.sum() == values.size
    np.testing.assert_allclose(counts / values.size, 0.1, atol=5 * 0.3 / np.sqrt(values.size))


def normal(values: np.ndarray, deviation: float) -> None:
    """Normal and not cut off: mean, deviation, and the share beyond 1 and 2 deviations."""
    error = 5 / np.sqrt(values.size)
    assert abs(values.mean()) < error * deviation
    assert abs(values.std() / deviation - 1) < error
    for distance, share in ((1, 0.3173), (2, 0.0455)):
        assert abs((np.abs(values) > distance * deviation).mean() - share) < error * np.sqrt(share)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_parameters_start_as_the_originals(activation: Any) -> None:
    model = BiLM(character_dim=8, filters=((1, 16), (3, 64)), activation=activation, dim=48, projection=32, depth=1)
    params = jax.device_get(model.init(jax.random.key(0)))
    uniform(params["characters"]["embedding"], 1.0)
    kernel = params["convolution_1"]["kernel"]  # 3 wide over 8
    uniform(kernel, 0.05) if activation == "relu" else normal(kernel, (3 * 8) ** -0.5)
    for name in ("gate_kernel", "kernel"):
        normal(params["highway_0"][name], 80**-0.5)
    normal(params["projection"]["kernel"], 80**-0.5)
    for name in ("forward_0", "backward_0"):
        uniform(params[name]["kernel"], (6 / (2 * 32 + 4 * 48)) ** 0.5)
        uniform(params[name]["projection"], (6 / (48 + 32)) ** 0.5)
    assert (params["highway_0"]["gate_bias"] == -2).all()
    biases = [params[name]["bias"] for name in params if name != "characters"]
    assert len(biases) == 6 and not any(bias.any() for bias in biases)


def test_the_softmax_and_a_word_table_start_as_the_originals() -> None:
    model = BiLM("words", 300, dim=8, projection=32, depth=1)
    uniform(np.asarray(model.init(jax.random.key(0))["words"]["embedding"]), (6 / (300 + 32)) ** 0.5)
    decoder = init_softmax(model, jax.random.key(0), vocabulary=300)["decoder"]
    normal(np.asarray(decoder["matrix"]), 32**-0.5)
    assert decoder["bias"].shape == (300,) and not decoder["bias"].any()
    assert set(init_softmax(model, jax.random.key(0), vocabulary=300, tied=True)["decoder"]) == {"bias"}


def test_a_projection_may_be_wider_than_its_cell() -> None:
    model = replace(TINY, token_input="words", vocabulary=WORDS, dim=3, projection=6, depth=2)
    params = jax.eval_shape(model.init, jax.random.key(0))
    assert params["forward_1"]["projection"].shape == (3, 6)
    ids = np.array([[0, 4, 1]], np.int32)
    layers = jax.eval_shape(lambda params: model.layers(params, {"token_ids": ids}), params)
    assert layers.values.shape == (3, 1, 1, 12)


def test_a_sentence_reversed_twice_is_the_same() -> None:
    lengths = np.array([0, 1, 3, 5], np.int32)
    positions = np.asarray(reversal(lengths, 5))
    assert np.take_along_axis(positions, positions, 1).tolist() == [list(range(5))] * 4
    reversed_rows = [row[:n].tolist() for row, n in zip(positions, lengths, strict=True)]
    assert reversed_rows == [list(range(n))[::-1] for n in lengths]


NUMBERS = [field.name for field in fields(BiLM) if type(field.default) in (int, float)]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, value) for name in NUMBERS for value in (-1, nan)),
        *((name, 0) for name in ("depth", "dim", "projection", "character_dim", "cell_clip", "projection_clip")),
        *(("max_characters", 2), ("dropout", 1.0), ("vocabulary", 5)),
    ],
)
def test_settings_that_no_model_can_have_are_refused_by_field(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"got {value}") as raised:
        replace(TINY, **{field: value})
    assert raised.value.field == field


def test_a_word_table_needs_its_size() -> None:
    with pytest.raises(ConfigError) as raised:
        BiLM("words").init(jax.random.key(0))
    assert raised.value.field == "vocabulary"


def test_every_parameter_has_a_depth() -> None:
    model = replace(TINY, depth=2, highways=1)
    names = [
        "/".join(key.key for key in path)
        for path, _ in jax.tree_util.tree_leaves_with_path(jax.eval_shape(model.init, jax.random.key(0)))
    ]
    depths = {name: model.depth_of(name) for name in names}
    assert Counter(depths.values()) == {0: 11, 1: 6, 2: 6}
    assert depths["backward_1/kernel"] == 2 and depths["projection/bias"] == 0
    for name in ("forward_2/kernel", "softmax/bias", "layer_0/kernel"):
        with pytest.raises(ValueError, match="no parameter"):
            model.depth_of(name)


def test_flops_count_products_of_the_forward_pass() -> None:
    words = replace(TINY, token_input="words", vocabulary=WORDS)
    cells = 2 * (8 * 20 + 5 * 4)  # both directions: kernel [4 + 4, 20] and projection [5, 4]
    assert words.flops_per_token(20) == 2 * cells
    dense = 2 * 7 * 7 + 7 * 4  # one highway and the projection of 7 filters to 4
    convolved = (1 * 3 * 3 + 2 * 3 * 4) * 7  # at 7 positions
    assert TINY.flops_per_token(20) == 2 * (cells + 0.5 * (dense + convolved))


class CountedParams(Mapping[str, Any]):
    """Nested parameters that count how often each array is taken out, as FSDP's gathering mapping would."""

    def __init__(self, params: Mapping[str, Any], taken: Counter[str], prefix: str = "") -> None:
        self.params, self.taken, self.prefix = params, taken, prefix

    def __getitem__(self, name: str) -> Any:
        value, path = self.params[name], f"{self.prefix}{name}"
        if isinstance(value, Mapping):
            return CountedParams(value, self.taken, f"{path}/")
        self.taken[path] += 1
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self.params)

    def __len__(self) -> int:
        return len(self.params)

    def __contains__(self, name: object) -> bool:
        return name in self.params  # takes nothing


@pytest.mark.parametrize(("token_input", "tied"), [("characters", False), ("words", False), ("words", True)])
def test_every_array_is_taken_once_by_name(token_input: Any, tied: bool) -> None:
    model = replace(TINY, token_input=token_input, vocabulary=WORDS if token_input == "words" else 0, depth=2)
    softmax = init_softmax(model, jax.random.key(1), vocabulary=WORDS, tied=tied)
    params = jax.device_get({"encoder": model.init(jax.random.key(0)), "head": {"softmax": softmax}})
    names = {"/".join(key.key for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    words, ids = char_ids([["a", "b"]] * 2, 7), np.ones((2, 4), np.int32)
    inputs = {"char_ids": words} if token_input == "characters" else {"token_ids": ids}
    taken: Counter[str] = Counter()
    found = jax.jit(lambda inputs: model.layers(CountedParams(params, taken)["encoder"], inputs))(inputs)
    assert taken == Counter({name: 1 for name in names if name.startswith("encoder/")})
    token_layer = jax.jit(model.token_layer)(params["encoder"], inputs)
    np.testing.assert_allclose(found.values[0], token_layer, rtol=1e-5, atol=1e-6)
    taken.clear()
    given = words if token_input == "characters" else ids
    batch = BiLMBatch(given, given, ids, ids)
    jax.eval_shape(lambda: losses.bilm(model, CountedParams(params, taken), batch, None))
    assert taken == Counter(dict.fromkeys(names, 1))


@pytest.mark.slow
def test_in_64_bits_everything_stays_float32() -> None:
    random = np.random.default_rng(0)
    characters = random.integers(1, 90, (2, 3, TINY.max_characters), np.int32)
    targets = random.integers(0, WORDS, (2, 3), np.int32)
    batch = BiLMBatch(characters, characters, targets, targets)
    params = {
        "encoder": TINY.init(jax.random.key(0)),
        "head": {"softmax": init_softmax(TINY, jax.random.key(1), vocabulary=WORDS)},
    }
    params = jax.tree.map(np.asarray, params)

    def everything(params: Any, carry: Any) -> Any:
        layers = TINY.layers(params["encoder"], {"char_ids": characters}, carry=carry)
        terms = losses.bilm(TINY, params, batch, carry)
        key = jax.random.key(1)
        sampled = losses.bilm(TINY, params, batch, carry, key=key, negatives=5, zero_start=0.3)
        return layers.values, layers.carry, terms, sampled

    with jax.enable_x64(True):
        first = jax.eval_shape(everything, params, None)
        assert {leaf.dtype for leaf in jax.tree.leaves(first)} == {np.dtype(np.float32)}
        assert jax.eval_shape(everything, params, first[1]) == first
        gradient = jax.eval_shape(jax.grad(lambda params: sum(everything(params, None)[3][0]["forward"])), params)
        assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {np.dtype(np.float32)}


def test_processors_of_text(tmp_path: Path) -> None:
    sentences = [["a", "dog"], []]
    characters = TINY.inputs(rule="prose")
    assert (characters.rule, characters.words_per_row, characters.sizes(sentences)) == ("prose", 32, [2, 0])
    arrays = characters.arrays(sentences, rows=3, length=4)
    np.testing.assert_array_equal(arrays["char_ids"], char_ids(sentences, 7, rows=3, length=4))
    for other in (
        characters.pad(characters.split(sentences), 3, 4),
        characters.token_arrays(["a dog", ""], rows=3, length=4),
    ):
        np.testing.assert_array_equal(other["char_ids"], arrays["char_ids"])
    with pytest.raises(ValueError, match="tokens=9"):
        characters.arrays(sentences, tokens=9)
    Vocabulary(("<S>", "</S>", "<UNK>", "dog")).write(tmp_path / "vocabulary.txt")
    model = replace(TINY, token_input="words", vocabulary=4)
    arrays = model.inputs(tmp_path).arrays(sentences, rows=3, length=3)
    assert arrays["token_ids"].tolist() == [[0, 2, 3, 1, -1], [0, 1, -1, -1, -1], [-1] * 5]
    with pytest.raises(ValueError, match=r"vocabulary\.txt has 4 words, the model 5"):
        replace(model, vocabulary=5).inputs(tmp_path)
    with pytest.raises(FileNotFoundError, match="vocabulary.txt"):
        model.inputs(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="folder"):
        model.inputs()


def test_wrong_inputs_and_carries_are_named() -> None:
    params = TINY.init(jax.random.key(0))
    ids = char_ids([["a"], ["b", "c"]], 7)
    for inputs, message in (
        ({"token_ids": ids}, "char_ids"),
        ({"char_ids": ids[:, :, :6]}, r"\[B, T \+ 2, 7\]"),
        ({"char_ids": ids[:, :1]}, "both sentence markers"),
    ):
        with pytest.raises(ValueError, match=message):
            TINY.layers(params, inputs)
    with pytest.raises(TypeError, match="integers"):
        TINY.layers(params, {"char_ids": ids.astype(np.float32)})
    with pytest.raises(ValueError, match="2 rows"):
        TINY.layers(params, {"char_ids": ids}, carry=zero_carry(TINY, 3))
    with pytest.raises(ValueError, match="carry must be"):
        TINY.layers(params, {"char_ids": ids}, carry=())


@pytest.mark.slow
def test_no_rows_and_markers() -> None:
    params = TINY.init(jax.random.key(0))
    empty = TINY.layers(params, {"char_ids": char_ids([], 7)})
    assert (empty.values.shape, empty.mask.shape) == ((2, 0, 0, 8), (0, 0))
    inputs = {"char_ids": char_ids([["a"], ["b", "c"]], 7)}
    words, tokens = TINY.layers(params, inputs), TINY.layers(params, inputs, markers=True)
    assert tokens.mask.sum(1).tolist() == [3, 4]
    kept = np.where(np.asarray(words.mask)[None, :, :, None], tokens.values[:, :, 1:-1], 0)
    np.testing.assert_array_equal(words.values, kept)
    assert isinstance(hash(TINY), int)
