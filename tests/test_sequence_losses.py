"""A Transformer's objectives against plain numpy, and what their gradients may reach."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctx_jax import losses
from ctx_jax.encoders.transformer.model import Transformer, head_logits, init, last_hidden, next_sentence_logits, pooled

ROWS, LENGTH, BUDGET, WORDS = 3, 6, 2, 11
MODEL = Transformer(
    WORDS, dim=8, layers=1, heads=2, feed_forward=12, max_positions=LENGTH, pooler=True, next_sentence=True,
    initial_scale=0.5,
)  # fmt: skip
RANDOM = np.random.default_rng(0)
BATCH = {
    "token_ids": RANDOM.integers(0, WORDS, (ROWS, LENGTH), dtype=np.int32),
    "mask": np.arange(LENGTH) < np.array([6, 5, 3])[:, None],
    "token_types": RANDOM.integers(0, 2, (ROWS, LENGTH), dtype=np.int32),
    "predicted_positions": np.array([[1, 4], [3, 0], [0, 0]], np.int32),
    "predicted_ids": RANDOM.integers(0, WORDS, (ROWS, BUDGET), dtype=np.int32),
    "predicted_weights": np.array([[1, 1], [1, 0], [0, 0]], np.float32),
    "next_sentence": np.array([0, 1, 1], np.int32),
    "next_sentence_weight": np.array([1, 1, 0], np.float32),
}


def params_of(model: Transformer) -> dict:
    return jax.jit(partial(init, model))(jax.random.key(0))


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
    params = params_of(MODEL)
    batch = dict(BATCH)

    @jax.jit
    def both(batch: dict) -> tuple:
        hidden = last_hidden(MODEL, params, batch["token_ids"], mask=batch["mask"], token_types=batch["token_types"])
        pair = next_sentence_logits(MODEL, params, pooled(MODEL, params, hidden))
        return losses.masked_lm(MODEL, params, batch)[0], head_logits(MODEL, params, hidden), pair

    # A label that is the likeliest one, so that there is a hit to count.
    likeliest = int(np.asarray(both(batch)[1])[0, 1].argmax())
    batch["predicted_ids"] = np.where([[True, False], [False] * 2, [False] * 2], likeliest, batch["predicted_ids"])
    terms, logits, pair = jax.device_get(both(batch))
    chosen = np.take_along_axis(logits, batch["predicted_positions"][..., None], 1)
    expected = scored(chosen, batch["predicted_ids"], batch["predicted_weights"])
    assert expected[1] >= 1 and expected[2] == 3
    assert_terms(terms, "masked", expected)
    label = scored(pair, batch["next_sentence"], batch["next_sentence_weight"])
    assert_terms(terms, "next_sentence", label, "next_sentence_accuracy")
    assert set(terms) == {"masked", "accuracy", "next_sentence", "next_sentence_accuracy"}


def test_only_predicted_positions_have_a_gradient() -> None:
    model = replace(MODEL, layers=0, tied=False, pooler=False, next_sentence=False)  # no attention mixes positions
    batch = {name: array for name, array in BATCH.items() if not name.startswith("next")}

    def loss(params: dict) -> jax.Array:
        return losses.masked_lm(model, params, batch)[0]["masked"][0]

    slopes = jax.jit(jax.grad(loss))(params_of(model))["embeddings"]["positions"]
    reached = np.flatnonzero(np.abs(slopes).sum(axis=1) > 0)
    assert reached.tolist() == [1, 3, 4]


@pytest.mark.slow
def test_causal_lm_is_the_mean_over_all_next_tokens() -> None:
    model = replace(MODEL, causal=True, pooler=False, next_sentence=False)
    params = params_of(model)
    batch = {
        "token_ids": BATCH["token_ids"],
        "next_token_id": np.roll(BATCH["token_ids"], -1, 1),
        "weight": BATCH["mask"].astype(np.float32),
        "mask": BATCH["mask"],
    }

    @jax.jit
    def both(params: dict) -> tuple:
        hidden = last_hidden(model, params, batch["token_ids"], mask=batch["mask"])
        return losses.causal_lm(model, params, batch)[0], head_logits(model, params, hidden)

    terms, logits = jax.device_get(both(params))
    expected = scored(logits, batch["next_token_id"], batch["weight"])
    assert expected[2] == 14
    assert_terms(terms, "next_token", expected)


def test_what_does_not_go_together_is_named() -> None:
    shapes = jax.eval_shape(partial(init, MODEL), jax.random.key(0))
    with pytest.raises(ValueError, match="causal=True"):
        jax.eval_shape(partial(losses.causal_lm, MODEL), shapes, {})
    some = {name: jnp.asarray(BATCH[name]) for name in ("token_ids", "predicted_positions")}
    with pytest.raises(ValueError, match=r"missing \['predicted_ids', 'predicted_weights'\]"):
        jax.eval_shape(partial(losses.masked_lm, MODEL), shapes, some)
