"""Perplexity: the original's numbers, and that nothing but text, model and protocol changes it."""

import json
import math
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import jax
import numpy as np
import pytest

from ctx_jax import losses
from ctx_jax.data.batch import BiLMBatch
from ctx_jax.encoders.elmo import BiLM, model_from_options, params_from_arrays, zero_carry
from ctx_jax.encoders.elmo.init import init_softmax
from ctx_jax.evaluation.perplexity import exp_or_inf, perplexity, sentence_scores, summarize
from ctx_jax.evaluation.pseudo_perplexity import PseudoPerplexity
from ctx_jax.io.errors import ConfigError
from ctx_jax.tokenizers.characters import encode_word
from ctx_jax.tokenizers.vocabulary import Vocabulary

WORDS = ["<S>", "</S>", "<UNK>", "the", "cat", "dog", "sat", "on", "a", "mat", "."]
TEXT = [
    ["the", "cat", "sat", "."],
    ["a", "dog"],
    ["the", "mat", "sat", "on", "the", "zebra", "and", "the", "dog", "."],
    [],
    ["on", "on", "on", "a", "mat"],
    ["cat"],
]
ONE = jax.devices()[:1]
STEP = jax.jit(losses.bilm, static_argnums=0)


@pytest.fixture(scope="module")
def tiny() -> tuple[BiLM, Any, Vocabulary]:
    model = BiLM(
        max_characters=8, character_dim=3, filters=((1, 4), (2, 6)), highways=1, dim=7, projection=5, depth=2,
        dropout=0.5,
    )  # fmt: skip
    softmax = init_softmax(model, jax.random.key(1), vocabulary=len(WORDS))
    params = {"encoder": model.init(jax.random.key(0)), "head": {"softmax": softmax}}
    params = jax.tree.map(lambda leaf: leaf * 3, params)  # far from uniform
    return model, params, Vocabulary(tuple(WORDS))


@pytest.fixture(scope="module")
def original(golden: Path) -> tuple[BiLM, Any, Vocabulary, list[list[str]], dict[str, Any]]:
    """The original trainer's weights after its last step, and what its own test printed for them."""
    folder = golden / "train_char_skip"
    options = json.loads((folder / "options.json").read_text())
    model = model_from_options(options)
    arrays: dict[str, np.ndarray] = {}
    with h5py.File(folder / "trace.hdf5") as file:
        group = file["params_after_step11"]
        group.visititems(lambda name, item: arrays.update({name: item[()]} if isinstance(item, h5py.Dataset) else {}))
    # The held-out text is stored as ids: its words are rebuilt from their characters, all others are named by number.
    with np.load(folder / "heldout.npz") as heldout:
        ids, lengths = heldout["ids"].tolist(), heldout["lengths"].tolist()
        words = [bytes(row[row < 256].astype(np.uint8)).decode() for row in heldout["characters"]]
    known = dict(enumerate(WORDS[:3])) | {number: word for number, word in zip(ids, words, strict=True) if number > 2}
    vocabulary = Vocabulary(tuple(known.get(number, f"#{number}") for number in range(options["n_tokens_vocab"])))
    assert vocabulary.ids(words).tolist() == ids
    remaining = iter(words)
    sentences = [list(islice(remaining, length)) for length in lengths]
    expected = json.loads((folder / "eval.json").read_text())["by_batch_size"]
    return model, params_from_arrays(model, arrays), vocabulary, sentences, expected


@pytest.mark.parametrize("batch", [1, 2])
def test_meets_the_numbers_of_the_original(original: Any, batch: int) -> None:
    model, params, vocabulary, sentences, expected = original
    found = perplexity(model, params, vocabulary, sentences, protocol="bilm-tf", batch=batch, devices=ONE)
    wanted = expected[str(batch)]
    assert len(found.batches) == wanted["n_batches"]
    assert found.tokens == batch * wanted["n_batches"]
    np.testing.assert_allclose(found.batches, wanted["batch_perplexity"], rtol=1e-5)
    np.testing.assert_allclose(found.perplexity, wanted["avg_perplexity"], rtol=1e-5)
    # One row reads the whole text in its order: that is the stream.
    if batch == 1:
        stream = perplexity(model, params, vocabulary, sentences, protocol="stream", unroll_steps=16, devices=ONE)
        np.testing.assert_allclose(stream.perplexity, wanted["avg_perplexity"], rtol=1e-5)


def test_more_rows_than_sentences_is_an_error_and_no_nan(original: Any) -> None:
    model, params, vocabulary, sentences, expected = original
    assert expected["5"]["n_batches"] == 0
    with pytest.raises(ValueError, match=r"fills 5 rows.*smaller batch"):
        perplexity(model, params, vocabulary, sentences, protocol="bilm-tf", batch=5, devices=ONE)


def reference(model: BiLM, params: Any, sentences: list[list[str]], *, carried: bool) -> np.ndarray:
    """Nats [sentence, direction], one word at a time: no batches, no padding."""
    ids = {word: number for number, word in enumerate(WORDS)}
    carry = zero = zero_carry(model, 1)
    rows = []
    for words in sentences:
        wrapped = ["<S>", *words, "</S>"]
        nats = np.zeros(2)
        for place in range(len(words) + 1):
            orders = (wrapped, wrapped[::-1])
            inputs = [encode_word(order[place], 8)[None, None] for order in orders]
            targets = [np.array([[ids.get(order[place + 1], 2)]], np.int32) for order in orders]
            terms, carry = STEP(model, params, BiLMBatch(*inputs, *targets), carry)
            nats += [float(terms[name][0]) for name in ("forward", "backward")]
        rows.append(nats)
        carry = carry if carried else zero
    return np.array(rows)


@pytest.mark.slow
@pytest.mark.parametrize(("protocol", "steps"), [("sentence", 3), ("stream", 7)])
def test_every_target_of_every_sentence_counts(tiny: Any, protocol: Any, steps: int) -> None:
    model, params, _ = tiny
    expected = reference(model, params, TEXT, carried=protocol == "stream")
    scores = list(sentence_scores(*tiny, TEXT, protocol=protocol, batch=2, unroll_steps=steps, devices=ONE))
    assert [score.sentence for score in scores] == list(range(len(TEXT)))
    assert [score.tokens for score in scores] == [len(words) + 1 for words in TEXT]
    assert [score.unknown for score in scores] == [0, 0, 2, 0, 0, 0]
    np.testing.assert_allclose([[score.forward, score.backward] for score in scores], expected, rtol=1e-5)
    total = perplexity(*tiny, TEXT, protocol=protocol, batch=2, unroll_steps=steps, devices=ONE)
    assert total == summarize(scores, protocol)
    tokens = sum(len(words) + 1 for words in TEXT)
    assert (total.tokens, total.unknown) == (tokens, 2 / tokens)
    forward, backward = expected.sum(axis=0) / tokens
    np.testing.assert_allclose(total.forward_perplexity, math.exp(forward), rtol=1e-5)
    np.testing.assert_allclose(total.backward_perplexity, math.exp(backward), rtol=1e-5)
    np.testing.assert_allclose(total.perplexity, math.exp((forward + backward) / 2), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "steps", "devices"), [(1, 7, 1), (5, 4, 1), (16, 3, 8)])
def test_sentences_give_one_number_for_any_batch_steps_order_and_devices(
    tiny: Any, batch: int, steps: int, devices: int
) -> None:
    expected = perplexity(*tiny, TEXT, batch=2, unroll_steps=3, devices=ONE)
    shape = {"batch": batch, "unroll_steps": steps, "devices": jax.devices()[:devices]}
    for text in (TEXT, TEXT[::-1]):
        found = perplexity(*tiny, text, **shape)
        assert found.tokens == expected.tokens
        np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-6)
        np.testing.assert_allclose(found.forward_perplexity, expected.forward_perplexity, rtol=1e-6)


@pytest.mark.slow
def test_a_stream_gives_one_number_for_any_unroll_steps(tiny: Any) -> None:
    one, seven = (perplexity(*tiny, TEXT, protocol="stream", unroll_steps=steps, devices=ONE) for steps in (1, 7))
    assert one.tokens == seven.tokens == sum(len(words) + 1 for words in TEXT)
    np.testing.assert_allclose(one.loss, seven.loss, rtol=1e-6)


def test_a_stream_carries_state_and_a_sentence_does_not(tiny: Any) -> None:
    repeated = [TEXT[0], TEXT[0]]
    alone = [score.forward for score in sentence_scores(*tiny, repeated, batch=2, unroll_steps=3, devices=ONE)]
    carried = [
        score.forward for score in sentence_scores(*tiny, repeated, protocol="stream", unroll_steps=7, devices=ONE)
    ]
    np.testing.assert_allclose([alone[0], alone[0]], [alone[1], carried[0]], rtol=1e-6)
    assert abs(carried[1] - carried[0]) > 1e-4


def test_a_sentence_of_three_thousand_words(tiny: Any) -> None:
    model, params, _ = tiny
    long = [TEXT[2] * 300]
    short, found = sentence_scores(*tiny, [TEXT[0], *long], batch=2, unroll_steps=3, devices=ONE)
    assert (short.tokens, found.tokens) == (5, 3001)
    expected = reference(model, params, long, carried=False)[0]
    np.testing.assert_allclose([found.forward, found.backward], expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["sentence", "stream", "bilm-tf"])
def test_progress_counts_sentences(tiny: Any, protocol: Any) -> None:
    counts: list[int] = []
    perplexity(*tiny, TEXT, protocol=protocol, batch=2, unroll_steps=3, devices=ONE, progress=counts.append)
    assert sum(counts) == len(TEXT)


@pytest.mark.slow
def test_a_model_over_words_with_a_tied_softmax(tiny: Any) -> None:
    _, _, vocabulary = tiny
    model = BiLM("words", len(WORDS), dim=7, projection=5, depth=1)
    encoder = model.init(jax.random.key(0))
    decoder = {"bias": np.zeros(len(WORDS), np.float32)}
    tied = {"encoder": encoder, "head": {"softmax": {"decoder": decoder}}}
    full = {"encoder": encoder, "head": {"softmax": {"decoder": decoder | {"matrix": encoder["words"]["embedding"]}}}}
    found = [perplexity(model, each, vocabulary, TEXT, batch=2, unroll_steps=3, devices=ONE) for each in (tied, full)]
    assert found[0] == found[1]
    assert 1 < found[0].perplexity < 2 * len(WORDS)


def test_errors_say_what_to_change(tiny: Any) -> None:
    model, params, _ = tiny
    with pytest.raises(ValueError, match="at least one sentence"):
        perplexity(*tiny, [], devices=ONE)
    with pytest.raises(ConfigError, match="batch must be at least 1, got -1"):
        perplexity(*tiny, TEXT, batch=-1)
    with pytest.raises(ValueError, match="softmax head"):
        perplexity(model, {"encoder": params["encoder"]}, Vocabulary(tuple(WORDS)), TEXT)
    with pytest.raises(ValueError, match="vocabulary the model was trained with"):
        perplexity(model, params, Vocabulary(tuple(WORDS[:-1])), TEXT)
    with pytest.raises(TypeError, match="list of words"):
        perplexity(*tiny, ["the cat"], devices=ONE)  # type: ignore[list-item]


def test_a_perplexity_beyond_float_is_infinite() -> None:
    assert (exp_or_inf(math.log(7.0)), exp_or_inf(710.0), PseudoPerplexity(710.0, 1).perplexity) == (
        pytest.approx(7.0), math.inf, math.inf,
    )  # fmt: skip
    assert math.isnan(exp_or_inf(math.nan))
