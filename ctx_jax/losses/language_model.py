"""The objectives of a Transformer: masked tokens, the pair's second text, the next token.

Letters: B rows, T tokens, K predicted positions of a row, D width, V vocabulary.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ctx_jax.encoders.transformer.model import (
    Transformer,
    decoder,
    last_hidden,
    mlm_hidden,
    next_sentence_logits,
    pooled,
)
from ctx_jax.io.errors import InputError
from ctx_jax.losses.softmax import softmax_with_hits

Params = Mapping[str, Any]
Batch = Mapping[str, Any]
Terms = dict[str, tuple[jax.Array, jax.Array]]

COEFFICIENTS = {"masked": 1.0, "next_token": 1.0, "accuracy": 0.0, "next_sentence": 1.0, "next_sentence_accuracy": 0.0}
"""Of each term's mean in the loss; the accuracies are counted, not trained on."""


def masked_lm(
    model: Transformer, params: Params, batch: Batch, carry: tuple[()] = (), *, key: jax.Array | None = None
) -> tuple[Terms, tuple[()]]:
    """Nats of the masked tokens (Devlin et al. 2019, section 3.1), and of the pair's label where the batch has one.

    The vocabulary head sees the predicted positions alone, [B, K, D], and its softmax runs in chunks.

    Args:
      batch: `token_ids` int32 [B, T], masked; `predicted_positions`, `predicted_ids` int32 [B, K],
        `predicted_weights` float32 [B, K]; optionally `mask` or, before it, `lengths`, `positions`, `segments`,
        `token_types`, `row`, as `models.transformer.hidden_states` takes them, and `next_sentence` int32 [B] with
        `next_sentence_weight`.
      carry: nothing passes from one batch to the next.
      key: the step's key, the same on every device, for dropout by row; None: no dropout.

    Returns:
      ({"masked": (sum, weight), "accuracy": (hits, weight)}, ()); with a label also "next_sentence" and
      "next_sentence_accuracy", whose weights count rows.

    Raises:
      ValueError: the batch lacks an array, or the model a head; named.
    """
    _needs(batch, "token_ids", "predicted_positions", "predicted_ids", "predicted_weights")
    hidden = _hidden(model, params, batch, key)
    chosen = jnp.take_along_axis(hidden, batch["predicted_positions"][:, :, None], axis=1)  # [B, K, D]
    terms = _vocabulary(model, params, chosen, batch["predicted_ids"], batch["predicted_weights"], "masked")
    if "next_sentence" in batch:
        terms |= _pair(model, params, hidden, batch)
    return terms, ()


def causal_lm(
    model: Transformer, params: Params, batch: Batch, carry: tuple[()] = (), *, key: jax.Array | None = None
) -> tuple[Terms, tuple[()]]:
    """Nats of the next token at every place, of a model whose tokens see those before them alone (GPT).

    Args:
      batch: `token_ids`, `next_token_id` int32 [B, T]; optionally `weight` float32 [B, T], and `mask` or `lengths`,
        `positions`, `segments`, `row`.
      carry, key: as in `masked_lm`.

    Returns:
      ({"next_token": (sum, weight), "accuracy": (hits, weight)}, ()).

    Raises:
      ValueError: a model that sees what comes after, a batch without an array, a model without a head.
    """
    if not model.causal:
        raise InputError("the next token is visible to a model without causal=True: set it, or use masked_lm")
    _needs(batch, "token_ids", "next_token_id")
    labels = batch["next_token_id"]
    weight = batch.get("weight")
    if weight is None:
        weight = jnp.ones(labels.shape, jnp.float32)
    return _vocabulary(model, params, _hidden(model, params, batch, key), labels, weight, "next_token"), ()


def _needs(batch: Batch, *names: str) -> None:
    missing = [name for name in names if name not in batch]
    if missing:
        raise InputError(f"this objective needs {list(names)} in its batch; missing {missing}: set the sequences' form")


def _hidden(model: Transformer, params: Params, batch: Batch, key: jax.Array | None) -> jax.Array:
    return last_hidden(
        model,
        params,
        batch["token_ids"],
        mask=None if "lengths" in batch else batch.get("mask"),
        lengths=batch.get("lengths"),
        token_types=batch.get("token_types"),
        positions=batch.get("positions"),
        segments=batch.get("segments"),
        key=key,
        rows=batch.get("row"),
    )


def _vocabulary(
    model: Transformer, params: Params, hidden: jax.Array, labels: jax.Array, weight: jax.Array, name: str
) -> Terms:
    """{name: (nats, weight), "accuracy": (hits, weight)} of hidden [B, N, D]."""
    rows = mlm_hidden(model, params, hidden.reshape(-1, hidden.shape[-1]))
    matrix, bias = decoder(model, params)
    nats, hits, total = softmax_with_hits(
        rows, labels.reshape(-1), matrix, bias, weight.reshape(-1), compute=model.compute
    )
    return {name: (nats, total), "accuracy": (hits, total)}


def _pair(model: Transformer, params: Params, hidden: jax.Array, batch: Batch) -> Terms:
    logits = next_sentence_logits(model, params, pooled(model, params, hidden))  # [B, 2]
    labels, weight = batch["next_sentence"], batch["next_sentence_weight"]
    nats = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]
    hits = (jnp.argmax(logits, axis=1).astype(labels.dtype) == labels).astype(jnp.float32)
    total = jnp.sum(weight)
    return {
        "next_sentence": (jnp.sum(nats * weight), total),
        "next_sentence_accuracy": (jnp.sum(hits * weight), total),
    }
