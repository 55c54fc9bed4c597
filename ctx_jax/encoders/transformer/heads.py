"""What stands on the last layer: the vocabulary head in two halves, the pooler, the next-sentence head.

The head comes in halves so that a loss can transform only the positions it predicts and then run its softmax in
chunks: `mlm_hidden`, then `decoder`. Letters: B rows, T tokens, D width, V vocabulary.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ctx_jax.encoders.transformer.config import Transformer
from ctx_jax.io.errors import InputError
from ctx_jax.ops.dense import activate, dense, layer_norm
from ctx_jax.ops.linear import linear


def mlm_hidden(model: Transformer, params: Mapping[str, Any], hidden: jax.Array) -> jax.Array:
    """norm(activation(dense(hidden))), [..., D] to [..., D]; `hidden` as it is where the decoder stands alone (GPT).

    Raises ValueError for a model without a head.
    """
    match model.head:
        case "transform":
            head = params["head"]
            values = activate(model.head_activation, dense(head["dense"], hidden, model.compute))
            return layer_norm(head["norm"], values, model.norm_epsilon)
        case "direct":
            return hidden
        case "none":
            raise InputError("this model has no vocabulary head: make or load it with head='transform' or 'direct'")


def decoder(model: Transformer, params: Mapping[str, Any]) -> tuple[jax.Array, jax.Array]:
    """The output matrix [V, D], which is the token embedding where tied, and the bias [V], zeros where there is none.

    logits = mlm_hidden(...) @ matrix.T + bias
    """
    if model.head == "none":
        raise InputError("this model has no vocabulary head: make or load it with head='transform' or 'direct'")
    matrix = params["embeddings"]["tokens"] if model.tied else params["head"]["decoder"]["matrix"]
    if not model.decoder_bias:
        return matrix, jnp.zeros(matrix.shape[0], matrix.dtype)
    return matrix, params["head"]["decoder"]["bias"]


def head_logits(model: Transformer, params: Mapping[str, Any], hidden: jax.Array) -> jax.Array:
    """Scores of every vocabulary entry, float32 [..., V], of `hidden` [..., D]; holds them all at once."""
    matrix, bias = decoder(model, params)
    logits = linear(mlm_hidden(model, params, hidden), matrix.T, model.compute)
    return logits + bias.reshape((1,) * (logits.ndim - 1) + bias.shape)


def pooled(model: Transformer, params: Mapping[str, Any], hidden: jax.Array) -> jax.Array:
    """tanh(dense(first token)), [B, D], of the last layer [B, T, D]; ValueError for a model without a pooler."""
    if not model.pooler:
        raise InputError("this model has no pooler: make or load it with pooler=True")
    return jnp.tanh(dense(params["pooler"], hidden[:, 0], model.compute))


def next_sentence_logits(model: Transformer, params: Mapping[str, Any], vectors: jax.Array) -> jax.Array:
    """[B, 2] of the pooler's vectors [B, D]: 0 the real next sentence, 1 a random one."""
    if not model.next_sentence:
        raise InputError("this model has no next-sentence head: make or load it with next_sentence=True")
    return dense(params["next_sentence"], vectors, model.compute)
