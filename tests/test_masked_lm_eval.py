"""What is measured of a masked language model: how evaluation reads its text, and the masks that it fills."""

from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from ctx_jax.data.batch import MaskedBatch
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.data.tokens import tokens_of
from ctx_jax.distributed.sharding import pipelined
from ctx_jax.encoders.transformer import SubwordInputs, Transformer, last_hidden
from ctx_jax.evaluation import pseudo_perplexity as pseudo
from ctx_jax.evaluation.fill_mask import fill_mask, filled_page
from ctx_jax.evaluation.masked_lm_eval import first_sentences, masked_lm_metrics
from ctx_jax.heads import Head
from ctx_jax.tokenizers.subword_training import train

TEXT = ["the cat sat under the table", "a quick dog barks under the house", "every bird sings over the table"] * 4
WORDS = [sentence.split() for sentence in TEXT]
SUBWORDS = train(TEXT, "wordpiece", 120)
MODEL = Transformer(len(SUBWORDS), dim=8, depth=1, heads=2, feed_forward=8, max_positions=24, initial_scale=0.5)


@pytest.fixture(scope="module")
def encoder() -> Any:
    """What `load` gives, as far as it is used."""

    @jax.jit
    def init(key: jax.Array) -> Any:
        return MODEL.init(key), MODEL.default_head().init(
            key, width=MODEL.width, vocabulary=MODEL.vocabulary, scale=1.0
        )

    params, head = init(jax.random.key(0))
    heads = {"masked_lm": Head(MODEL.default_head(), head)}
    return SimpleNamespace(model=MODEL, params=params, heads=heads, processor=SubwordInputs(SUBWORDS, MODEL.longest))


class Letters:
    """A tokenizer whose every word is one piece."""

    before, after, pad_id, mask_id = (1,), (2,), 0, 3

    def tokenize_words(self, sentences: list[list[str]]) -> list[Any]:
        return [SimpleNamespace(ids=np.full(len(words), 7, np.int32)) for words in sentences]

    def add_special_tokens(self, ids: np.ndarray) -> np.ndarray:
        return np.concatenate([self.before, ids, self.after]).astype(np.int32)


def replace_program(monkeypatch: pytest.MonkeyPatch, loss: Callable[..., Any]) -> None:
    """Puts `loss(params, batch, carry)` in the place of the compiled one."""
    monkeypatch.setattr(pseudo, "compile_loss", lambda *given: (loss, lambda params: params))


def test_pseudo_perplexity_streams_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[float] = []

    def loss(params: Any, batch: MaskedBatch, carry: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        counted.append(batch.predicted_weights.sum())
        return {"masked": (batch.predicted_weights * 2, batch.predicted_weights)}

    replace_program(monkeypatch, loss)
    monkeypatch.setattr(pseudo, "BLOCK", 2)
    taken: list[int] = []

    def text() -> Iterator[list[str]]:
        while not counted and len(taken) < 1000:
            taken.append(1)
            yield ["the", "cat"]

    done: list[float] = []
    progress = pseudo.Progress("", "")
    monkeypatch.setattr(progress, "add", done.append)
    found = pseudo.pseudo_perplexity(MODEL, {}, Letters(), text(), batch_size=4, progress=progress)  # type: ignore[arg-type]
    assert len(taken) < 50, "the whole text was read before the first batch"
    assert (found.loss, found.tokens) == (2.0, 2 * len(taken)) and sum(done) == len(taken)


def test_pipelined_yields_results_in_order_after_requesting_the_next() -> None:
    asked: list[int] = []

    def results() -> Iterator[int]:
        for number in range(4):
            asked.append(number)
            yield number

    assert [(result, asked[-1]) for result in pipelined(results())] == [(0, 1), (1, 2), (2, 3), (3, 3)]
    assert not list(pipelined([]))


def test_metrics_do_not_depend_on_the_devices(encoder: Any) -> None:
    tokens = tokens_of(WORDS, np.array([0, 6]), SUBWORDS)
    params = {"encoder": encoder.params, "head": {"masked_lm": encoder.heads["masked_lm"].params}}
    config = SequenceConfig(length=16, batch_size=4, mask_rate=0.3, short_steps=10, short_length=8)
    one, two = (
        masked_lm_metrics(MODEL, params, tokens, SUBWORDS, config, devices=jax.local_devices()[:count])
        for count in (1, 2)
    )
    assert one["loss"] > 0 and one == pytest.approx(two, rel=1e-5)
    assert [len(first_sentences(tokens, count)) for count in (0, 5, 100)] == [12, 5, 12]
    assert first_sentences(tokens, 6).documents.tolist() == [0]


def test_a_mask_is_filled_with_the_likeliest_tokens(encoder: Any) -> None:
    """Against the softmax of the head's scores, of sentences one by one; two masks in a sentence."""
    sentences = ["the cat sat [MASK] the table", "[MASK] quick dog [MASK]"]
    found = fill_mask(encoder, sentences, top=3)
    assert [len(masks) for masks in found] == [1, 2]
    head = encoder.heads["masked_lm"]
    scores = jax.jit(partial(head.module.logits, head.params, table=encoder.params["embeddings"]["tokens"]))
    for sentence, masks in zip(sentences, found, strict=True):
        ids = np.array(SUBWORDS.tokenizer.encode(sentence).ids)
        logits = np.asarray(scores(last_hidden(MODEL, encoder.params, ids[None])[0]))
        for place, fillings in zip(np.flatnonzero(ids == SUBWORDS.mask_id), masks, strict=True):
            expected = np.exp(logits[place] - np.logaddexp.reduce(logits[place]))
            expected[list(SUBWORDS.special_ids)] = 0
            best = np.argsort(-expected)[:3]
            assert [token for token, _ in fillings] == [SUBWORDS.decode([number]) for number in best]
            np.testing.assert_allclose([share for _, share in fillings], expected[best], rtol=1e-4)
    assert fill_mask(encoder, [sentence.split() for sentence in sentences], top=3) == found
    assert fill_mask(encoder, []) == []


def test_what_has_no_mask_to_fill_is_refused(encoder: Any) -> None:
    with pytest.raises(ValueError, match=r"sentence 1 has no mask token, \[MASK\]"):
        fill_mask(encoder, ["the [MASK]", "the cat"])
    with pytest.raises(ValueError, match=r"sentence 0 has \d+ tokens, the model's positions hold 24"):
        fill_mask(encoder, ["the [MASK] " * 20])
    with pytest.raises(ValueError, match=r"masked_lm head.*\['pooler'\]"):
        fill_mask(SimpleNamespace(heads={"pooler": None}), ["[MASK]"])
    with pytest.raises(TypeError, match="list of sentences"):
        fill_mask(encoder, "[MASK]")


@pytest.mark.slow
def test_a_page_shows_sentences_with_a_masked_word(encoder: Any) -> None:
    page = filled_page(MODEL, encoder.params, encoder.heads["masked_lm"], SUBWORDS, WORDS, top=2)
    lines = page.splitlines()[1:]
    assert len(lines) == 2 * 3 and all("[MASK]" in line for line in lines[::2])
    for shown, filled in zip(lines[::2], lines[1::2], strict=True):
        word, fillings = filled.strip().split(": ")
        assert shown.strip().replace("[MASK]", word) in TEXT
        assert len(fillings.split(", ")) == 2
    assert "no sentence" in filled_page(MODEL, encoder.params, encoder.heads["masked_lm"], SUBWORDS, [["a"]])
