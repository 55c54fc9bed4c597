"""A Transformer behind the encoder's calls: one vector a word, tokens on request, loading, bad input."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import ctx_jax
from ctx_jax.checkpoints.runs import RunCheckpoints
from ctx_jax.encoders.transformer import huggingface
from ctx_jax.encoders.transformer import model as transformer
from ctx_jax.encoders.transformer.inputs import SubwordReader
from ctx_jax.encoders.transformer.model import Transformer
from ctx_jax.io.configs import to_json
from ctx_jax.tokenizers.subword_training import train
from ctx_jax.tokenizers.subwords import Subwords

TEXT = ["the cat sat on the mat", "a dog and a cat", "the dogs sat", "mats and cats"] * 5
SUBWORDS = train(TEXT, "wordpiece", 60)
TINY = Transformer(
    vocabulary=len(SUBWORDS), dim=8, layers=2, heads=2, feed_forward=12, max_positions=20, token_types=1, head="none"
)
SENTENCES = ["the cat sat", "", "dogs", "a\u200b \u200b mats and dog"]


@pytest.fixture(scope="module")
def encoder() -> ctx_jax.Encoder:
    params = jax.jit(transformer.init, static_argnums=0)(TINY, jax.random.key(0))
    return ctx_jax.Encoder(TINY, params, SubwordReader(SUBWORDS, TINY.longest))


embed = jax.jit(ctx_jax.embed, static_argnums=0)


def test_the_arrays_of_words_show_their_pieces(encoder: ctx_jax.Encoder) -> None:
    """words  cat  <U+200B>  dogs
    tokens [CLS] cat [UNK] dog ##s [SEP]"""
    inputs = encoder.tokenize([["cat", "\u200b", "dogs"], []], rows=3, length=4)
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


def test_strings_and_words_and_tokens(encoder: ctx_jax.Encoder) -> None:
    strings, words = encoder.tokenize(["the  cat\n"]), encoder.tokenize([["the", "cat"]])
    for name in strings:
        np.testing.assert_array_equal(strings[name], words[name])
    tokens = encoder.tokenize(["the cat sat", ""], level="tokens", rows=3, length=9)
    assert set(tokens) == {"token_ids", "token_mask"} and tokens["token_ids"].shape == (3, 9)
    expected = SUBWORDS.tokenizer.encode("the cat sat").ids
    assert tokens["token_ids"][0, : len(expected)].tolist() == expected
    assert tokens["token_mask"].sum(axis=1).tolist() == [len(expected), 0, 0]
    listed = encoder.tokenize([["the", "cat", "sat"]], level="tokens")["token_ids"]
    assert listed.tolist() == [expected]
    for level in ("words", "tokens"):
        assert all(array.shape[0] == 0 for array in encoder.tokenize([], level=level).values())


def test_shapes_follow_rows_and_length_alone(encoder: ctx_jax.Encoder) -> None:
    many = [["tttttt"] * 3]  # t ##t ##t ##t ##t ##t
    given = (["a"], ["the cat sat on the mat"] * 3, ["dogs dogs dogs", ""], [], many)
    for reader in (encoder.reader, SubwordReader(SUBWORDS)):
        read = replace(encoder, reader=reader).tokenize
        shapes = [{tuple(array.shape) for array in read(sentences, rows=4, length=6).values()} for sentences in given]
        assert all(shape == shapes[0] for shape in shapes), shapes
    needed = encoder.tokenize(many)["token_ids"].shape[1]
    assert needed == 3 * 6 + 2
    for sentences in (["a"], many):
        assert encoder.tokenize(sentences, rows=2, length=6, tokens=needed)["token_ids"].shape == (2, needed)
    with pytest.raises(
        ValueError, match=f"sentence 0 has {needed} tokens.* room for {needed - 1} .*tokens={needed} or"
    ):
        encoder.tokenize(many, length=6, tokens=needed - 1)
    with pytest.raises(ValueError, match="tokens=21, the model's positions hold 20"):
        encoder.tokenize(many, tokens=21)
    with pytest.raises(ValueError, match='level="tokens" the length'):
        encoder.tokenize(["a"], level="tokens", tokens=8)


@pytest.mark.slow
def test_words_are_means_of_their_tokens(encoder: ctx_jax.Encoder) -> None:
    inputs = encoder.tokenize(SENTENCES, rows=4, length=5)
    layers = embed(TINY, encoder.params, inputs)
    assert layers.values.shape == (3, 4, 5, 8) and layers.carry is None
    np.testing.assert_array_equal(layers.mask, inputs["word_mask"])
    tokens = {name: inputs[name] for name in ("token_ids", "token_mask")}
    states = np.asarray(embed(TINY, encoder.params, tokens).values)
    assert not states[:, ~inputs["token_mask"]].any()
    for row, words in enumerate(SENTENCES):
        for word in range(5):
            places = inputs["word_of_token"][row] == word
            expected = states[:, row, places].mean(axis=1) if word < len(words.split()) else np.zeros((3, 8))
            np.testing.assert_allclose(layers.values[:, row, word], expected, atol=1e-6)
    raw = transformer.hidden_states(TINY, encoder.params, tokens["token_ids"][:1], mask=tokens["token_mask"][:1])
    count = tokens["token_mask"][0].sum()
    np.testing.assert_allclose(states[:, 0, :count], np.asarray(raw)[:, 0, :count], atol=1e-6)


def test_encode_gives_each_sentence_its_words(encoder: ctx_jax.Encoder) -> None:
    found = list(encoder.encode(SENTENCES, batch=2))
    assert [vectors.shape for vectors in found] == [(3, len(s.split()), 8) for s in SENTENCES]
    layers = embed(TINY, encoder.params, encoder.tokenize(SENTENCES, rows=4, length=5))
    for row, vectors in enumerate(found):
        np.testing.assert_allclose(vectors, layers.values[:, row, : vectors.shape[1]], atol=1e-5)
    mixed = list(encoder.encode(SENTENCES, layers="mix", mix=ctx_jax.init_mix(3), batch=2))
    np.testing.assert_allclose(mixed[3], found[3].mean(axis=0), atol=1e-5)


@pytest.mark.slow
def test_word_vectors_are_layer_0_of_the_word_alone(encoder: ctx_jax.Encoder) -> None:
    words = ["dogs", "\u200b", "cat"]
    vectors = encoder.word_vectors(words)
    layers = embed(TINY, encoder.params, encoder.tokenize([[word] for word in words], length=1))
    np.testing.assert_allclose(vectors, layers.values[0, :, 0], atol=1e-6)
    assert encoder.word_vectors([]).shape == (0, 8)
    longer = replace(TINY, max_positions=64)  # a word of any number of pieces is a row
    params = jax.jit(transformer.init, static_argnums=0)(longer, jax.random.key(0))
    assert ctx_jax.Encoder(longer, params, SubwordReader(SUBWORDS, 64)).word_vectors(["t" * 40, "a"]).shape == (2, 8)


def test_nothing_gives_nothing(encoder: ctx_jax.Encoder) -> None:
    assert ctx_jax.embed(TINY, encoder.params, encoder.tokenize([])).values.shape == (3, 0, 0, 8)
    assert ctx_jax.embed(TINY, encoder.params, encoder.tokenize(["", ""])).values.shape == (3, 2, 0, 8)
    assert list(encoder.encode([])) == []


def test_what_does_not_fit_is_refused(encoder: ctx_jax.Encoder) -> None:
    inputs = encoder.tokenize(["the cat"])
    with pytest.raises(TypeError, match="no state to carry"):
        ctx_jax.embed(TINY, encoder.params, inputs, carry=())
    with pytest.raises(ValueError, match="token_ids, token_mask"):
        ctx_jax.embed(TINY, encoder.params, {"token_ids": inputs["token_ids"]})
    with pytest.raises(ValueError, match="word_of_token must be"):
        ctx_jax.embed(TINY, encoder.params, inputs | {"word_of_token": np.zeros((1, 2), np.int32)})
    with pytest.raises(TypeError, match="token_mask must be bool"):
        ctx_jax.embed(TINY, encoder.params, inputs | {"token_mask": inputs["token_mask"].astype(np.int32)})
    long = " ".join(["cat"] * 30)
    for level in ("words", "tokens"):
        with pytest.raises(ValueError, match=r"sentence 1 has \d+ tokens, the model's positions hold 20"):
            encoder.tokenize(["cat", long], level=level)
    with pytest.raises(ValueError, match="positions hold 20"):
        list(encoder.encode([long]))
    with pytest.raises(ValueError, match=r"has 2 words, for length=1"):
        encoder.tokenize(["the cat"], length=1)
    with pytest.raises(ValueError, match=r"tokens, for length=2"):
        encoder.tokenize(["the cat"], length=2, level="tokens")
    with pytest.raises(ValueError, match="rows=1"):
        encoder.tokenize(["the", "cat"], rows=1)
    with pytest.raises(TypeError, match="wrap it in a list"):
        encoder.tokenize("the cat", level="tokens")


def write_folder(folder: Path, model: Transformer, params: dict, subwords: Subwords) -> Path:
    huggingface.write(folder, model, params, subwords=subwords)
    return folder


def test_a_hugging_face_folder_loads(encoder: ctx_jax.Encoder, tmp_path: Path) -> None:
    loaded = ctx_jax.load(write_folder(tmp_path / "bert", TINY, encoder.params, SUBWORDS))
    assert (loaded.model.dim, loaded.model.layers) == (8, 2)
    inputs = loaded.tokenize(SENTENCES, rows=4, length=5)
    for name, array in encoder.tokenize(SENTENCES, rows=4, length=5).items():
        np.testing.assert_array_equal(inputs[name], array)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, encoder.params)


def test_files_that_look_like_allennlps_keep_no_hugging_face_folder_from_loading(
    encoder: ctx_jax.Encoder, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "bert", TINY, encoder.params, SUBWORDS)
    (folder / "train_options.json").write_text("{}")
    (folder / "tf_model.h5").write_text("version https://git-lfs")
    assert ctx_jax.load(folder).model == TINY
    (folder / "config.json").write_text('{"model_type": "elmo"}')
    with pytest.raises(ValueError, match=r"train_options\.json, but no weights can be read: tf_model\.h5"):
        ctx_jax.load(folder)


def test_a_tokenizer_that_does_not_belong_is_refused(encoder: ctx_jax.Encoder, tmp_path: Path) -> None:
    other = train(TEXT, "bpe", 270)
    folder = write_folder(tmp_path / "bert", TINY, encoder.params, other)
    with pytest.raises(ValueError, match=rf"vocabulary of {TINY.vocabulary}, its tokenizer one of {len(other)}"):
        ctx_jax.load(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match="holds no tokenizer"):
        ctx_jax.load(folder)


def test_rows_without_a_token_are_refused_until_they_are_named_or_dropped(
    encoder: ctx_jax.Encoder, tmp_path: Path
) -> None:
    """The two ways on that the error tells."""
    size, more = TINY.vocabulary, TINY.vocabulary + 2
    tables = encoder.params["embeddings"]
    rows = np.concatenate([np.asarray(tables["tokens"]), np.ones((2, 8), np.float32)])
    params = encoder.params | {"embeddings": tables | {"tokens": rows}}
    folder = write_folder(tmp_path / "bert", replace(TINY, vocabulary=more), params, SUBWORDS)
    with pytest.raises(ValueError, match=rf"rows {size} to {more - 1} of the model have no token") as raised:
        ctx_jax.load(folder)
    assert f'added_tokens.json ({{"<unused {size}>": {size}, ...}})' in str(raised.value)
    names = {f"<unused {number}>": number for number in range(size, more)}
    (folder / "added_tokens.json").write_text(json.dumps(names))
    named = ctx_jax.load(folder)
    np.testing.assert_array_equal(named.tokenize(SENTENCES)["token_ids"], encoder.tokenize(SENTENCES)["token_ids"])
    (folder / "added_tokens.json").unlink()
    tensors = load_file(folder / "model.safetensors")
    tensors["embeddings.word_embeddings.weight"] = tensors["embeddings.word_embeddings.weight"][:size]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": size}))
    jax.tree.map(np.testing.assert_array_equal, ctx_jax.load(folder).params, encoder.params)


def test_a_run_of_a_transformer_loads(encoder: ctx_jax.Encoder, tmp_path: Path) -> None:
    data = {"train": "text.txt", "rule": "prose"}
    config = {"type": "TrainConfig", "model": to_json(TINY), "data": data}
    (tmp_path / "config.json").write_text(json.dumps(config))
    SUBWORDS.save(tmp_path)
    with RunCheckpoints(tmp_path / "checkpoints", clean=True) as checkpoints:
        state = {"params": encoder.params, "step": jnp.int32(3)}
        checkpoints.save(3, state, {"sentence": np.int64(3)}, {"loss": 1.0})
    loaded = ctx_jax.load(tmp_path)
    assert loaded.model == TINY
    assert loaded.tokenize(["the cat."])["word_mask"].shape == (1, 3), "the run's rule cuts the full stop off"
    jax.tree.map(np.testing.assert_array_equal, loaded.params, encoder.params)


def test_padding_ids_must_agree_where_positions_follow_them(encoder: ctx_jax.Encoder, tmp_path: Path) -> None:
    model = replace(TINY, positions_after_padding=True, pad_id=1, norm_epsilon=1e-5)
    subwords = train(TEXT, "wordpiece", 60)  # pads with 0
    huggingface.write(tmp_path / "roberta", model, encoder.params, architecture="roberta")
    subwords.save(tmp_path / "roberta")
    with pytest.raises(ValueError, match="positions around pad_id=1, its tokenizer pads with 0"):
        ctx_jax.load(tmp_path / "roberta")
