"""A Transformer behind the encoder's calls: one vector a word, tokens on request, loading."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ctx_jax
from ctx_jax.checkpoints.run_files import EncoderFile
from ctx_jax.checkpoints.runs import RunCheckpoints
from ctx_jax.encoders.transformer import SubwordInputs, Transformer
from ctx_jax.encoders.transformer.huggingface import folders as huggingface
from ctx_jax.evaluation.fill_mask import fill_mask
from ctx_jax.io import configs
from ctx_jax.io.errors import CtxJaxError, InputError, InputTypeError
from ctx_jax.tokenizers.subword_training import train

TEXT = ["the cat sat on the mat", "a dog and a cat", "the dogs sat", "mats and cats"] * 5
SUBWORDS = train(TEXT, "wordpiece", 60)
TINY = Transformer(vocabulary=len(SUBWORDS), dim=8, depth=2, heads=2, feed_forward=12, max_positions=20, token_types=1)
SENTENCES = ["the cat sat", "", "dogs", "a\u200b \u200b mats and dog"]


@pytest.fixture(scope="module")
def encoder() -> ctx_jax.Encoder:
    return ctx_jax.Encoder(TINY, jax.jit(TINY.init)(jax.random.key(0)), SubwordInputs(SUBWORDS, TINY.longest))


embed = jax.jit(ctx_jax.embed, static_argnums=0)


def test_strings_words_and_tokens_are_those_of_the_processor(encoder: ctx_jax.Encoder) -> None:
    processor = encoder.processor
    for found, expected in (
        (encoder.tokenize(["the  cat\n"]), processor.arrays([["the", "cat"]])),
        (encoder.tokenize([["the", "cat"]], tokens=9), processor.arrays([["the", "cat"]], tokens=9)),
        (encoder.tokenize(["the cat", ""], level="tokens", rows=3, length=9),
         processor.token_arrays(["the cat", ""], rows=3, length=9)),
    ):  # fmt: skip
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert all(len(array) == 0 for array in encoder.tokenize([], level="tokens").values())


def test_encode_gives_each_sentence_its_words(encoder: ctx_jax.Encoder) -> None:
    """In batches of two shapes; among the words are some without pieces."""
    found = list(encoder.encode(SENTENCES))
    assert [vectors.shape for vectors in found] == [(3, len(s.split()), 8) for s in SENTENCES]
    layers = embed(TINY, encoder.params, encoder.tokenize(SENTENCES, rows=4, length=5))
    for row, vectors in enumerate(found):
        np.testing.assert_allclose(vectors, layers.values[:, row, : vectors.shape[1]], atol=1e-5)


@pytest.mark.slow
def test_a_word_of_any_number_of_pieces_has_a_static_vector() -> None:
    longer = replace(TINY, max_positions=64)
    params = jax.jit(longer.init)(jax.random.key(0))
    assert ctx_jax.Encoder(longer, params, SubwordInputs(SUBWORDS, 64)).word_vectors(["t" * 40, "a"]).shape == (2, 8)


def test_what_does_not_fit_is_refused(encoder: ctx_jax.Encoder) -> None:
    """More of it in `test_subword_inputs.py`."""
    with pytest.raises(InputError, match="positions hold 20"):
        encoder.tokenize([" ".join(["cat"] * 30)])
    with pytest.raises(InputError, match='level="tokens" the length'):
        encoder.tokenize(["a"], level="tokens", tokens=8)
    with pytest.raises(InputError, match="level .*pieces"):
        encoder.tokenize(["a"], level="pieces")  # type: ignore[arg-type]
    with pytest.raises(InputTypeError, match="wrap it in a list"):
        encoder.tokenize("the cat", level="tokens")


@pytest.mark.parametrize("number", [0, 5, 20])
def test_encode_names_the_sentence_as_the_caller_counts(encoder: ctx_jax.Encoder, number: int) -> None:
    """Though it reads ahead and sorts by length."""
    for bad in (["cat"] * 30, ["a \ud83d"], ["a", 3]):
        sentences: list[Any] = [["cat"] * (1 + i % 3) for i in range(24)]
        sentences[number] = bad
        with pytest.raises(CtxJaxError, match=rf"sentence {number} "):
            list(encoder.encode(sentences, long="error"))


def write_folder(folder: Path, params: Any) -> Path:
    huggingface.write(folder, TINY, params, subwords=SUBWORDS)
    return folder


def test_a_hugging_face_folder_loads(encoder: ctx_jax.Encoder, tmp_path: Path) -> None:
    loaded = ctx_jax.load(write_folder(tmp_path / "bert", encoder.params))
    assert (loaded.model.dim, loaded.model.depth) == (8, 2)
    inputs = loaded.tokenize(SENTENCES, rows=4, length=5)
    for name, array in encoder.tokenize(SENTENCES, rows=4, length=5).items():
        np.testing.assert_array_equal(inputs[name], array)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, encoder.params)


def test_files_that_look_like_allennlps_keep_no_hugging_face_folder_from_loading(
    encoder: ctx_jax.Encoder, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "bert", encoder.params)
    (folder / "train_options.json").write_text("{}")
    (folder / "tf_model.h5").write_text("version https://git-lfs")
    assert ctx_jax.load(folder).model == TINY
    (folder / "config.json").write_text('{"model_type": "elmo"}')
    with pytest.raises(ValueError, match=r"train_options\.json.*tf_model\.h5"):
        ctx_jax.load(folder)


@pytest.mark.slow
def test_a_run_of_a_transformer_loads_with_its_heads(encoder: ctx_jax.Encoder, tmp_path: Path) -> None:
    head = TINY.default_head()
    head_params = jax.jit(partial(head.init, width=TINY.width, vocabulary=TINY.vocabulary))(jax.random.key(1))
    (tmp_path / "encoder.json").write_text(configs.text(EncoderFile(TINY, {"masked_lm": head}, "prose")))
    SUBWORDS.save(tmp_path)
    with RunCheckpoints(tmp_path / "checkpoints", clean=True) as checkpoints:
        state = {"params": {"encoder": encoder.params, "head": {"masked_lm": head_params}}, "step": jnp.int32(3)}
        checkpoints.save(3, state, {"sentence": np.int64(3)}, {"loss": 1.0})
    loaded = ctx_jax.load(tmp_path)
    assert loaded.model == TINY and loaded.heads["masked_lm"].module == head
    assert loaded.tokenize(["the cat."])["word_mask"].shape == (1, 3), "the run's rule cuts the full stop off"
    jax.tree.map(np.testing.assert_array_equal, loaded.params, encoder.params)
    jax.tree.map(np.testing.assert_array_equal, loaded.heads["masked_lm"].params, head_params)
    ((fillings,),) = fill_mask(loaded, ["the [MASK] sat"], top=1)
    assert len(fillings) == 1 and 0 < fillings[0][1] < 1
