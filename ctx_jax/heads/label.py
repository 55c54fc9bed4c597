"""Scores of labels from mixed vectors: what a classifier and a tagger put on an encoder.

Letters: L layers, D width, K labels.
"""

from dataclasses import dataclass

import jax
from flax import linen as nn


class LabelHead(nn.Module):
    """A linear layer, vectors [..., D] to logits [..., K]; `labels` are the names of the K scores."""

    labels: tuple[str, ...] = ()

    @nn.compact
    def __call__(self, vectors: jax.Array) -> jax.Array:
        small = nn.initializers.normal(0.02)
        return nn.Dense(len(self.labels), kernel_init=small, precision="highest", name="scores")(vectors)


@dataclass(frozen=True)
class LayerMix:
    """A learned mix of L layers. Its parameters, {"weights": [L], "gamma": []}, are what `ctx_jax.mix` takes."""

    layers: int = 1
    row_norm: bool = False
    """Each layer of a row is normalised first: `ctx_jax.mix(..., mask=, layer_norm="row")`."""
