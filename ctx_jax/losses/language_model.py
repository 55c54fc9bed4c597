"""The language-model losses of a Transformer: masked tokens, next sentence, next token.

Letters: B rows, T tokens, K predicted positions of a row, N tokens of all rows, D width, V vocabulary.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ctx_jax.data.batch import CausalBatch, MaskedBatch, TokenRows
from ctx_jax.encoders.transformer.model import Transformer
from ctx_jax.encoders.transformer.network import last_hidden
from ctx_jax.heads import Pooler, SequenceHead, VocabularyHead
from ctx_jax.io.errors import ConfigError, InputError
from ctx_jax.losses.softmax import softmax_with_hits, token_losses
from ctx_jax.typing import Params, Terms

COEFFICIENTS = {"masked": 1.0, "next_token": 1.0, "accuracy": 0.0, "next_sentence": 1.0, "next_sentence_accuracy": 0.0}
"""The weight of each term's mean in the training loss; accuracies are metrics only, so their weight is 0."""


def masked_lm(
    model: Transformer,
    params: Params,
    batch: MaskedBatch,
    carry: tuple[()] = (),
    *,
    head: VocabularyHead | None = None,
    key: jax.Array | None = None,
) -> tuple[Terms, tuple[()]]:
    """Cross-entropy, in nats, of the masked tokens (Devlin et al. 2019, section 3.1), and of the next-sentence label
    if the batch has one.

    The vocabulary head is applied to the predicted positions alone, [B, K, D], and its softmax runs in chunks.

    Args:
      params: {"encoder": ..., "head": {"masked_lm": ...}}; for a label also the heads "pooler" and "next_sentence".
      carry: unused; a Transformer has no state.
      head: the vocabulary head that has the parameters "masked_lm"; None: `model.default_head()`.
      key: the step's key, the same on every device, for dropout by row; None: no dropout.

    Returns:
      ({"masked": (sum, weight), "accuracy": (hits, weight)}, ()); with a label also "next_sentence" and
      "next_sentence_accuracy", whose weights count rows.

    Raises:
      InputError: parameters without a head that the batch needs.
    """
    hidden = last_of_rows(model, params, batch.tokens, key)
    chosen = _at_masked(hidden, batch)
    terms = _token_terms(
        "masked", model, params, head, "masked_lm", chosen, batch.predicted_ids, batch.predicted_weights
    )
    if batch.next_sentence is not None:
        terms |= _next_sentence_terms(model, params, hidden, batch)
    return terms, ()


def causal_lm(
    model: Transformer,
    params: Params,
    batch: CausalBatch,
    carry: tuple[()] = (),
    *,
    head: VocabularyHead | None = None,
    key: jax.Array | None = None,
) -> tuple[Terms, tuple[()]]:
    """Cross-entropy, in nats, of the next token at every position, for a causal model (GPT).

    Args:
      params: {"encoder": ..., "head": {"causal_lm": ...}}; GPT's head has no parameters and needs no entry.
      carry, head, key: as in `masked_lm`.

    Returns:
      ({"next_token": (sum, weight), "accuracy": (hits, weight)}, ()).

    Raises:
      ConfigError: a model that is not causal.
      InputError: parameters without the head.
    """
    if not model.causal:
        raise ConfigError("causal", "must be True, or the next token is visible to the model: set it, or use masked_lm")
    labels = batch.next_token_ids
    weights = jnp.ones(labels.shape, jnp.float32) if batch.weights is None else batch.weights
    hidden = last_of_rows(model, params, batch.tokens, key)
    return _token_terms("next_token", model, params, head, "causal_lm", hidden, labels, weights), ()


def next_token_loss(
    model: Transformer, params: Params, hidden: jax.Array, token_ids: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(sum in nats, number) of the next tokens of rows that a causal model has read already: its last layer [B, T, D],
    their ids int [B, T] and mask bool [B, T]. The scores are those of `model.default_head()`, the token table's."""
    weights = jnp.asarray(mask[:, 1:], jnp.float32)
    terms = _token_terms("next_token", model, params, None, "causal_lm", hidden[:, :-1], token_ids[:, 1:], weights)
    return terms["next_token"]


def masked_lm_tokens(
    model: Transformer, params: Params, batch: MaskedBatch, *, head: VocabularyHead | None = None
) -> jax.Array:
    """Cross-entropy of each predicted token, float32 [B, K], for evaluation; arguments as in `masked_lm`."""
    chosen = masked_vectors(model, params, batch, None)
    return _token_losses(model, params, head, "masked_lm", chosen, batch.predicted_ids)


def causal_lm_tokens(
    model: Transformer, params: Params, batch: CausalBatch, *, head: VocabularyHead | None = None
) -> jax.Array:
    """Cross-entropy of each next token, float32 [B, T], for evaluation; arguments as in `causal_lm`."""
    hidden = last_of_rows(model, params, batch.tokens, None)
    return _token_losses(model, params, head, "causal_lm", hidden, batch.next_token_ids)


def masked_vectors(model: Transformer, params: Params, batch: MaskedBatch, key: jax.Array | None) -> jax.Array:
    """The last layer at the predicted positions, [B, K, D]; arguments as in `masked_lm`."""
    return _at_masked(last_of_rows(model, params, batch.tokens, key), batch)


def _at_masked(hidden: jax.Array, batch: MaskedBatch) -> jax.Array:
    return jnp.take_along_axis(hidden, batch.predicted_positions[:, :, None], axis=1)  # [B, K, D]


def last_of_rows(model: Transformer, params: Params, tokens: TokenRows, key: jax.Array | None) -> jax.Array:
    """The last layer of rows, [B, T, D]; `params` and `key` as in `masked_lm`."""
    if tokens.lengths is not None:
        tokens = tokens._replace(mask=None)  # the two are equivalent, and lengths are faster
    return last_hidden(model, params["encoder"], **tokens._asdict(), key=key)


def _head_params(params: Params, name: str) -> Params:
    heads = params.get("head", {})
    if name not in heads:
        raise InputError(f"the parameters have no head {name!r}, which this loss needs; they have {sorted(heads)}")
    found: Params = heads[name]
    return found


def _token_terms(
    term: str,
    model: Transformer,
    params: Params,
    head: VocabularyHead | None,
    name: str,
    vectors: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
) -> Terms:
    """{term: (nats, weight), "accuracy": (hits, weight)} of vectors [B, K or T, D]."""
    hidden, matrix, bias = _decoded(model, params, head, name, vectors)
    nats, hits, total = softmax_with_hits(
        hidden, labels.reshape(-1), matrix, bias, weights.reshape(-1), compute=model.compute
    )
    return {term: (nats, total), "accuracy": (hits, total)}


def _token_losses(
    model: Transformer, params: Params, head: VocabularyHead | None, name: str, vectors: jax.Array, labels: jax.Array
) -> jax.Array:
    """Nats of each label [B, K or T]."""
    hidden, matrix, bias = _decoded(model, params, head, name, vectors)
    return token_losses(hidden, labels.reshape(-1), matrix, bias, compute=model.compute).reshape(labels.shape)


def _decoded(
    model: Transformer, params: Params, head: VocabularyHead | None, name: str, vectors: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Inputs of the softmax [N, D] of vectors [B, K or T, D], its matrix [V, D] and bias [V]."""
    head = head or model.default_head()
    own = _head_params(params, name) if head.has_params else {}
    hidden = head.hidden(own, vectors.reshape(-1, vectors.shape[-1]), compute=model.compute)
    return hidden, *head.decoder(own, params["encoder"]["embeddings"]["tokens"] if head.tied else None)


def _next_sentence_terms(model: Transformer, params: Params, hidden: jax.Array, batch: MaskedBatch) -> Terms:
    pooled = Pooler().vectors(_head_params(params, "pooler"), hidden, compute=model.compute)
    logits = SequenceHead().logits(_head_params(params, "next_sentence"), pooled, compute=model.compute)  # [B, 2]
    labels: Any = batch.next_sentence
    weights = (
        jnp.ones(labels.shape, jnp.float32) if batch.next_sentence_weights is None else batch.next_sentence_weights
    )
    nats = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]
    hits = (jnp.argmax(logits, axis=1).astype(labels.dtype) == labels).astype(jnp.float32)
    total = jnp.sum(weights)
    return {
        "next_sentence": (jnp.sum(nats * weights), total),
        "next_sentence_accuracy": (jnp.sum(hits * weights), total),
    }
