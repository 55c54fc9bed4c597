"""The cache of token vectors is never wrong: not when it is full, shared by threads, or holds NaN."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
from test_families import BILM, CASES, SENTENCES

from ctx_jax.embedding.encoder import Encoder
from ctx_jax.encoders.base import CachesWords
from ctx_jax.encoders.elmo import BiLM, word_cache
from ctx_jax.encoders.elmo.inputs import CharacterInputs
from ctx_jax.encoders.elmo.word_cache import CachedWordInputs, WordVectors
from ctx_jax.tokenizers.characters import char_ids

MODEL = replace(BILM, filters=((1, 8), (3, 8)), max_characters=12, length_buckets=((5, 0.5), (9, 0.2)), highways=1)
PARAMS = MODEL.init(jax.random.key(0))
WORDS = [
    "",
    "a",
    "été",
    "the",
    "sevens7",
    "exactly10b",
    "longer than it reads",
    "<S>",
    "</S>",
    "\ud800b",
    "a",
]
LAYERS = jax.jit(BiLM.layers, static_argnums=0)
TOKEN_LAYER = jax.jit(BiLM.token_layer, static_argnums=0)


def uncached(words: list[str], params: Any = PARAMS) -> np.ndarray:
    """Token vectors [n, P] by `token_layer` of one padded sentence."""
    ids = char_ids([words], MODEL.max_characters, length=768)
    return np.asarray(TOKEN_LAYER(MODEL, params, {"char_ids": ids}))[0, : len(words), : MODEL.projection]


def numbered(count: int) -> list[str]:
    return [f"w{number}" for number in range(count)]


def same(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_layers_of_cached_words_are_those_of_their_characters() -> None:
    assert isinstance(MODEL, CachesWords)
    processor = MODEL.inputs(rule="prose")
    cached = MODEL.with_word_cache(PARAMS, processor)
    assert (cached.rule, cached.digest, cached.files) == (processor.rule, processor.digest, processor.files)
    for sentences in ([WORDS, [], ["the"]], [["été", "new"], WORDS]):  # the second time, most are cached
        ids = processor.pad(sentences, 4, len(WORDS) + 1)
        inputs = cached.pad(sentences, 4, len(WORDS) + 1)
        assert {name: (array.dtype, array.shape) for name, array in inputs.items()} == {
            "token_vectors": (np.float32, (4, len(WORDS) + 3, MODEL.projection)),
            "token_mask": (np.bool_, (4, len(WORDS) + 3)),
        }
        assert not inputs["token_vectors"][~inputs["token_mask"]].any()
        found, expected = LAYERS(MODEL, PARAMS, inputs), LAYERS(MODEL, PARAMS, ids)
        np.testing.assert_array_equal(found.mask, expected.mask)
        same(found.values, expected.values)
        same(TOKEN_LAYER(MODEL, PARAMS, inputs), expected.values[0])
    assert Encoder(MODEL, PARAMS, cached).tokenize([], rows=2, length=3)["token_mask"].tolist() == [[False] * 5] * 2


def test_a_word_is_encoded_once_in_few_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    encode, shapes = word_cache._encode, []

    def counted(model: BiLM, params: Any, ids: np.ndarray, positions: int) -> jax.Array:
        shapes.append((len(ids), positions))
        return encode(model, params, ids, positions)

    monkeypatch.setattr(word_cache, "_encode", counted)
    vectors = WordVectors(MODEL, PARAMS)
    words = [*WORDS, *numbered(700), "longer than 5"]
    first = vectors(words)
    assert sum(rows for rows, _ in shapes) < len(set(words)) + 3 * 256 and len(vectors) == len(set(words))
    assert set(shapes) <= {(256, positions) for positions in (5, 9, 12)}
    same(first, uncached(words))
    shapes.clear()
    np.testing.assert_array_equal(vectors(words[::-1]), first[::-1])
    assert shapes == []


def test_the_vector_of_a_word_does_not_depend_on_those_encoded_with_it() -> None:
    alone = np.concatenate([WordVectors(MODEL, PARAMS)([word]) for word in WORDS])
    for others in (numbered(1), numbered(90), numbered(1_000)):
        np.testing.assert_array_equal(WordVectors(MODEL, PARAMS)([*others, *WORDS])[len(others) :], alone)


def test_a_full_table_is_cleared_and_never_wrong() -> None:
    vectors, words = WordVectors(MODEL, PARAMS, capacity=7), [*WORDS, *numbered(25)]
    for start in (0, 3, 11, 20):
        some = words[start : start + 5]
        same(vectors(some), uncached(some))
        assert len(vectors) <= 7
    same(vectors(words), uncached(words))
    assert vectors([]).shape == (0, MODEL.projection)


def test_threads_share_a_table() -> None:
    vectors, words = WordVectors(MODEL, PARAMS, capacity=40), numbered(120)
    expected = uncached(words)
    with ThreadPoolExecutor(4) as pool:
        starts = [7 * call % 100 for call in range(60)]
        for start, found in zip(starts, pool.map(lambda at: vectors(words[at : at + 20]), starts), strict=True):
            same(found, expected[start : start + 20])


def test_nan_stays_in_the_words_that_have_it() -> None:
    embedding = np.array(PARAMS["characters"]["embedding"])
    embedding[ord("x")] = np.nan
    params = {**PARAMS, "characters": {"embedding": embedding}}
    words = ["ox", "cow", "axe", "hen"]
    inputs = MODEL.with_word_cache(params, MODEL.inputs()).pad([words[:1], words[1:2], words[2:], words[3:]], 4, 12)
    values = np.asarray(LAYERS(MODEL, params, inputs).values)  # [L, B, T, D]
    assert np.isnan(values[:, 0, 0]).any() and np.isnan(values[0, 2, 0]).all()
    assert np.isfinite(values[:, [1, 3]]).all() and np.isfinite(values[0, 2, 1]).all()


def test_what_fails_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = WordVectors(MODEL, PARAMS)
    with monkeypatch.context() as patch:
        patch.setattr(word_cache, "_encode", lambda *given: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            vectors(["a"])
    same(vectors(["a"]), uncached(["a"]))


def test_what_has_no_characters_of_this_model_is_not_cached() -> None:
    words = CASES["bilm_words"]
    assert words.model.with_word_cache(words.params, words.processor) is words.processor

    class Shouted(CharacterInputs):
        """A user's own processor, whose char_ids are not those of the words it is given."""

    for processor in (Shouted(MODEL.max_characters), CharacterInputs(MODEL.max_characters + 1)):
        assert MODEL.with_word_cache(PARAMS, processor) is processor
    assert isinstance(MODEL.with_word_cache(PARAMS, CharacterInputs(MODEL.max_characters, "prose")), CachedWordInputs)


@pytest.mark.slow
def test_wrong_token_vectors_are_named() -> None:
    inputs = MODEL.with_word_cache(PARAMS, MODEL.inputs()).pad(SENTENCES, len(SENTENCES), 4)
    for change, message in (
        ({"token_vectors": inputs["token_vectors"][..., :-1]}, r"token_vectors must be \[B, T \+ 2, 8\]"),
        ({"token_mask": inputs["token_mask"][:, :-1]}, r"token_mask must be \[8, 6\]"),
        ({name: array[:, :1] for name, array in inputs.items()}, "both sentence markers"),
        ({"char_ids": np.zeros((8, 6, 12), np.int32)}, "char_ids"),
    ):
        with pytest.raises(ValueError, match=message):
            MODEL.layers(PARAMS, {**inputs, **change})
    with pytest.raises(TypeError, match="token_mask must be bool"):
        MODEL.layers(PARAMS, {**inputs, "token_mask": inputs["token_mask"].astype(np.int32)})
