"""What the dropout of a fine-tuning step of ours keeps, for a torch loop that is to keep the same."""

from collections.abc import Iterator
from typing import Any

import jax

from ctx_jax.ops import dropout
from ctx_jax.tasks.label_network import HEAD_DROPOUT

dropout_mask = jax.jit(dropout.dropout_mask, static_argnames=("number", "rate", "shape"))


def step_masks(
    model: Any, key: jax.Array, rows: jax.Array, length: int, rate: float, words: tuple[int, ...] = ()
) -> Iterator[jax.Array]:
    """The masks of a BERT and a linear head, in the order in which transformers drops out: embeddings, each layer's
    attention, its output and that of the feed-forward layer, at last what the head reads, [B, *words, D]."""
    seeds, vectors = dropout.row_seeds(key, rows), (length, model.dim)
    yield dropout_mask(seeds, 0, rate, vectors)
    for layer in range(1, model.depth + 1):
        own = dropout.fold_seeds(seeds, layer)
        yield dropout_mask(own, 0, rate, (model.heads, length, length))
        yield dropout_mask(own, 1, rate, vectors)
        yield dropout_mask(own, 3, rate, vectors)  # 2 is within the feed-forward layer, where BERT has none
    yield dropout_mask(dropout.fold_seeds(seeds, HEAD_DROPOUT), 0, rate, (*words, model.dim))
