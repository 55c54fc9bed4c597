"""`encode`: layers, levels, long sentences, offsets, bad input; `test_encode_laws.py` has the law of all families."""

import copy
import logging
import lzma
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby, repeat
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from test_families import BERT, CASES, SUBWORDS, TABLE, TABLE_WORDS, Case

import ctx_jax
from ctx_jax.embedding.batching import plan
from ctx_jax.embedding.windows import merge, nearest, windows
from ctx_jax.io.errors import CtxJaxError, InputError, InputTypeError

TEXTS = ["the cat sat on the mat", "", "a dog", "mats and\u00a0cats  and été!"]
LONG = "the cat sat on a mat and dogs " * 9


@pytest.fixture(scope="module")
def bert() -> ctx_jax.Encoder:
    return CASES["bert"].encoder


def embedded(encoder: ctx_jax.Encoder, sentence: Any, level: Any = "words") -> np.ndarray:
    """[L, T, D] of one sentence, by `embed`."""
    layers = ctx_jax.embed(encoder.model, encoder.params, encoder.tokenize([sentence], level=level))
    return np.asarray(layers.values)[:, 0][:, np.asarray(layers.mask)[0]]


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * max(1.0, np.abs(expected).max(initial=0)))


@pytest.mark.slow
def test_layers_choose_those_of_embed(bert: ctx_jax.Encoder) -> None:
    encoder = replace(bert, model=replace(BERT, depth=2), params=replace(BERT, depth=2).init(jax.random.key(1)))
    mixing = {"weights": np.float32([0.1, 0.9, -0.3]), "gamma": np.float32(2)}
    for level in ("words", "tokens"):
        expected = [embedded(encoder, text, level) for text in TEXTS]
        for layers, of in (("all", [0, 1, 2]), ("last", 2), (1, 1), (-1, 2), ((2, 0), [2, 0]), ((-3,), [0])):
            for found, own in zip(encoder.encode(TEXTS, level=level, layers=layers), expected, strict=True):
                assert found.dtype == np.float32
                close(found, own[of])
        shares = np.exp(mixing["weights"]) / np.exp(mixing["weights"]).sum()
        for found, own in zip(encoder.encode(TEXTS, level=level, layers="mix", mix=mixing), expected, strict=True):
            close(found, 2 * np.einsum("l,ltd->td", shares, own))
    sentences = encoder.encode_array(TEXTS, layers=(0, -1))
    assert sentences.shape == (4, 2, 16)
    close(sentences[:, 1], encoder.encode_array(TEXTS))
    assert encoder.encode_array([]).shape == (0, 16) and encoder.encode_array([], layers="all").shape == (0, 3, 16)


def test_pieces_give_a_word_its_vector(bert: ctx_jax.Encoder) -> None:
    sentence = ["the", "matsats", "catsat", "aaa"]
    tokens = embedded(bert, sentence, "tokens")[:, 1:-1]  # the same pieces, special tokens around them
    words = np.array([0, 1, 1, 1, 2, 2, 3, 3, 3])
    for pieces, of in (
        ("mean", lambda own: own.mean(1)),
        ("max", lambda own: own.max(1)),
        ("first", lambda own: own[:, 0]),
        ("last", lambda own: own[:, -1]),
    ):
        expected = np.stack([of(tokens[:, words == word]) for word in range(4)], 1)
        close(next(bert.encode([sentence], pieces=pieces)), expected)


def test_dtypes_round_at_the_end(bert: ctx_jax.Encoder) -> None:
    exact = next(bert.encode(TEXTS))
    for dtype in ("float16", "bfloat16"):
        found = next(bert.encode(TEXTS, dtype=dtype))
        assert found.dtype.name == dtype
        np.testing.assert_array_equal(found, exact.astype(found.dtype))
        assert bert.encode_array(TEXTS, dtype=dtype).dtype.name == dtype
    large = replace(bert, params=jax.tree.map(lambda leaf: leaf * 3e5, bert.params))
    with pytest.raises(InputError, match="float16"):
        list(large.encode(TEXTS, dtype="float16"))


# --- longer than the model takes --------------------------------------------------------------------------------------


def test_windows_cover_every_unit_nearest_the_middle() -> None:
    assert windows(np.ones(10, int), 4) == [(0, 4), (2, 6), (4, 8), (6, 10)]
    assert nearest(windows(np.ones(10, int), 4), np.ones(10, int)).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3, 3]
    random = np.random.default_rng(0)
    for _ in range(300):
        sizes = random.integers(0, random.integers(2, 9), random.integers(1, 40))
        sizes[-1] = max(sizes[-1], 1)  # a unit without tokens shares those of the next one
        capacity = int(random.integers(1, 12))
        found = windows(sizes, capacity)
        assert sorted({unit for window in found for unit in range(*window)}) == list(range(len(sizes)))
        for first, stop in found:
            own = sizes[first:stop]
            assert own[-1] > 0 and (own.sum() <= capacity or np.count_nonzero(own) == 1)
        places = [np.arange(first, stop)[:, None] for first, stop in found]
        assert merge(places, found, sizes)[:, 0].tolist() == list(range(len(sizes)))


@pytest.mark.parametrize("level", ["words", "tokens"])
def test_a_word_of_a_long_sentence_has_the_vector_of_its_window(bert: ctx_jax.Encoder, level: Any) -> None:
    """Against windows that are cut, embedded and chosen here, for a sentence of single-piece words."""
    words = ["the", "cat", "sat", "on", "a"] * 12
    assert [len(ids.ids) for ids in bert.processor.split([[word] for word in words])] == [1] * 60
    capacity, special = BERT.longest - 2, 1 if level == "tokens" else 0
    starts = [*range(0, 60 - capacity, capacity // 2), 60 - capacity]
    own = [embedded(bert, words[start : start + capacity], level) for start in starts]
    middles = np.array(starts) + capacity / 2
    chosen = [int(np.abs(middles - (word + 0.5)).argmin()) for word in range(60)]
    expected = [own[k][:, word - starts[k] + special] for word, k in enumerate(chosen)]
    if level == "tokens":
        expected = [own[0][:, 0], *expected, own[-1][:, -1]]
    (found,) = bert.encode([words], level=level)
    close(found, np.stack(expected, 1))
    assert next(bert.encode([words], level=level, long="cut", layers="last")).shape == (capacity + 2 * special, 16)
    with pytest.raises(InputError, match=r"sentence 1 .*62.*24"):
        list(bert.encode([["a"], words], level=level, long="error"))


def test_a_word_of_more_pieces_than_the_model_takes_has_a_vector(bert: ctx_jax.Encoder) -> None:
    among, alone = bert.encode([["a", "t" * 60, "the cat"], ["t" * 60]])
    assert among.shape == (2, 3, 16)
    expected = embedded(bert, "t" * 22)  # so many pieces fit
    close(among[:, 1:2], expected)
    close(alone, expected)


def test_long_texts_are_cut_with_a_word_or_pooled_over_windows(
    bert: ctx_jax.Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    texts = ["the cat", LONG, "a dog", LONG[4:]]
    with caplog.at_level(logging.WARNING, "ctx_jax"):
        cut = bert.encode_array(texts)
    assert len(caplog.records) == 1 and "sentence 1 " in caplog.text
    close(cut[1], bert.encode_array([" ".join(LONG.split()[:22])])[0])
    tokens = list(bert.encode(texts, level="tokens", layers="last"))
    pooled = bert.encode_array(texts, long="windows")
    close(pooled, [own.mean(0) for own in tokens])
    close(bert.encode_array(texts, long="windows", pooling=("cls", "max"))[1], [*tokens[1][0], *tokens[1].max(0)])
    with pytest.raises(InputError, match="sentence 1 "):
        bert.encode_array(texts, long="error")
    close(bert.encode_array(texts, length=4, long="windows").shape, (4, 16))


# --- offsets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_offsets_point_at_the_words(name: str) -> None:
    case: Case = CASES[name]
    for rule in ("whitespace", "prose"):
        encoder = replace(case.encoder, processor=replace(case.processor, rule=rule))
        texts = ["The cat  sat.", "", "it doesn't\tmatter, Dr. Who!"]
        split = [ctx_jax.tokenizers.words.split_words(text, rule) for text in texts]
        for text, words, (vectors, offsets) in zip(texts, split, encoder.encode(texts, offsets=True), strict=True):
            assert [text[start:stop] for start, stop in offsets] == words and vectors.shape[-2] == len(words)
            assert offsets.dtype == np.int32 and offsets.shape == (len(words), 2)
        for words, (_, offsets) in zip(split, encoder.encode(split, offsets=True), strict=True):
            assert [" ".join(words)[start:stop] for start, stop in offsets] == words
        inputs = encoder.tokenize(texts, offsets=True)
        assert inputs["offsets"].shape == (3, max(map(len, split)), 2) and not inputs["offsets"][1].any()
        assert ctx_jax.embed(encoder.model, encoder.params, inputs).values.shape[1] == 3


def test_offsets_of_a_cut_sentence_end_with_its_special_token(bert: ctx_jax.Encoder) -> None:
    whole, cut = (next(bert.encode([LONG], level="tokens", offsets=True, long=long)).offsets for long in (None, "cut"))
    assert cut.tolist() == [*whole[:23].tolist(), [0, 0]] and len(whole) == 74


def test_offsets_of_tokens_are_the_tokenizers(bert: ctx_jax.Encoder) -> None:
    reference = SUBWORDS.tokenizer.encode(TEXTS[3])
    (vectors, offsets) = next(bert.encode([TEXTS[3]], level="tokens", offsets=True))
    assert offsets.tolist() == [list(span) for span in reference.offsets] and vectors.shape[1] == len(offsets)
    assert bert.tokenize(TEXTS, level="tokens", offsets=True)["offsets"][3].tolist() == offsets.tolist()
    words = ["été", "", "mats", " ", "dogs"]
    (_, offsets) = next(bert.encode([words], level="tokens", offsets=True))
    pieces = bert.processor.split([words])[0]
    joined, starts = " ".join(words), [0, 4, 5, 10, 12]
    for word, (start, stop) in zip(pieces.words, offsets[1:-1], strict=True):
        assert starts[word] <= start <= stop <= starts[word] + len(words[word])
    assert "".join(joined[start:stop] for start, stop in offsets).replace(" ", "") == "étématsdogs"
    (vectors, offsets) = next(bert.encode([LONG], offsets=True))
    assert len(offsets) == vectors.shape[1] == 72 and LONG[slice(*offsets[71])] == "dogs"
    with pytest.raises(InputError, match="offsets"):
        bert.encode(["a"], level="sentence", offsets=True)


# --- several processes, input -----------------------------------------------------------------------------------------


def test_each_process_of_a_job_takes_its_share_and_says_which(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = ctx_jax.Encoder(TABLE, TABLE.init(jax.random.key(0)), TABLE_WORDS).fit_sif(["the cat sat", "dogs"])
    texts = ["the cat", "dogs", "sat", "the", "cat dogs", "a lot"]
    settings: list[dict[str, Any]] = [{}, {"level": "sentence"}, {"level": "sentence", "pooling": "sif"}]
    expected = [list(encoder.encode(texts, **each)) for each in settings]
    monkeypatch.setattr("ctx_jax.embedding.encode_call.process_share", lambda: (1, 4))
    for each, of_all in zip(settings, expected, strict=True):
        with caplog.at_level(logging.INFO, "ctx_jax"):
            found = list(encoder.encode(texts, **each))
        assert "1, 5, 9" in caplog.text and len(found) == 2
        for own, number in zip(found, (1, 5), strict=True):
            np.testing.assert_array_equal(own, of_all[number])
    with pytest.raises(InputError, match="sentence 5 "):
        list(CASES["bert"].encoder.encode([*["a"] * 5, "half \ud83d"]))


def test_blocks_keep_order_and_numbers(bert: ctx_jax.Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentences that are generators, of which the next makes the one before empty."""
    monkeypatch.setattr("ctx_jax.embedding.encode.BLOCK_SENTENCES", 8)
    words = [word for number in range(30) for word in [("cat", "dogs")[number % 2]] * (1 + number % 3)]
    sentences = [list(group) for _, group in groupby(words)]
    expected = [next(bert.encode([sentence], layers="last")) for sentence in sentences[:6]]
    found = list(bert.encode((group for _, group in groupby(words)), layers="last"))
    assert len(found) == 30
    for number, vectors in enumerate(found):
        close(vectors, expected[number % 6])
    for level in ("words", "sentence"):
        with pytest.raises(InputError, match="sentence 25 "):
            list(bert.encode([*["cat"] * 25, "half \ud83d"], level=level))


@pytest.mark.slow
def test_a_sentence_of_100_000_words() -> None:
    words = np.random.default_rng(0).choice(["the", "cat", "sat", "a"], 100_000).tolist()
    for name in ("static", "bilm_words", "bert"):
        encoder = CASES[name].encoder
        (found,) = encoder.encode([words], layers="last")
        assert found.shape == (100_000, 16)
        start = encoder.encode([words[:12]], layers="last") if name == "static" else [found[:12]]
        close(next(iter(start)), found[:12])
        if name != "static":
            assert max((rows * length for rows, length in encoder.compiled_shapes), default=0) <= 16_384
        assert encoder.encode_array([words], long="windows" if name == "bert" else None).shape == (1, 16)


def test_other_parameters_have_another_cache_of_words() -> None:
    encoder = CASES["bilm"].encoder
    texts = [["cat", "sat"]]
    first = next(encoder.encode(texts))
    other = jax.tree.map(lambda leaf: leaf * 1.5, encoder.params)
    expected = next(replace(encoder, params=other).encode(texts))
    assert np.abs(first - expected).max() > 1e-3
    params = dict(encoder.params)
    changed = replace(encoder, params=params)
    close(next(changed.encode(texts)), first)
    params.update(other)
    np.testing.assert_array_equal(next(changed.encode(texts)), expected)
    close(next(copy.deepcopy(encoder).encode(texts)), first)


@pytest.mark.parametrize("path", ["lm/wikitext-2/valid.txt.xz", "pos/en_ewt/train.conllu.xz"])
def test_less_than_a_tenth_of_real_text_is_padding(path: str) -> None:
    if not (file := Path(__file__).resolve().parents[2] / "shared/data" / path).exists():
        pytest.skip(f"{file} is not there")
    with lzma.open(file, "rt") as lines:
        texts = [line.removeprefix("# text = ") for line in lines if line[:9] == "# text = " or "conllu" not in path]
    sizes = [min(len(text.split()) + 2, 256) for text in texts if text.strip()]
    batches = plan(sizes, 1024)
    assert sum(batch.rows * batch.length for batch in batches) < 1.1 * sum(sizes) > 1e5
    assert len({batch[1:] for batch in batches}) < 40


def test_an_abandoned_call_leaves_no_thread(bert: ctx_jax.Encoder) -> None:
    before = threading.active_count()
    found: Iterator[Any] = bert.encode(repeat("the cat"), batch_tokens=64)
    assert next(found).shape == (2, 2, 16)
    found.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("sentences", "error", "named"),
    [
        ("the cat", InputTypeError, "list"),
        (b"the cat", InputTypeError, "list"),
        (7, InputTypeError, "int"),
        (["a", 7], InputTypeError, "number 1 is a int"),
        ([7], InputTypeError, "sentence 0"),
        ([["a"], ["b", None]], InputTypeError, "sentence 1"),
        ([b"a"], InputTypeError, "sentence 0"),
        (["a", "half a pair \ud83d"], InputError, "sentence 1"),
    ],
)
def test_bad_input_is_refused(bert: ctx_jax.Encoder, sentences: Any, error: type, named: str) -> None:
    for level in ("words", "tokens", "sentence"):
        with pytest.raises(error, match=named):
            list(bert.encode(sentences, level=level))


@pytest.mark.parametrize(
    "settings",
    [
        {"level": "word"},
        {"layers": "top"},
        {"layers": 2},
        {"layers": (0, -3)},
        {"layers": ()},
        {"layers": 0.5},
        {"layers": True},
        {"layers": "mix"},
        {"mix": ctx_jax.init_mix(2)},
        {"layers": "mix", "mix": ctx_jax.init_mix(5)},
        {"pieces": "middle"},
        {"dtype": "float64"},
        {"batch_tokens": 0},
        {"long": "fold"},
        {"pooling": "mean"},
        {"level": "tokens", "normalize": True},
        {"level": "tokens", "pieces": "mean"},
        {"level": "sentence", "pieces": "mean"},
        {"level": "sentence", "pooling": "median"},
    ],
)
def test_settings_that_do_not_fit_are_refused_at_the_call(bert: ctx_jax.Encoder, settings: dict[str, Any]) -> None:
    with pytest.raises(CtxJaxError, match=list(settings)[-1]):
        bert.encode(["a"], **settings)


@pytest.mark.parametrize("name", ["bert", "gpt", "bilm", "static"])
def test_odd_texts_have_the_documented_vectors(name: str) -> None:
    encoder = CASES[name].encoder
    texts = ["", " \t\n", "a\0b", "\u200b", "cat " * 300]
    counts = [0, 0, 1, 1, 300]
    assert [vectors.shape[1] for vectors in encoder.encode(texts)] == counts
    (empty_word,) = encoder.encode([["", "cat"]])
    assert empty_word.shape[1] == 2
    assert np.isfinite(encoder.encode_array(texts)).all()
    assert len(list(encoder.encode(iter(["one"])))) == 1 and list(encoder.encode([])) == []


@pytest.mark.slow
def test_scanned_and_windowed_models_take_long_sentences() -> None:
    for name in ("modernbert", "gpt"):
        assert next(CASES[name].encoder.encode([LONG], layers="last")).shape == (72, 16)
