"""ELMo's options and arrays under the original's names, both ways, and errors for bad ones."""

import copy
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctx_jax.encoders.elmo import BiLM, allennlp, model_from_options
from ctx_jax.encoders.elmo.init import init_softmax

TINY = BiLM(filters=((1, 4), (2, 3)), character_dim=3, highways=1, dim=6, projection=5, max_characters=9, dropout=0.0)
OPTIONS: dict[str, Any] = {
    "lstm": {
        "use_skip_connections": True, "projection_dim": 5, "cell_clip": 3, "proj_clip": 3, "dim": 6, "n_layers": 2,
    },
    "char_cnn": {
        "activation": "relu", "filters": [[1, 4], [2, 3]], "n_highway": 1, "embedding": {"dim": 3},
        "n_characters": 262, "max_characters_per_token": 9,
    },
}  # fmt: skip
TRAINING = {
    "bidirectional": True, "dropout": 0.1, "all_clip_norm_val": 10.0, "n_epochs": 10, "n_train_tokens": 1000,
    "batch_size": 128, "n_tokens_vocab": 40, "unroll_steps": 20, "n_negative_samples_batch": 8,
}  # fmt: skip


def arrays_of(model: BiLM, vocabulary: int = 0) -> dict[str, np.ndarray]:
    """Random arrays under the file's names, in bilm-tf's shapes, with a softmax of `vocabulary` words."""
    shapes = {
        "char_embed": (261, 3), "CNN/W_cnn_0": (1, 1, 3, 4), "CNN/b_cnn_0": (4,), "CNN/W_cnn_1": (1, 2, 3, 3),
        "CNN/b_cnn_1": (3,), "CNN_high_0/W_carry": (7, 7), "CNN_high_0/W_transform": (7, 7), "CNN_high_0/b_carry": (7,),
        "CNN_high_0/b_transform": (7,), "CNN_proj/W_proj": (7, 5), "CNN_proj/b_proj": (5,),
    }  # fmt: skip
    for direction in (0, 1):
        for layer in range(model.depth):
            cell = f"RNN_{direction}/RNN/MultiRNNCell/Cell{layer}/LSTMCell/"
            shapes |= {cell + "W_0": (10, 24), cell + "B": (24,), cell + "W_P_0": (6, 5)}
    if vocabulary:
        shapes |= {"softmax/W": (vocabulary, 5), "softmax/b": (vocabulary,)}
    generator = np.random.default_rng(0)
    return {name: generator.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


def test_options_of_both_forms() -> None:
    model = model_from_options(OPTIONS)
    assert model == TINY
    assert isinstance(hash(model), int)
    assert model_from_options(OPTIONS | TRAINING) == replace(TINY, dropout=0.1)
    bare = copy.deepcopy(OPTIONS)
    for key in ("cell_clip", "proj_clip", "use_skip_connections"):
        del bare["lstm"][key]
    del bare["char_cnn"]["n_highway"]
    bare["char_cnn"]["n_characters"] = 261
    model = model_from_options(bare)
    assert (model.cell_clip, model.projection_clip, model.residual, model.highways) == (None, None, False, 0)
    options = {"lstm": OPTIONS["lstm"]} | TRAINING | {"share_embedding_softmax": True}
    words = model_from_options(options)
    assert (words.token_input, words.vocabulary) == ("words", 40)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("lstm", "dmi"), 3, "unknown keys .'dmi'."),
        (("lstm", "dim"), None, "missing keys .'dim'."),
        (("lstm",), None, "missing keys .'lstm'."),
        (("lstm",), 3, "must be an object"),
        (("colour",), "red", "unknown keys .'colour'."),
        (("char_cnn", "n_characters"), 260, "n_characters must be 261"),
        (("char_cnn", "activation"), "gelu", "relu or tanh"),
        (("char_cnn",), None, "n_tokens_vocab"),
        (("bidirectional",), False, "bidirectional"),
        (("n_tokens_vocab",), 40, "n_negative_samples_batch"),
        (("share_embedding_softmax",), True, "share_embedding_softmax"),
        (("lstm", "dim"), "64", "lstm dim must be a whole number, got '64'"),
        (("lstm", "n_layers"), True, "n_layers must be a whole number"),
        (("lstm", "use_skip_connections"), "yes", "use_skip_connections must be true or false"),
        (("lstm", "cell_clip"), -1, "cell_clip must be above 0"),
        *((("lstm", "cell_clip"), wrong, "lstm cell_clip must be") for wrong in ({}, [], "", False, 10**400, 1e999)),
        (("lstm", "n_layers"), 10**20, "lstm n_layers must be in"),
        (("lstm", "n_layers"), 0, "lstm n_layers must be at least 1"),
        *((("char_cnn", "n_highway"), wrong, "n_highway must be") for wrong in ({}, "", False, -1)),
        (("char_cnn", "max_characters_per_token"), 10**20, "max_characters_per_token must be in"),
        (("char_cnn", "max_characters_per_token"), 10**6, "max_characters_per_token must be at most 10000"),
        (("n_tokens_vocab",), -1, "n_tokens_vocab must be in"),
        (("lstm", "proj_clip"), "3", "proj_clip must be a number"),
        (("char_cnn", "filters"), [[1, 4, 5]], "filters must be a list of .width, count. pairs"),
        (("char_cnn", "filters"), "abc", "filters must be a list of .width, count. pairs"),
        (("char_cnn", "filters"), [[0, 2]], "pairs of 1 or more"),
    ],
)
def test_options_that_fit_no_model_are_refused(path: tuple[str, ...], value: Any, message: str) -> None:
    options = copy.deepcopy(OPTIONS)
    node = options
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    if value is None:
        del node[path[-1]]
    with pytest.raises(ValueError, match=message):
        model_from_options(options)


def test_the_published_sizes_are_read() -> None:
    for dim, projection, highways, millions in ((1024, 128, 1, 13.6), (2048, 256, 1, 28.0), (4096, 512, 2, 93.6)):
        options = {
            "lstm": OPTIONS["lstm"] | {"dim": dim, "projection_dim": projection},
            "char_cnn": OPTIONS["char_cnn"]
            | {
                "embedding": {"dim": 16}, "n_highway": highways, "max_characters_per_token": 50,
                "filters": [[1, 32], [2, 32], [3, 64], [4, 128], [5, 256], [6, 512], [7, 1024]],
            },
        }  # fmt: skip
        specs = allennlp._encoder_specs(model_from_options(options))
        assert round(sum(int(np.prod(spec.shape)) for spec in specs.values()) / 1e6, 1) == millions


def full(model: BiLM, vocabulary: int, tied: bool = False) -> Any:
    """Shapes of an encoder's parameters, or with a vocabulary of those and of a softmax."""

    def make(key: jax.Array) -> Any:
        encoder = model.init(key)
        if not vocabulary:
            return encoder
        return {"encoder": encoder, "head": {"softmax": init_softmax(model, key, vocabulary=vocabulary, tied=tied)}}

    return jax.tree.map(jnp.shape, jax.eval_shape(make, jax.random.key(0)))


@pytest.mark.parametrize("vocabulary", [0, 11])
def test_arrays_and_params_are_inverse_and_the_tree_is_the_models(vocabulary: int) -> None:
    arrays = arrays_of(TINY, vocabulary)
    params = allennlp.params_from_arrays(TINY, arrays)
    assert jax.tree.map(jnp.shape, params) == full(TINY, vocabulary)
    again = allennlp.arrays_from_params(TINY, params)
    assert again.keys() == arrays.keys()
    assert all(np.array_equal(again[name], arrays[name]) and again[name].dtype == np.float32 for name in arrays)


@pytest.mark.parametrize(
    ("change", "vocabulary", "tied"),
    [
        ({"projection": 7, "dim": 8}, 0, False),  # as wide as the filters: no projection after them
        ({"projection": 6}, 9, False),  # as wide as the state: none in the LSTM
        ({"token_input": "words", "vocabulary": 11}, 0, False),
        ({"token_input": "words", "vocabulary": 11}, 11, True),
        ({"token_input": "words", "vocabulary": 11}, 11, False),
    ],
)
def test_optional_parts_have_the_models_tree(change: dict[str, Any], vocabulary: int, tied: bool) -> None:
    model = replace(TINY, **change)
    shapes = full(model, vocabulary, tied)
    zeros = jax.tree.map(
        lambda shape: np.zeros(shape, np.float32), shapes, is_leaf=lambda node: isinstance(node, tuple)
    )
    arrays = allennlp.arrays_from_params(model, zeros)
    assert jax.tree.map(jnp.shape, allennlp.params_from_arrays(model, arrays)) == shapes
    encoder = zeros["encoder"] if vocabulary else zeros
    del encoder["forward_0"]
    with pytest.raises(ValueError, match="params lack forward_0/"):
        allennlp.arrays_from_params(model, zeros)


def test_half_a_softmax_is_named() -> None:
    arrays = arrays_of(TINY, 11)
    for name in ("softmax/W", "softmax/b"):
        with pytest.raises(ValueError, match=f"missing: {name}"):
            allennlp.params_from_arrays(TINY, {key: array for key, array in arrays.items() if key != name})


def test_one_error_lists_missing_extra_and_misshapen() -> None:
    arrays = arrays_of(TINY)
    del arrays["CNN/b_cnn_1"], arrays["RNN_1/RNN/MultiRNNCell/Cell1/LSTMCell/B"]
    arrays |= {"CNN/W_cnn_7": np.zeros((1, 7, 3, 2)), "other/b": np.zeros(4), "char_embed": np.zeros((262, 3))}
    arrays["CNN_proj/W_proj"] = np.zeros((5, 7))
    with pytest.raises(ValueError) as raised:
        allennlp.params_from_arrays(TINY, arrays)
    lines = str(raised.value).splitlines()
    assert len(lines) == 1 + 6
    for words in (
        "missing: CNN/b_cnn_1 (3,)",
        "missing: RNN_1/RNN/MultiRNNCell/Cell1/LSTMCell/B (24,)",
        "extra: CNN/W_cnn_7 (1, 7, 3, 2)",
        "extra: other/b (4,)",
        "wrong shape: char_embed is (262, 3), the model needs (261, 3) (the zero row",
        "wrong shape: CNN_proj/W_proj is (5, 7), the model needs (7, 5)",
    ):
        assert any(words in line for line in lines), words


@pytest.mark.slow
def test_one_layer_is_read_under_both_names() -> None:
    model = replace(TINY, depth=1)
    arrays = arrays_of(model)
    short = {name.replace("MultiRNNCell/Cell0/", ""): array for name, array in arrays.items()}
    assert short.keys() != arrays.keys()
    both = [allennlp.params_from_arrays(model, given) for given in (arrays, short)]
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), *both)))
