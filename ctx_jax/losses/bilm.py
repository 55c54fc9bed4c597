"""The two language models of a biLM over a window (Peters et al. 2018, section 3.1).

Letters: B rows, T tokens, C characters, P projection, V vocabulary.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ctx_jax.encoders.elmo.model import DIRECTIONS, BiLM, Carry, Params, softmax_weights, streams, token_vectors
from ctx_jax.io.errors import InputError
from ctx_jax.losses.sampled import draw_negatives, expected_counts, sampled_softmax
from ctx_jax.losses.softmax import exact_softmax, token_losses

Batch = dict[str, Any]
Terms = dict[str, tuple[jax.Array, jax.Array]]

_SUFFIX = {"forward": "", "backward": "_reverse"}
_DROPOUT, _NEGATIVES, _ZERO_START = 0, 1, 2  # purposes of the step's key


def bilm(
    model: BiLM, params: Params, batch: Batch, carry: Carry | None, *, key: jax.Array | None = None
) -> tuple[Terms, Carry]:
    """Nats of the next token in either direction, over one window of every row.

    Args:
      batch: raw character ids `tokens_characters`, `tokens_characters_reverse` int32 [B, T, C] (a model over words:
        `token_ids`, `token_ids_reverse` [B, T]); targets `next_token_id`, `next_token_id_reverse` int32 [B, T];
        optionally `row` int32 [B], the rows' global numbers, and `weight` float32 [B, T], 0 where no target counts
        (such a target must be an id all the same: -1 is not looked for).
      carry: the state before the window, as `models.bilm.zero_carry` makes it; None: zeros. Its gradient stops here.
      key: the step's key, the same on every device: dropout by row, and with `model.negatives` the sampled softmax,
        one set of negatives per direction, and with `model.zero_start` the rows whose carry is dropped. None: no
        dropout, exact softmax, the carry as it is.

    Returns:
      {"forward": (sum, weight), "backward": (sum, weight)} and the state after the window.

    Raises:
      ValueError: the model has no softmax, or the batch lacks an array; both are named.
    """
    weights, bias = softmax_weights(model, params)
    if model.zero_start and key is not None and carry is not None:
        carry = _forget(carry, model.zero_start, jax.random.fold_in(key, _ZERO_START), batch)
    hidden, carry = _hidden(model, params, batch, carry, key)
    weight = batch.get("weight")
    weight = None if weight is None else weight.reshape(-1)
    terms = {}
    for number, name in enumerate(DIRECTIONS):
        states = hidden[name].reshape(-1, hidden[name].shape[-1])
        labels = batch[f"next_token_id{_SUFFIX[name]}"].reshape(-1)
        if model.negatives and key is not None:
            draw = jax.random.fold_in(jax.random.fold_in(key, _NEGATIVES), number)
            negatives, tries = draw_negatives(draw, model.negatives, model.vocabulary)
            counts = [expected_counts(ids, tries, model.vocabulary) for ids in (labels, negatives)]
            terms[name] = sampled_softmax(
                states, labels, weights, bias, negatives, *counts, weight=weight, compute=model.compute
            )
        else:
            terms[name] = exact_softmax(states, labels, weights, bias, weight, compute=model.compute)
    return terms, carry


def bilm_tokens(model: BiLM, params: Params, batch: Batch, carry: Carry | None) -> tuple[dict[str, jax.Array], Carry]:
    """Nats of every single target with the exact softmax, for evaluation: {"forward": [B, T], "backward": [B, T]}."""
    weights, bias = softmax_weights(model, params)
    hidden, carry = _hidden(model, params, batch, carry, None)
    losses = {}
    for name in DIRECTIONS:
        labels = batch[f"next_token_id{_SUFFIX[name]}"]
        states = hidden[name].reshape(-1, hidden[name].shape[-1])
        nats = token_losses(states, labels.reshape(-1), weights, bias, compute=model.compute)
        losses[name] = nats.reshape(labels.shape)
    return losses, carry


def _forget(carry: Carry, share: float, key: jax.Array, batch: Batch) -> Carry:
    """The carry with a share of the rows set to zero, drawn by global row.

    A state that is never reset in training can settle where no sentence that starts from zeros gets to, and the
    model then fails on single sentences (Melis, Dyer and Blunsom 2018, section 4, train against it in this way).
    """
    labels = batch["next_token_id"]
    rows = batch["row"] if "row" in batch else jnp.arange(labels.shape[0], dtype=jnp.int32)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - share))(keys)
    return jax.tree.map(lambda state: jnp.where(kept[:, None], state, 0.0), carry)


def _hidden(
    model: BiLM, params: Params, batch: Batch, carry: Carry | None, key: jax.Array | None
) -> tuple[dict[str, jax.Array], Carry]:
    """What the softmax sees of either direction [B, T, P], and the state after the window."""
    stem = "tokens_characters" if model.inputs == "characters" else "token_ids"
    names = [stem + suffix for suffix in _SUFFIX.values()]
    targets = [f"next_token_id{suffix}" for suffix in _SUFFIX.values()]
    missing = [name for name in names + targets if name not in batch]
    if missing:
        raise InputError(f"a biLM over {model.inputs} needs {names + targets} in its batch; missing {missing}")
    # Both directions in one call: they hold nearly the same words, and each distinct one is encoded once.
    both = token_vectors(model, params, jnp.stack([batch[name] for name in names]), copies=len(names))
    outputs, carry = streams(
        model,
        params,
        dict(zip(DIRECTIONS, both, strict=True)),
        None if carry is None else jax.lax.stop_gradient(carry),
        key=None if key is None else jax.random.fold_in(key, _DROPOUT),
        rows=batch.get("row"),
    )
    return {name: outputs[name][-1] for name in DIRECTIONS}, carry
