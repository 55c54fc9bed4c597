"""One vector for a sequence, and the scores of labels: BERT's pooler, linear heads, RoBERTa's classification head.

Letters: B rows, T tokens, D width, K labels.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from ctx_jax.ops.dense import Activation, activate, dense, init_dense
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
    """A linear layer on a sequence's or each token's vector; parameters {kernel [D, K], bias [K]}. In BERT's
    next-sentence head label 0 is the real next sentence and 1 a random one."""

    labels: int = 2
    """K."""
    bias: bool = True
    """The layer has a bias; GPT-2's has none."""

    def init(self, key: jax.Array, *, width: int, scale: float = 0.02) -> Params:
        """A truncated normal kernel and a bias of zeros."""
        return init_dense(key, width, self.labels, bias=self.bias, scale=scale)

    def logits(self, params: Params, vectors: jax.Array, *, compute: Compute = "float32") -> jax.Array:
        """[..., K] of the vectors [..., D]."""
        return dense(params, vectors, compute)


@dataclass(frozen=True)
class ClassificationHead:
    """out(activation(dense(x))) of a sequence's first token: how RoBERTa (tanh), DistilBERT (relu) and ELECTRA (gelu)
    classify sequences; of each token: ELECTRA's discriminator. Parameters {dense {kernel [D, D], bias [D]}, out {kernel
    [D, K], bias [K]}}."""

    labels: int = 2
    """K."""
    activation: Literal["tanh"] | Activation = "tanh"

    def init(self, key: jax.Array, *, width: int, scale: float = 0.02) -> Params:
        """Truncated normal kernels and biases of zeros."""
        first, second = jax.random.split(key)
        return {
            "dense": init_dense(first, width, width, bias=True, scale=scale),
            "out": init_dense(second, width, self.labels, bias=True, scale=scale),
        }

    def logits(self, params: Params, vectors: jax.Array, *, compute: Compute = "float32") -> jax.Array:
        """[..., K] of the vectors [..., D]."""
        values = dense(params["dense"], vectors, compute)
        values = jnp.tanh(values) if self.activation == "tanh" else activate(self.activation, values)
        return dense(params["out"], values, compute)
