"""A Transformer's inputs to its layers, tokens pooled to the words they belong to.

Letters: L layers, B sentences, T words, S tokens (pieces and special tokens), D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from ctx_jax.encoders.base import Layers
from ctx_jax.encoders.transformer.network import default_positions, embed_tokens, hidden_states
from ctx_jax.io.errors import InputError, InputTypeError
from ctx_jax.typing import Params

if TYPE_CHECKING:
    from ctx_jax.encoders.transformer.model import Transformer

Arrays = dict[str, jax.Array]
_TOKENS = ("token_ids", "token_mask")
_WORDS = ("word_of_token", "word_mask")
_OPTIONAL = "token_types"


def layers(model: Transformer, params: Params, inputs: Mapping[str, Any]) -> Layers:
    """Every layer of each word, or of each token where the inputs have no words."""
    arrays = _checked(model, inputs)
    ids, mask = arrays["token_ids"], arrays["token_mask"]
    if ids.size == 0:
        rows, length = arrays["word_mask"].shape if "word_mask" in arrays else ids.shape
        values = jnp.zeros((model.num_layers, rows, length, model.width), jnp.float32)
        return Layers(values, jnp.zeros((rows, length), bool))
    states = hidden_states(model, params, ids, mask=mask, token_types=arrays.get(_OPTIONAL))
    return _pooled(states, arrays)


def token_layer(model: Transformer, params: Params, inputs: Mapping[str, Any]) -> jax.Array:
    """Layer 0 alone, [B, T, D]: the embedding output."""
    arrays = _checked(model, inputs)
    ids = arrays["token_ids"]
    positions = default_positions(model, ids)
    values = embed_tokens(model, params["embeddings"], ids, positions, arrays.get(_OPTIONAL), None)
    return _pooled(values[None], arrays).values[0]


def _pooled(values: jax.Array, arrays: Arrays) -> Layers:
    """values [L, B, S, D] to the mean over each word's tokens [L, B, T, D], 0 where the mask is False."""
    if "word_mask" not in arrays:
        mask = arrays["token_mask"]
        return Layers(jnp.where(mask[None, :, :, None], values, 0.0), mask)
    mask = arrays["word_mask"]
    numbers = jnp.arange(mask.shape[1], dtype=jnp.int32)
    belongs = (arrays["word_of_token"][:, None, :] == numbers[None, :, None]).astype(jnp.float32)  # [B, T, S]
    # A product with 0 and 1 instead of a scatter: exact in float32, reproducible, and fast on accelerators.
    sums = jnp.einsum("bts,lbsd->lbtd", belongs, values, precision=jax.lax.Precision.HIGHEST)
    means = sums / jnp.maximum(jnp.sum(belongs, axis=2), 1.0)[None, :, :, None]
    return Layers(jnp.where(mask[None, :, :, None], means, 0.0), mask)


def _checked(model: Transformer, inputs: Mapping[str, Any]) -> Arrays:
    """The inputs as int32 and bool arrays whose shapes fit each other."""
    names = set(inputs) if isinstance(inputs, Mapping) else set()
    if names - {_OPTIONAL} not in (set(_TOKENS), {*_TOKENS, *_WORDS}):
        found = sorted(names) if isinstance(inputs, Mapping) else type(inputs).__name__
        raise InputError(
            f"a Transformer reads inputs {', '.join(_TOKENS)}, and {', '.join(_WORDS)} for words, got {found}: use "
            "encoder.tokenize"
        )
    arrays = {name: jnp.asarray(inputs[name]) for name in inputs}
    shape = arrays["token_ids"].shape
    for name, array in arrays.items():
        fits = array.ndim == 2 and (array.shape == shape or (name == "word_mask" and array.shape[0] == shape[0]))
        if not fits:
            needed = "[B, T]" if name == "word_mask" else f"[B, S] like token_ids {shape}"
            raise InputError(f"{name} must be {needed}, got shape {array.shape}: use encoder.tokenize")
        dtype = jnp.bool_ if name.endswith("mask") else jnp.integer
        if not jnp.issubdtype(array.dtype, dtype):
            raise InputTypeError(f"{name} must be {'bool' if dtype is jnp.bool_ else 'integers'}, got {array.dtype}")
    if shape[1] > model.longest and shape[0]:
        raise InputError(
            f"inputs of {shape[1]} tokens are longer than the model's {model.longest} positions: shorten them"
        )
    return {name: array if name.endswith("mask") else array.astype(jnp.int32) for name, array in arrays.items()}
