"""A Transformer's tokens to layers, and pieces to the words they belong to.

Letters: L layers, B sentences, T words, S tokens (pieces and special tokens), D width.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ctx_jax.encoders.transformer.embeddings import default_positions, embed_tokens
from ctx_jax.encoders.transformer.model import Transformer, hidden_states
from ctx_jax.io.errors import InputError, InputTypeError

_TOKENS = ("token_ids", "token_mask")
_WORDS = ("word_of_token", "word_mask")
_OPTIONAL = "token_types"


def embed_transformer(
    model: Transformer, params: Mapping[str, Any], inputs: Mapping[str, Any]
) -> tuple[jax.Array, jax.Array]:
    """(values [L + 1, B, T, D], mask [B, T]); without words among the inputs T is S."""
    given = _checked(model, inputs)
    ids, mask = given["token_ids"], given["token_mask"]
    if ids.size == 0:
        rows, length = given["word_mask"].shape if "word_mask" in given else ids.shape
        return jnp.zeros((model.layers + 1, rows, length, model.dim), jnp.float32), jnp.zeros((rows, length), bool)
    return _words(hidden_states(model, params, ids, mask=mask, token_types=given.get(_OPTIONAL)), given)


def transformer_token_layer(model: Transformer, params: Mapping[str, Any], inputs: Mapping[str, Any]) -> jax.Array:
    """Layer 0 alone, [B, T, D]: the embedding output, position and type included."""
    given = _checked(model, inputs)
    ids = given["token_ids"]
    values = embed_tokens(model, params["embeddings"], ids, default_positions(model, ids), given.get(_OPTIONAL), None)
    return _words(values[None], given)[0][0]


def _words(values: jax.Array, given: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """values [L, B, S, D] to the mean over each word's tokens [L, B, T, D], 0 where the mask is False."""
    if "word_mask" not in given:
        mask = given["token_mask"]
        return jnp.where(mask[None, :, :, None], values, 0.0), mask
    mask = given["word_mask"]
    numbers = jnp.arange(mask.shape[1], dtype=jnp.int32)
    belongs = given["word_of_token"][:, None, :] == numbers[None, :, None]  # [B, T, S]
    share = belongs.astype(jnp.float32)
    # One product with 0 and 1 instead of a scatter: exact in float32, the same in every run, and fast on accelerators.
    sums = jnp.einsum("bts,lbsd->lbtd", share, values, precision=jax.lax.Precision.HIGHEST)
    means = sums / jnp.maximum(jnp.sum(share, axis=2), 1.0)[None, :, :, None]
    return jnp.where(mask[None, :, :, None], means, 0.0), mask


def _checked(model: Transformer, inputs: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The inputs as int32 and bool arrays of fitting shapes."""
    names = set(inputs) if isinstance(inputs, Mapping) else set()
    if names - {_OPTIONAL} not in (set(_TOKENS), {*_TOKENS, *_WORDS}):
        found = sorted(names) if isinstance(inputs, Mapping) else type(inputs).__name__
        raise InputError(
            f"a Transformer reads inputs {', '.join(_TOKENS)}, and {', '.join(_WORDS)} for words, got {found}: use "
            "encoder.tokenize"
        )
    given = {name: jnp.asarray(inputs[name]) for name in inputs}
    shape = given["token_ids"].shape
    for name, array in given.items():
        fits = array.ndim == 2 and (array.shape == shape or (name == "word_mask" and array.shape[0] == shape[0]))
        if not fits:
            needed = "[B, T]" if name == "word_mask" else f"[B, S] like token_ids {shape}"
            raise InputError(f"{name} must be {needed}, got shape {array.shape}: use encoder.tokenize")
        kind = jnp.bool_ if name.endswith("mask") else jnp.integer
        if not jnp.issubdtype(array.dtype, kind):
            raise InputTypeError(f"{name} must be {'bool' if kind is jnp.bool_ else 'integers'}, got {array.dtype}")
    if shape[1] > model.longest and shape[0]:
        raise InputError(
            f"inputs of {shape[1]} tokens are longer than the {model.longest} the model's positions hold: shorten them"
        )
    return {name: array if name.endswith("mask") else array.astype(jnp.int32) for name, array in given.items()}
