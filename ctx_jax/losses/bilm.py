"""The forward and backward language models of a biLM (Peters et al. 2018, section 3.1).

Letters: B rows, T tokens, C characters, P projection, V vocabulary.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ctx_jax.data.batch import BiLMBatch
from ctx_jax.encoders.elmo.model import BiLM
from ctx_jax.encoders.elmo.network import DIRECTIONS, row_keys, run_directions, token_vectors
from ctx_jax.heads.vocabulary import VocabularyHead
from ctx_jax.io.errors import InputError
from ctx_jax.losses.sampled import draw_negatives, expected_counts, sampled_softmax
from ctx_jax.losses.softmax import exact_softmax, token_losses
from ctx_jax.tokenizers.characters import char_ids_of_raw
from ctx_jax.typing import Carry, Params, Terms

_DROPOUT, _NEGATIVES, _ZERO_START = 0, 1, 2  # uses of the step's key


def bilm(
    model: BiLM,
    params: Params,
    batch: BiLMBatch | Mapping[str, Any],
    carry: Carry,
    *,
    key: jax.Array | None = None,
    head: VocabularyHead | None = None,
    negatives: int = 0,
    zero_start: float = 0.0,
) -> tuple[Terms, Carry]:
    """Cross-entropy of the next token in nats, in each direction, over T tokens of every row.

    Args:
      params: {"encoder": ..., "head": {"softmax": {"decoder": {"matrix": [V, P], "bias": [V]}}}}; without a matrix the
        head is tied to the word table.
      batch: a BiLMBatch, or a mapping with bilm-tf's names: `tokens_characters`, raw ids [B, T, C] (for a model over
        words `token_ids` [B, T]), and `next_token_id` [B, T], each also with the suffix `_reverse`; optionally `row`
        [B] and `weight` [B, T]. Targets of weight 0 must be valid ids too.
      carry: the state before the first token, of the form of `zero_carry`; None: zeros. No gradient flows into it.
      key: the step's key, the same on every device. It enables dropout, `negatives` and `zero_start`; None: no dropout,
        exact softmax, unchanged carry.
      head: the softmax head; None: untied, or tied if `params` has no matrix.
      negatives: number of negatives of the sampled softmax, one set per direction; 0: exact softmax.
      zero_start: probability with which a row's carry is replaced by zeros.

    Returns:
      {"forward": (sum, weight), "backward": (sum, weight)} and the state after the last token.

    Raises:
      InputError: `params` has no softmax, or the batch lacks an array.
    """
    batch = _bilm_batch(model, batch)
    if zero_start and key is not None and carry is not None:
        carry = _reset_rows(carry, zero_start, jax.random.fold_in(key, _ZERO_START), batch)
    hidden, matrix, bias, carry = _forward(model, params, batch, carry, key, head)
    weight = None if batch.weights is None else jnp.reshape(batch.weights, -1)
    terms = {}
    for number, (name, labels) in enumerate(_targets(batch).items()):
        tables = (hidden[name], labels, matrix, bias)
        if negatives and key is not None:
            draw_key = jax.random.fold_in(jax.random.fold_in(key, _NEGATIVES), number)
            ids, tries = draw_negatives(draw_key, negatives, matrix.shape[0])
            counts = [expected_counts(words, tries, matrix.shape[0]) for words in (labels, ids)]
            terms[name] = sampled_softmax(*tables, ids, *counts, weight=weight, compute=model.compute)
        else:
            terms[name] = exact_softmax(*tables, weight, compute=model.compute)
    return terms, carry


def bilm_tokens(
    model: BiLM,
    params: Params,
    batch: BiLMBatch | Mapping[str, Any],
    carry: Carry,
    *,
    head: VocabularyHead | None = None,
) -> tuple[dict[str, jax.Array], Carry]:
    """Cross-entropy of each target with the exact softmax, for evaluation: {"forward": [B, T], "backward": [B, T]}."""
    batch = _bilm_batch(model, batch)
    hidden, matrix, bias, carry = _forward(model, params, batch, carry, None, head)
    nats = {}
    for name, labels in _targets(batch).items():
        losses = token_losses(hidden[name], labels, matrix, bias, compute=model.compute)
        nats[name] = losses.reshape(jnp.shape(batch.forward_targets))
    return nats, carry


def _bilm_batch(model: BiLM, batch: BiLMBatch | Mapping[str, Any]) -> BiLMBatch:
    """Convert a mapping with bilm-tf's names to a BiLMBatch; raw character ids become char_ids."""
    if isinstance(batch, BiLMBatch):
        return batch
    characters = model.token_input == "characters"
    stem = "tokens_characters" if characters else "token_ids"
    names = [stem, f"{stem}_reverse", "next_token_id", "next_token_id_reverse"]
    if missing := [name for name in names if name not in batch]:
        raise InputError(f"a biLM over {model.token_input} needs {names} in its batch; missing {missing}")
    forward, backward, *targets = (batch[name] for name in names)
    if characters:
        forward, backward = char_ids_of_raw(forward), char_ids_of_raw(backward)
    return BiLMBatch(forward, backward, targets[0], targets[1], batch.get("row"), batch.get("weight"))


def _targets(batch: BiLMBatch) -> dict[str, jax.Array]:
    """Flat targets [B T] of each direction."""
    targets = (batch.forward_targets, batch.backward_targets)
    return {name: jnp.reshape(ids, -1) for name, ids in zip(DIRECTIONS, targets, strict=True)}


def _reset_rows(carry: Carry, share: float, key: jax.Array, batch: BiLMBatch) -> Carry:
    """Set the carry of a random share of the rows to zero; the choice depends on the rows' global numbers.

    A state that is never reset in training can drift to a region that is unreachable from a zero state; the model then
    fails on single sentences (Melis, Dyer and Blunsom 2018, section 4, reset states for this reason).
    """
    keys = row_keys(key, batch.rows, jnp.shape(batch.forward_targets)[0])
    carried = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - share))(keys)
    return jax.tree.map(lambda state: jnp.where(carried[:, None], state, 0.0), carry)


def _forward(
    model: BiLM, params: Params, batch: BiLMBatch, carry: Carry, key: jax.Array | None, head: VocabularyHead | None
) -> tuple[dict[str, jax.Array], jax.Array, jax.Array, Carry]:
    """Inputs of the softmax [B T, P] by direction, its matrix [V, P] and bias [V], and the new state."""
    encoder, head_params = params.get("encoder", params), params.get("head", {})
    if "softmax" not in head_params:
        raise InputError(
            "params has no softmax head, so the model gives vectors but no probabilities: load a run, or weights with "
            "softmax/W and softmax/b, as {'encoder': ..., 'head': {'softmax': ...}}"
        )
    softmax = head_params["softmax"]
    if head is None:
        head = VocabularyHead(transform=False, tied="matrix" not in softmax["decoder"])
    table = None
    if head.tied and model.token_input == "words":
        # Read once for both uses, since FSDP gathers the array at each read.
        table = jnp.asarray(encoder["words"]["embedding"])
        encoder = {**encoder, "words": {"embedding": table}}
    matrix, bias = head.decoder(softmax, table)
    # The directions hold nearly the same words, so one call for both encodes each distinct word once.
    inputs = token_vectors(model, encoder, jnp.stack([batch.forward_inputs, batch.backward_inputs]), copies=2)
    outputs, carry = run_directions(
        model,
        encoder,
        dict(zip(DIRECTIONS, inputs, strict=True)),
        None if carry is None else jax.lax.stop_gradient(carry),
        key=None if key is None else jax.random.fold_in(key, _DROPOUT),
        rows=batch.rows,
    )
    hidden = {
        name: head.hidden(softmax, outputs[name][-1].reshape(-1, model.projection), compute=model.compute)
        for name in DIRECTIONS
    }
    return hidden, matrix, bias, carry
