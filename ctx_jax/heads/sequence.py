"""One vector for a sequence, and the scores of a sequence's labels: BERT's pooler and next-sentence head.

Letters: B rows, T tokens, D width, K labels.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ctx_jax.ops.dense import dense, init_dense
from ctx_jax.ops.linear import Compute
from ctx_jax.typing import Params


@dataclass(frozen=True)
class Pooler:
    """tanh(dense(first token)) of the last layer (Devlin et al. 2019); parameters {kernel [D, D], bias [D]}."""

    def init(self, key: jax.Array, *, width: int, scale: float = 0.02) -> Params:
        """A truncated normal kernel and a bias of zeros."""
        return init_dense(key, width, width, bias=True, scale=scale)

    def vectors(self, params: Params, hidden: jax.Array, *, compute: Compute = "float32") -> jax.Array:
        """[B, D] of the last layer [B, T, D]."""
        return jnp.tanh(dense(params, hidden[:, 0], compute))


@dataclass(frozen=True)
class SequenceHead:
    """A linear layer on a sequence's vector; parameters {kernel [D, K], bias [K]}. In BERT's next-sentence head label
    0 is the real next sentence and 1 a random one."""

    labels: int = 2

    def init(self, key: jax.Array, *, width: int, scale: float = 0.02) -> Params:
        """A truncated normal kernel and a bias of zeros."""
        return init_dense(key, width, self.labels, bias=True, scale=scale)

    def logits(self, params: Params, vectors: jax.Array, *, compute: Compute = "float32") -> jax.Array:
        """[B, K] of the pooled vectors [B, D]."""
        return dense(params, vectors, compute)
