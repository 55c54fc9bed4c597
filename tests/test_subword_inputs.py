"""A Transformer's inputs: arrays of words and tokens, layers of either, the tokenizer of a folder, bad input."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from ctx_jax.encoders.transformer import SubwordInputs, Transformer, hidden_states
from ctx_jax.encoders.transformer.huggingface import folders as huggingface
from ctx_jax.encoders.transformer.word_pooling import pool_to_words
from ctx_jax.tokenizers.subword_training import train

TEXT = ["the cat sat on the mat", "a dog and a cat", "the dogs sat", "mats and cats"] * 5
SUBWORDS = train(TEXT, "wordpiece", 60)
TINY = Transformer(vocabulary=len(SUBWORDS), dim=8, depth=2, heads=2, feed_forward=12, max_positions=20, token_types=1)
INPUTS = SubwordInputs(SUBWORDS, TINY.longest)
STRINGS = ("the cat sat", "", "dogs", "a\u200b \u200b mats and dog")
SENTENCES = [string.split(" ") if string else [] for string in STRINGS]


@pytest.fixture(scope="module")
def params() -> Any:
    return jax.jit(TINY.init)(jax.random.key(0))


layers = jax.jit(Transformer.layers, static_argnums=0)


def test_the_arrays_of_words_show_their_pieces() -> None:
    """words  cat  <U+200B>  dogs
    tokens [CLS] cat [UNK] dog ##s [SEP]"""
    inputs = INPUTS.arrays([["cat", "\u200b", "dogs"], []], rows=3, length=4)
    assert {name: array.shape for name, array in inputs.items()} == {
        "token_ids": (3, 20),
        "token_mask": (3, 20),
        "word_of_token": (3, 20),
        "word_mask": (3, 4),
    }
    words, mask = inputs["word_of_token"], inputs["word_mask"]
    assert mask.tolist() == [[True, True, True, False], [False] * 4, [False] * 4]
    real = inputs["token_ids"][0, inputs["token_mask"][0]]
    assert (real[0], real[-1]) == (SUBWORDS.begin_id, SUBWORDS.end_id)
    assert SUBWORDS.unknown_id in real and words[0, 0] == -1 and words[0, len(real) - 1] == -1
    assert sorted(set(words[0, 1 : len(real) - 1].tolist())) == [0, 1, 2]
    assert (inputs["token_ids"][~inputs["token_mask"]] == SUBWORDS.pad_id).all() and not inputs["token_mask"][1:].any()
    assert inputs["token_ids"].dtype == words.dtype == np.int32


def test_arrays_in_three_steps_are_those_in_one() -> None:
    pieces = INPUTS.split(SENTENCES)
    assert INPUTS.sizes(pieces) == [int(row.sum()) for row in INPUTS.arrays(SENTENCES)["token_mask"]]
    padded = INPUTS.pad(pieces, 5, 12)
    assert INPUTS.words_per_row == 1 and padded["word_mask"].shape == padded["token_ids"].shape == (5, 12)
    for name, array in INPUTS.arrays(SENTENCES, rows=5, length=12, tokens=12).items():
        np.testing.assert_array_equal(padded[name], array)


def test_tokens_are_split_by_the_tokenizers_own_rule() -> None:
    tokens = INPUTS.token_arrays(["the cat sat", ""], rows=3, length=9)
    assert set(tokens) == {"token_ids", "token_mask"} and tokens["token_ids"].shape == (3, 9)
    expected = SUBWORDS.tokenizer.encode("the cat sat").ids
    assert tokens["token_ids"][0, : len(expected)].tolist() == expected
    assert tokens["token_mask"].sum(axis=1).tolist() == [len(expected), 0, 0]
    assert INPUTS.token_arrays([["the", "cat", "sat"]])["token_ids"].tolist() == [expected]


def test_shapes_follow_rows_and_length_alone() -> None:
    many = [["tttttt"] * 3]  # t ##t ##t ##t ##t ##t
    given = ([["a"]], [["the", "cat", "sat"]] * 3, [["dogs"] * 3, []], [], many)
    for inputs in (INPUTS, SubwordInputs(SUBWORDS)):
        shapes = [
            {tuple(array.shape) for array in inputs.arrays(sentences, rows=4, length=6).values()} for sentences in given
        ]
        assert all(shape == shapes[0] for shape in shapes), shapes
    needed = INPUTS.arrays(many)["token_ids"].shape[1]
    assert needed == 3 * 6 + 2
    for sentences in ([["a"]], many):
        assert INPUTS.arrays(sentences, rows=2, length=6, tokens=needed)["token_ids"].shape == (2, needed)
    with pytest.raises(
        ValueError, match=f"sentence 0 has {needed} tokens.* room for {needed - 1} .*tokens={needed} or"
    ):
        INPUTS.arrays(many, length=6, tokens=needed - 1)
    with pytest.raises(ValueError, match="tokens=21, the model's positions hold 20"):
        INPUTS.arrays(many, tokens=21)


@pytest.mark.slow
def test_words_are_means_of_their_tokens(params: Any) -> None:
    inputs = INPUTS.arrays(SENTENCES, rows=4, length=5)
    words = layers(TINY, params, inputs)
    assert words.values.shape == (TINY.num_layers, 4, 5, TINY.width) == (3, 4, 5, 8) and words.carry is None
    np.testing.assert_array_equal(words.mask, inputs["word_mask"])
    tokens = {name: inputs[name] for name in ("token_ids", "token_mask")}
    states = np.asarray(layers(TINY, params, tokens).values)
    assert not states[:, ~inputs["token_mask"]].any()
    for row, sentence in enumerate(SENTENCES):
        for word in range(5):
            own = inputs["word_of_token"][row] == word
            expected = states[:, row, own].mean(axis=1) if word < len(sentence) else np.zeros((3, 8))
            np.testing.assert_allclose(words.values[:, row, word], expected, atol=1e-6)
    raw = hidden_states(TINY, params, tokens["token_ids"][:1], mask=tokens["token_mask"][:1])
    count = tokens["token_mask"][0].sum()
    np.testing.assert_allclose(states[:, 0, :count], np.asarray(raw)[:, 0, :count], atol=1e-6)
    token_layer = jax.jit(Transformer.token_layer, static_argnums=0)
    np.testing.assert_allclose(token_layer(TINY, params, inputs), words.values[0], atol=1e-6)
    np.testing.assert_allclose(token_layer(TINY, params, tokens), states[0], atol=1e-6)


def test_a_token_over_two_words_is_the_vector_of_both() -> None:
    words, mask = np.array([[-1, 1, 1, 2, -1]], np.int32), np.ones((1, 4), bool)
    mask[0, 3] = False
    values = np.arange(10, dtype=np.float32).reshape(1, 1, 5, 2)
    pooled = pool_to_words(jnp.asarray(values), {"word_of_token": jnp.asarray(words), "word_mask": jnp.asarray(mask)})
    assert np.asarray(pooled.values)[0, 0].tolist() == [[3, 4], [3, 4], [6, 7], [0, 0]]


@pytest.mark.parametrize("level", ["words", "tokens"])
def test_layers_above_the_one_taken_are_not_computed(level: str, params: Any) -> None:
    inputs = INPUTS.arrays(SENTENCES)
    if level == "tokens":
        inputs = {name: inputs[name] for name in ("token_ids", "token_mask")}

    def operations(index: int) -> float:
        taken = jax.jit(lambda params, inputs: TINY.layers(params, inputs).values[index])
        return taken.lower(params, inputs).compile().cost_analysis()["flops"]

    first, second, third = map(operations, range(3))
    assert first < second < 0.7 * third


def test_no_words_give_no_vectors(params: Any) -> None:
    assert TINY.layers(params, INPUTS.arrays([])).values.shape == (3, 0, 0, 8)
    assert TINY.layers(params, INPUTS.arrays([[], []])).values.shape == (3, 2, 0, 8)


def test_inputs_that_do_not_fit_are_refused(params: Any) -> None:
    inputs = INPUTS.arrays([["the", "cat"]])
    with pytest.raises(TypeError, match="leave carry out"):
        TINY.layers(params, inputs, carry=())
    with pytest.raises(ValueError, match="token_ids, token_mask"):
        TINY.layers(params, {"token_ids": inputs["token_ids"]})
    with pytest.raises(ValueError, match="word_of_token must be"):
        TINY.layers(params, inputs | {"word_of_token": np.zeros((1, 2), np.int32)})
    with pytest.raises(TypeError, match="token_mask must be bool"):
        TINY.layers(params, inputs | {"token_mask": inputs["token_mask"].astype(np.int32)})
    long = ["cat"] * 30
    for call in (INPUTS.arrays, INPUTS.token_arrays):
        with pytest.raises(ValueError, match=r"sentence 1 has \d+ tokens, the model's positions hold 20"):
            call([["cat"], long])
    with pytest.raises(ValueError, match=r"has 2 words, for length=1"):
        INPUTS.arrays([["the", "cat"]], length=1)
    with pytest.raises(ValueError, match=r"tokens, for length=2"):
        INPUTS.token_arrays(["the cat"], length=2)
    with pytest.raises(ValueError, match="rows=1"):
        INPUTS.arrays([["the"], ["cat"]], rows=1)


@pytest.fixture
def folder(params: Any, tmp_path: Path) -> Path:
    huggingface.write(tmp_path / "bert", TINY, params, subwords=SUBWORDS)
    return tmp_path / "bert"


def test_the_tokenizer_of_a_folder_makes_the_same_inputs(folder: Path, params: Any) -> None:
    found = huggingface.read(folder)
    assert found.model == TINY and found.heads == {}
    jax.tree.map(np.testing.assert_array_equal, found.params, params)
    inputs = found.model.inputs(folder, rule="prose")
    assert inputs.rule == "prose" and inputs.longest == TINY.longest
    for name, array in INPUTS.arrays(SENTENCES).items():
        np.testing.assert_array_equal(inputs.arrays(SENTENCES)[name], array)
    with pytest.raises(TypeError, match="folder"):
        TINY.inputs()


def test_a_tokenizer_that_does_not_fit_is_refused(folder: Path) -> None:
    other = train(TEXT, "bpe", 270)  # more tokens than the model has rows
    other.save(folder)
    with pytest.raises(ValueError, match=rf"vocabulary of {TINY.vocabulary}, its tokenizer one of {len(other)}"):
        TINY.inputs(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match="holds no tokenizer"):
        TINY.inputs(folder)


def test_rows_without_a_token_are_never_made_and_exported_unchanged(params: Any, tmp_path: Path) -> None:
    size, more = TINY.vocabulary, TINY.vocabulary + 2
    tables = params["embeddings"]
    rows = np.concatenate([np.asarray(tables["tokens"]), np.ones((2, 8), np.float32)])
    model = replace(TINY, vocabulary=more)
    given = params | {"embeddings": tables | {"tokens": rows}}
    huggingface.write(tmp_path / "first", model, given, subwords=SUBWORDS)
    read = huggingface.read(tmp_path / "first")
    inputs = read.model.inputs(tmp_path / "first")
    assert read.model.vocabulary == more and len(inputs.subwords) == size
    np.testing.assert_array_equal(inputs.arrays(SENTENCES)["token_ids"], INPUTS.arrays(SENTENCES)["token_ids"])
    huggingface.write(tmp_path / "second", read.model, read.params, subwords=inputs.subwords)
    for name, array in load_file(tmp_path / "first" / "model.safetensors").items():
        np.testing.assert_array_equal(load_file(tmp_path / "second" / "model.safetensors")[name], array)


@pytest.mark.slow
def test_padding_ids_must_agree_where_positions_follow_them(params: Any, tmp_path: Path) -> None:
    model = replace(TINY, positions_after_padding=True, pad_id=1, norm_epsilon=1e-5)
    huggingface.write(tmp_path / "roberta", model, params, architecture="roberta")
    SUBWORDS.save(tmp_path / "roberta")  # pads with 0
    with pytest.raises(ValueError, match="pad_id=1, its tokenizer pads with 0"):
        model.inputs(tmp_path / "roberta")
