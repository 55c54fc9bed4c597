"""First parameters of a Transformer: the tree that every flag and every file format shares.

Kernels and tables are truncated normal (cut at two standard deviations) of `initial_scale`, as the original BERT's;
biases 0, scales 1. With `depth_scaled`, what writes into the residual stream (attention output, down projection)
and the head's dense layer start smaller by sqrt(2 L), as GPT-2's and ModernBERT's.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ctx_jax.encoders.transformer.config import Transformer

Tree = dict[str, Any]


def init(model: Transformer, key: jax.Array) -> Tree:
    """Nested dict of float32 arrays; the layout stands in `ctx_jax.encoders.transformer.model`.

    `jax.eval_shape(partial(init, model), jax.random.key(0))` gives its shapes and allocates nothing.
    """
    scale = model.initial_scale
    residual = scale / (2 * model.layers) ** 0.5 if model.depth_scaled else scale
    outside = jax.random.fold_in(key, 0)
    params: Tree = {"embeddings": _embeddings(model, jax.random.fold_in(outside, 0))}
    for index in range(model.layers):
        normed = index > 0 or model.first_attention_norm
        params[f"layer_{index}"] = _layer(model, jax.random.fold_in(key, index + 1), residual, normed)
    if model.norm == "pre":
        params["final_norm"] = _norm(model)
    if model.head != "none":
        params["head"] = _head(model, jax.random.fold_in(outside, 1), residual)
        if not params["head"]:
            del params["head"]
    if model.pooler:
        params["pooler"] = _dense(jax.random.fold_in(outside, 2), model.dim, model.dim, True, scale)
    if model.next_sentence:
        params["next_sentence"] = _dense(jax.random.fold_in(outside, 3), model.dim, 2, True, scale)
    return params


def _embeddings(model: Transformer, key: jax.Array) -> Tree:
    tokens, positions, types = jax.random.split(key, 3)
    tables: Tree = {"tokens": _normal(tokens, (model.vocabulary, model.dim), model.initial_scale)}
    if model.positions == "learned":
        tables["positions"] = _normal(positions, (model.max_positions, model.dim), model.initial_scale)
    if model.token_types:
        tables["types"] = _normal(types, (model.token_types, model.dim), model.initial_scale)
    if model.embedding_norm:
        tables["norm"] = _norm(model)
    return tables


def _layer(model: Transformer, key: jax.Array, residual: float, normed: bool) -> Tree:
    keys = jax.random.split(key, 7)
    width, inner, scale = model.dim, model.feed_forward, model.initial_scale
    params: Tree = {
        name: _dense(keys[place], width, width, model.attention_bias, residual if name == "output" else scale)
        for place, name in enumerate(("query", "key", "value", "output"))
    }
    if model.gated:
        params["gate"] = _dense(keys[4], width, inner, model.feed_forward_bias, scale)
    params["up"] = _dense(keys[5], width, inner, model.feed_forward_bias, scale)
    params["down"] = _dense(keys[6], inner, width, model.feed_forward_bias, residual)
    if normed:
        params["attention_norm"] = _norm(model)
    params["feed_forward_norm"] = _norm(model)
    return params


def _head(model: Transformer, key: jax.Array, residual: float) -> Tree:
    dense, matrix = jax.random.split(key)
    params: Tree = {}
    if model.head == "transform":
        params["dense"] = _dense(dense, model.dim, model.dim, model.head_bias, residual)
        params["norm"] = _norm(model)
    decoder: Tree = {}
    if not model.tied:
        decoder["matrix"] = _normal(matrix, (model.vocabulary, model.dim), model.initial_scale)
    if model.decoder_bias:
        decoder["bias"] = jnp.zeros(model.vocabulary, jnp.float32)
    if decoder:
        params["decoder"] = decoder
    return params


def _dense(key: jax.Array, inputs: int, outputs: int, bias: bool, scale: float) -> Tree:
    params: Tree = {"kernel": _normal(key, (inputs, outputs), scale)}
    if bias:
        params["bias"] = jnp.zeros(outputs, jnp.float32)
    return params


def _norm(model: Transformer) -> Tree:
    params: Tree = {"scale": jnp.ones(model.dim, jnp.float32)}
    if model.norm_bias:
        params["bias"] = jnp.zeros(model.dim, jnp.float32)
    return params


def _normal(key: jax.Array, shape: tuple[int, ...], scale: float) -> jax.Array:
    return jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32) * scale
