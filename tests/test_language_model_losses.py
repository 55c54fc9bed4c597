"""A Transformer's losses against plain numpy, and what their gradients may reach."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

from ctx_jax import losses
from ctx_jax.data.batch import CausalBatch, MaskedBatch, TokenRows
from ctx_jax.encoders.transformer import Transformer, last_hidden
from ctx_jax.heads import Pooler, SequenceHead, VocabularyHead
from ctx_jax.io.errors import ConfigError, InputError

B, T, K, V = 3, 6, 2, 11
MODEL = Transformer(V, dim=8, depth=1, heads=2, feed_forward=12, max_positions=T, initial_scale=0.5)
RANDOM = np.random.default_rng(0)
IDS = RANDOM.integers(0, V, (B, T), dtype=np.int32)
MASK = np.arange(T) < np.array([6, 5, 3])[:, None]
BATCH = MaskedBatch(
    tokens=TokenRows(IDS, mask=MASK, token_types=RANDOM.integers(0, 2, (B, T), dtype=np.int32)),
    predicted_positions=np.array([[1, 4], [3, 0], [0, 0]], np.int32),
    predicted_ids=RANDOM.integers(0, V, (B, K), dtype=np.int32),
    predicted_weights=np.array([[1, 1], [1, 0], [0, 0]], np.float32),
    next_sentence=np.array([0, 1, 1], np.int32),
    next_sentence_weights=np.array([1, 1, 0], np.float32),
)
PLAIN = BATCH._replace(next_sentence=None, next_sentence_weights=None)


def params_of(model: Transformer, name: str, head: VocabularyHead) -> dict[str, Any]:
    """Initial parameters of an encoder, a vocabulary head of this name, and the pair's heads."""

    @jax.jit
    def init(key: jax.Array) -> dict[str, Any]:
        heads = {
            name: head.init(key, width=model.width, vocabulary=model.vocabulary, scale=model.initial_scale),
            "pooler": Pooler().init(key, width=model.width, scale=0.5),
            "next_sentence": SequenceHead().init(jax.random.fold_in(key, 1), width=model.width, scale=0.5),
        }
        return {"encoder": model.init(key), "head": heads}

    return init(jax.random.key(0))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def scored(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[float, float, float]:
    """(nats, hits, weight) by definition."""
    nats = -np.take_along_axis(log_softmax(logits), labels[..., None], -1)[..., 0]
    return (nats * weights).sum(), ((logits.argmax(-1) == labels) * weights).sum(), weights.sum()


def assert_terms(terms: dict, name: str, expected: tuple[float, float, float], accuracy: str = "accuracy") -> None:
    nats, hits, weight = expected
    np.testing.assert_allclose(terms[name], (nats, weight), rtol=1e-5)
    np.testing.assert_allclose(terms[accuracy], (hits, weight))


@pytest.mark.slow
def test_masked_lm_is_the_mean_over_predicted_positions_of_the_whole_softmax() -> None:
    head = MODEL.default_head()
    params = params_of(MODEL, "masked_lm", head)
    encoder, heads = params["encoder"], params["head"]

    @jax.jit
    def both(batch: MaskedBatch) -> tuple:
        tokens = batch.tokens
        hidden = last_hidden(MODEL, encoder, tokens.token_ids, mask=tokens.mask, token_types=tokens.token_types)
        pair = SequenceHead().logits(heads["next_sentence"], Pooler().vectors(heads["pooler"], hidden))
        logits = head.logits(heads["masked_lm"], hidden, encoder["embeddings"]["tokens"])
        return losses.masked_lm(MODEL, params, batch)[0], logits, pair

    # A label that is the likeliest one, so that there is a hit to count.
    likeliest = int(np.asarray(both(BATCH)[1])[0, 1].argmax())
    ids = np.where([[True, False], [False] * 2, [False] * 2], likeliest, BATCH.predicted_ids)
    batch = BATCH._replace(predicted_ids=ids)
    terms, logits, pair = jax.device_get(both(batch))
    chosen = np.take_along_axis(logits, batch.predicted_positions[..., None], 1)
    expected = scored(chosen, batch.predicted_ids, batch.predicted_weights)
    assert expected[1] >= 1 and expected[2] == 3
    assert_terms(terms, "masked", expected)
    label = scored(pair, batch.next_sentence, batch.next_sentence_weights)
    assert_terms(terms, "next_sentence", label, "next_sentence_accuracy")
    assert set(terms) == {"masked", "accuracy", "next_sentence", "next_sentence_accuracy"}


@pytest.mark.slow
def test_only_predicted_positions_have_a_gradient() -> None:
    model = replace(MODEL, depth=0)  # no attention mixes positions
    head = replace(model.default_head(), tied=False)

    def loss(params: dict) -> jax.Array:
        return losses.masked_lm(model, params, PLAIN, head=head)[0]["masked"][0]

    gradient = jax.jit(jax.grad(loss))(params_of(model, "masked_lm", head))["encoder"]["embeddings"]["positions"]
    reached = np.flatnonzero(np.abs(gradient).sum(axis=1) > 0)
    assert reached.tolist() == [1, 3, 4]


@pytest.mark.slow
def test_causal_lm_is_the_mean_over_all_next_tokens() -> None:
    model, head = replace(MODEL, causal=True), VocabularyHead()
    params = params_of(model, "causal_lm", head)
    batch = CausalBatch(TokenRows(IDS, mask=MASK), np.roll(IDS, -1, 1), MASK.astype(np.float32))

    @jax.jit
    def both(params: dict) -> tuple:
        encoder = params["encoder"]
        hidden = last_hidden(model, encoder, IDS, mask=MASK)
        logits = head.logits(params["head"]["causal_lm"], hidden, encoder["embeddings"]["tokens"])
        return losses.causal_lm(model, params, batch, head=head)[0], logits

    terms, logits = jax.device_get(both(params))
    expected = scored(logits, batch.next_token_ids, batch.weights)
    assert expected[2] == 14
    assert_terms(terms, "next_token", expected)


@pytest.mark.slow
def test_lengths_stand_for_the_mask_and_rows_seed_dropout() -> None:
    params = params_of(MODEL, "masked_lm", MODEL.default_head())
    loss = jax.jit(partial(losses.masked_lm, MODEL))
    by_lengths = PLAIN._replace(tokens=PLAIN.tokens._replace(lengths=MASK.sum(1).astype(np.int32)))
    np.testing.assert_allclose(loss(params, by_lengths)[0]["masked"], loss(params, PLAIN)[0]["masked"], rtol=1e-6)
    backwards = jax.tree.map(lambda array: array[::-1], PLAIN._replace(tokens=PLAIN.tokens._replace(rows=np.arange(3))))
    one, other = (loss(params, batch, key=jax.random.key(1))[0]["masked"] for batch in (PLAIN, backwards))
    np.testing.assert_allclose(one, other, rtol=1e-6)


def test_a_head_without_parameters_needs_no_entry() -> None:
    model = replace(MODEL, causal=True)
    shapes = {"encoder": jax.eval_shape(model.init, jax.random.key(0))}
    terms, _ = jax.eval_shape(partial(losses.causal_lm, model), shapes, CausalBatch(TokenRows(IDS), IDS))
    assert set(terms) == {"next_token", "accuracy"}


def test_a_model_or_parameters_that_do_not_fit_the_loss_are_refused() -> None:
    shapes = {"encoder": jax.eval_shape(MODEL.init, jax.random.key(0)), "head": {"pooler": {}}}
    with pytest.raises(ConfigError, match="must be True") as raised:
        jax.eval_shape(partial(losses.causal_lm, MODEL), shapes, CausalBatch(TokenRows(IDS), IDS))
    assert raised.value.field == "causal"
    with pytest.raises(InputError, match=r"no head 'masked_lm'.*\['pooler'\]"):
        jax.eval_shape(partial(losses.masked_lm, MODEL), shapes, PLAIN)
