"""Initial parameters of a Transformer; `network` lists them.

Letters: V vocabulary, D width, P rows of the position table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax

from ctx_jax.ops.dense import init_dense, init_norm, truncated_normal

if TYPE_CHECKING:
    from ctx_jax.encoders.transformer.model import Transformer


def init(model: Transformer, key: jax.Array) -> dict[str, Any]:
    """Initial parameters.

    Kernels and tables are truncated normal (cut at two standard deviations) of `initial_scale`, as the original BERT's;
    biases 0, scales 1. With `depth_scaled`, the kernels that write into the residual stream (attention output, down
    projection) start smaller by sqrt(2 depth), as GPT-2's and ModernBERT's.
    """
    first = jax.random.fold_in(key, 0)
    params: dict[str, Any] = {"embeddings": _init_embeddings(model, jax.random.fold_in(first, 0))}
    if model.relative != "none":
        params["relative"] = _init_relative(model, jax.random.fold_in(first, 1))
    for index in range(min(model.depth, 1) if model.shared_layers else model.depth):
        normed = index > 0 or model.first_attention_norm
        params[f"layer_{index}"] = _init_layer(model, jax.random.fold_in(key, index + 1), normed)
    if model.norm != "post":
        params["final_norm"] = init_norm(model.dim, bias=model.norm_bias)
    return params


def _init_embeddings(model: Transformer, key: jax.Array) -> dict[str, Any]:
    tokens, positions, types = jax.random.split(key, 3)
    width, scale = model.embedding_dim or model.dim, model.initial_scale
    tables: dict[str, Any] = {"tokens": truncated_normal(tokens, (model.vocabulary, width), scale)}
    if model.positions == "learned":
        tables["positions"] = truncated_normal(positions, (model.max_positions, width), scale)
    if model.token_types:
        tables["types"] = truncated_normal(types, (model.token_types, width), scale)
    if model.embedding_norm:
        tables["norm"] = init_norm(width, bias=model.norm_bias)
    if model.embedding_dim is not None:
        tables["projection"] = init_dense(jax.random.fold_in(key, 3), width, model.dim, bias=True, scale=scale)
    return tables


def _init_relative(model: Transformer, key: jax.Array) -> dict[str, Any]:
    if model.relative == "bias":
        return {"embedding": truncated_normal(key, (model.relative_buckets, model.heads), model.initial_scale)}
    table = truncated_normal(key, (2 * model.relative_buckets, model.dim), model.initial_scale)
    return {"embedding": table, "norm": init_norm(model.dim, bias=model.norm_bias)}


def _init_layer(model: Transformer, key: jax.Array, normed: bool) -> dict[str, Any]:
    keys = jax.random.split(key, 7)
    width, inner, scale, residual = model.dim, model.feed_forward, model.initial_scale, model.residual_scale
    bias, of_queries, of_keys = model.attention_bias, *model.attention_widths
    params: dict[str, Any] = {
        name: init_dense(keys[number], width, outputs, bias=bias, scale=scale)
        for number, (name, outputs) in enumerate((("query", of_queries), ("key", of_keys), ("value", of_keys)))
    }
    params["output"] = init_dense(keys[3], of_queries, width, bias=bias, scale=residual)
    bias = model.feed_forward_bias
    if model.gated:
        params["gate"] = init_dense(keys[4], width, inner, bias=bias, scale=scale)
    params["up"] = init_dense(keys[5], width, inner, bias=bias, scale=scale)
    down_bias = bias if model.down_bias is None else model.down_bias
    params["down"] = init_dense(keys[6], inner, width, bias=down_bias, scale=residual)
    norms = ["attention_norm"] * normed + ["feed_forward_norm"]
    norms += ["attention_output_norm", "feed_forward_output_norm"] * (model.norm == "both")
    params |= {name: init_norm(width, bias=model.norm_bias) for name in norms}
    if model.head_norms:
        params |= {name: init_norm(model.head_width, bias=model.norm_bias) for name in ("query_norm", "key_norm")}
    return params
