"""Perplexity: the original's numbers, and the laws that let a number stand for a text and nothing else."""

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
from ctx_jax.encoders.elmo import allennlp
from ctx_jax.encoders.elmo import model as bilm
from ctx_jax.encoders.elmo.model import BiLM
from ctx_jax.evaluation.perplexity import exp_or_inf, perplexity, sentence_scores, summarize
from ctx_jax.evaluation.pseudo_perplexity import PseudoPerplexity
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
        vocabulary=len(WORDS), max_characters=8, character_dim=3, filters=((1, 4), (2, 6)), highways=1,
        dim=7, projection=5, layers=2, dropout=0.5,
    )  # fmt: skip
    drawn = jax.jit(bilm.init, static_argnums=0)(model, jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf * 3, drawn)  # far from uniform
    return model, params, Vocabulary(tuple(WORDS))


@pytest.fixture(scope="module")
def original(golden: Path) -> tuple[BiLM, Any, Vocabulary, list[list[str]], dict[str, Any]]:
    """The original trainer's weights after its last step, and what its own test printed for them."""
    folder = golden / "train_char_skip"
    model = allennlp.model_from_options(json.loads((folder / "options.json").read_text()))
    arrays: dict[str, np.ndarray] = {}
    with h5py.File(folder / "trace.hdf5") as file:
        group = file["params_after_step11"]
        group.visititems(lambda name, item: arrays.update({name: item[()]} if isinstance(item, h5py.Dataset) else {}))
    # The held-out text travels as ids: its words are put together from their characters, all others get a number.
    with np.load(folder / "heldout.npz") as heldout:
        ids, lengths = heldout["ids"].tolist(), heldout["lengths"].tolist()
        words = [bytes(row[row < 256].astype(np.uint8)).decode() for row in heldout["characters"]]
    known = dict(enumerate(WORDS[:3])) | {number: word for number, word in zip(ids, words, strict=True) if number > 2}
    vocabulary = Vocabulary(tuple(known.get(number, f"#{number}") for number in range(model.vocabulary)))
    assert vocabulary.ids(words).tolist() == ids
    remaining = iter(words)
    sentences = [list(islice(remaining, length)) for length in lengths]
    expected = json.loads((folder / "eval.json").read_text())["by_batch_size"]
    return model, allennlp.params_from_arrays(model, arrays), vocabulary, sentences, expected


@pytest.mark.parametrize("batch", [1, 2])
def test_meets_the_numbers_of_the_original(original: Any, batch: int) -> None:
    model, params, vocabulary, sentences, expected = original
    found = perplexity(model, params, vocabulary, sentences, protocol="bilm-tf", batch=batch, devices=ONE)
    wanted = expected[str(batch)]
    assert len(found.batches) == wanted["n_batches"]
    assert found.tokens == batch * wanted["n_batches"]
    np.testing.assert_allclose(found.batches, wanted["batch_perplexity"], rtol=1e-5)
    np.testing.assert_allclose(found.perplexity, wanted["avg_perplexity"], rtol=1e-5)
    # One lane reads the whole text in its order: that is the stream.
    if batch == 1:
        stream = perplexity(model, params, vocabulary, sentences, protocol="stream", window=16, devices=ONE)
        np.testing.assert_allclose(stream.perplexity, wanted["avg_perplexity"], rtol=1e-5)


def test_more_lanes_than_sentences_is_an_error_and_no_nan(original: Any) -> None:
    model, params, vocabulary, sentences, expected = original
    assert expected["5"]["n_batches"] == 0
    with pytest.raises(ValueError, match=r"fills 5 lanes.*smaller batch"):
        perplexity(model, params, vocabulary, sentences, protocol="bilm-tf", batch=5, devices=ONE)


def reference(model: BiLM, params: Any, sentences: list[list[str]], *, carried: bool) -> np.ndarray:
    """Nats [sentence, direction], one word at a time: no windows, no lanes, no padding."""
    ids = {word: number for number, word in enumerate(WORDS)}
    carry = zero = bilm.zero_carry(model, 1)
    rows = []
    for words in sentences:
        wrapped = ["<S>", *words, "</S>"]
        nats = np.zeros(2)
        for place in range(len(words) + 1):
            batch: dict[str, np.ndarray] = {}
            for suffix, order in (("", wrapped), ("_reverse", wrapped[::-1])):
                batch["tokens_characters" + suffix] = np.array([[characters(order[place])]], np.int32)
                batch["next_token_id" + suffix] = np.array([[ids.get(order[place + 1], 2)]], np.int32)
            terms, carry = STEP(model, params, batch, carry)
            nats += [float(terms[name][0]) for name in ("forward", "backward")]
        rows.append(nats)
        carry = carry if carried else zero
    return np.array(rows)


def characters(word: str) -> list[int]:
    inside = {"<S>": [256], "</S>": [257]}.get(word, list(word.encode()))[:6]
    return ([258, *inside, 259] + [260] * 8)[:8]


@pytest.mark.parametrize(("protocol", "window"), [("sentence", 3), ("stream", 7)])
def test_every_target_of_every_sentence_counts(tiny: Any, protocol: Any, window: int) -> None:
    model, params, _ = tiny
    expected = reference(model, params, TEXT, carried=protocol == "stream")
    scores = list(sentence_scores(*tiny, TEXT, protocol=protocol, batch=2, window=window, devices=ONE))
    assert [score.sentence for score in scores] == list(range(len(TEXT)))
    assert [score.tokens for score in scores] == [len(words) + 1 for words in TEXT]
    assert [score.unknown for score in scores] == [0, 0, 2, 0, 0, 0]
    np.testing.assert_allclose([[score.forward, score.backward] for score in scores], expected, rtol=1e-5)
    total = perplexity(*tiny, TEXT, protocol=protocol, batch=2, window=window, devices=ONE)
    assert total == summarize(scores, protocol)
    tokens = sum(len(words) + 1 for words in TEXT)
    assert (total.tokens, total.unknown) == (tokens, 2 / tokens)
    forward, backward = expected.sum(axis=0) / tokens
    np.testing.assert_allclose(total.forward_perplexity, math.exp(forward), rtol=1e-5)
    np.testing.assert_allclose(total.backward_perplexity, math.exp(backward), rtol=1e-5)
    np.testing.assert_allclose(total.perplexity, math.exp((forward + backward) / 2), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "window", "devices"), [(1, 7, 1), (5, 4, 1), (16, 3, 8)])
def test_sentences_give_one_number_for_any_batch_window_order_and_devices(
    tiny: Any, batch: int, window: int, devices: int
) -> None:
    expected = perplexity(*tiny, TEXT, batch=2, window=3, devices=ONE)
    shape = {"batch": batch, "window": window, "devices": jax.devices()[:devices]}
    for text in (TEXT, TEXT[::-1]):
        found = perplexity(*tiny, text, **shape)
        assert found.tokens == expected.tokens
        np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-6)
        np.testing.assert_allclose(found.forward_perplexity, expected.forward_perplexity, rtol=1e-6)


def test_a_stream_gives_one_number_for_any_window(tiny: Any) -> None:
    one, seven = (perplexity(*tiny, TEXT, protocol="stream", window=window, devices=ONE) for window in (1, 7))
    assert one.tokens == seven.tokens == sum(len(words) + 1 for words in TEXT)
    np.testing.assert_allclose(one.loss, seven.loss, rtol=1e-6)


def test_a_stream_remembers_and_a_sentence_does_not(tiny: Any) -> None:
    repeated = [TEXT[0], TEXT[0]]
    alone = [score.forward for score in sentence_scores(*tiny, repeated, batch=2, window=3, devices=ONE)]
    carried = [score.forward for score in sentence_scores(*tiny, repeated, protocol="stream", window=7, devices=ONE)]
    np.testing.assert_allclose([alone[0], alone[0]], [alone[1], carried[0]], rtol=1e-6)
    assert abs(carried[1] - carried[0]) > 1e-4


def test_a_sentence_of_three_thousand_words(tiny: Any) -> None:
    model, params, _ = tiny
    long = [TEXT[2] * 300]
    short, found = sentence_scores(*tiny, [TEXT[0], *long], batch=2, window=3, devices=ONE)
    assert (short.tokens, found.tokens) == (5, 3001)
    expected = reference(model, params, long, carried=False)[0]
    np.testing.assert_allclose([found.forward, found.backward], expected, rtol=1e-5)


def test_errors_say_what_to_change(tiny: Any) -> None:
    model, params, _ = tiny
    with pytest.raises(ValueError, match="at least one sentence"):
        perplexity(*tiny, [], devices=ONE)
    with pytest.raises(ValueError, match="--batch.* are 1 or more"):
        perplexity(*tiny, TEXT, batch=-1)
    with pytest.raises(ValueError, match="vocabulary the model was trained with"):
        perplexity(model, params, Vocabulary(tuple(WORDS[:-1])), TEXT)
    with pytest.raises(TypeError, match="list of words"):
        perplexity(*tiny, ["the cat"], devices=ONE)  # type: ignore[list-item]


def test_a_perplexity_that_no_float_holds_is_infinite() -> None:
    assert (exp_or_inf(math.log(7.0)), exp_or_inf(710.0), PseudoPerplexity(710.0, 1).perplexity) == (
        pytest.approx(7.0), math.inf, math.inf,
    )  # fmt: skip
    assert math.isnan(exp_or_inf(math.nan))
