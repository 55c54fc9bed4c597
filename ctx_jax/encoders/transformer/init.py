"""Initial parameters of a Transformer.

Kernels and tables are truncated normal (cut at two standard deviations) of `initial_scale`, as the original BERT's;
biases 0, scales 1. With `depth_scaled`, what writes into the residual stream (attention output, down projection)
starts smaller by sqrt(2 depth), as GPT-2's and ModernBERT's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax

from ctx_jax.ops.dense import init_dense, init_norm, truncated_normal

if TYPE_CHECKING:
    from ctx_jax.encoders.transformer.model import Transformer

Tree = dict[str, Any]


def init(model: Transformer, key: jax.Array) -> Tree:
    """Nested dict of float32 arrays; `ctx_jax.encoders.transformer.network` describes its layout."""
    params: Tree = {"embeddings": _embeddings(model, jax.random.fold_in(jax.random.fold_in(key, 0), 0))}
    for index in range(model.depth):
        normed = index > 0 or model.first_attention_norm
        params[f"layer_{index}"] = _layer(model, jax.random.fold_in(key, index + 1), normed)
    if model.norm == "pre":
        params["final_norm"] = init_norm(model.dim, bias=model.norm_bias)
    return params


def _embeddings(model: Transformer, key: jax.Array) -> Tree:
    tokens, positions, types = jax.random.split(key, 3)
    tables: Tree = {"tokens": truncated_normal(tokens, (model.vocabulary, model.dim), model.initial_scale)}
    if model.positions == "learned":
        tables["positions"] = truncated_normal(positions, (model.max_positions, model.dim), model.initial_scale)
    if model.token_types:
        tables["types"] = truncated_normal(types, (model.token_types, model.dim), model.initial_scale)
    if model.embedding_norm:
        tables["norm"] = init_norm(model.dim, bias=model.norm_bias)
    return tables


def _layer(model: Transformer, key: jax.Array, normed: bool) -> Tree:
    keys = jax.random.split(key, 7)
    width, inner, scale, residual = model.dim, model.feed_forward, model.initial_scale, model.residual_scale
    bias = model.attention_bias
    params: Tree = {
        name: init_dense(keys[number], width, width, bias=bias, scale=scale)
        for number, name in enumerate(("query", "key", "value"))
    }
    params["output"] = init_dense(keys[3], width, width, bias=bias, scale=residual)
    bias = model.feed_forward_bias
    if model.gated:
        params["gate"] = init_dense(keys[4], width, inner, bias=bias, scale=scale)
    params["up"] = init_dense(keys[5], width, inner, bias=bias, scale=scale)
    params["down"] = init_dense(keys[6], inner, width, bias=bias, scale=residual)
    if normed:
        params["attention_norm"] = init_norm(width, bias=model.norm_bias)
    params["feed_forward_norm"] = init_norm(width, bias=model.norm_bias)
    return params
