"""One vector for a sequence, and the scores of labels: BERT's pooler, and the heads that transformers' classes have.

Letters: B rows, T tokens, D width, K labels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from ctx_jax.ops.dense import Activation, activate, dense, init_dense, init_norm, layer_norm
from ctx_jax.ops.linear import Compute
from ctx_jax.typing import Params

UNNAMED = "LABEL_{}"
"""What transformers calls a label without a name, by its number."""


@dataclass(frozen=True)
class Labelling:
    """What the head of labels of a Hugging Face folder predicts, as its class and config.json say."""

    target: Literal["classes", "several", "number"] = "classes"
    """One label of several, any number of them, or a number."""
    pooling: Literal["first", "last", "mean"] | None = "first"
    """How the last layer's vectors of a text become the one that is scored; None: every token has its own label."""
    skips_end: bool = False
    """"last" is the token before the one that the tokenizer puts behind a text: that one is the padding token, which
    transformers passes over."""
    length: int | None = None
    """The tokens, special ones included, at which the folder's tokenizer cuts a text; None: those that the model's
    positions hold."""


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

    labels: tuple[str, ...] = (UNNAMED.format(0), UNNAMED.format(1))
    """The names of the K scores."""
    bias: bool = True
    """The layer has a bias; GPT-2's has none."""

    def init(self, key: jax.Array, *, width: int, scale: float = 0.02) -> Params:
        """A truncated normal kernel and a bias of zeros."""
        return init_dense(key, width, len(self.labels), bias=self.bias, scale=scale)

    def logits(self, params: Params, vectors: jax.Array, *, compute: Compute = "float32") -> jax.Array:
        """[..., K] of the vectors [..., D]."""
        return dense(params, vectors, compute)


@dataclass(frozen=True)
class ClassificationHead:
    """out(norm(activation(dense(x)))) of a sequence's or each token's vector: how BERT with its pooler (tanh), RoBERTa
    (tanh), DistilBERT (relu) and ELECTRA (gelu) classify sequences, ModernBERT, which alone has the norm, sequences and
    tokens, and ELECTRA's discriminator tokens.

    Parameters {dense {kernel [D, D], bias [D]}, norm {scale [D], bias [D]}, out {kernel [D, K], bias [K]}}.
    """

    labels: tuple[str, ...] = (UNNAMED.format(0), UNNAMED.format(1))
    """The names of the K scores."""
    activation: Literal["tanh"] | Activation = "tanh"
    bias: bool = True
    """The dense layer has a bias."""
    norm_epsilon: float | None = None
    """Added to the variance in the norm; None: there is no norm."""
    norm_bias: bool = True
    """The norm has a bias."""
    input_dropout: bool = False
    """In training `x` is dropped out too, as RoBERTa and ELECTRA do, not the input of `out` alone."""

    def init(self, key: jax.Array, *, width: int, scale: float = 0.02) -> Params:
        """Truncated normal kernels, biases of zeros and a scale of ones."""
        first, second = jax.random.split(key)
        norm = {} if self.norm_epsilon is None else {"norm": init_norm(width, bias=self.norm_bias)}
        return {
            "dense": init_dense(first, width, width, bias=self.bias, scale=scale),
            **norm,
            "out": init_dense(second, width, len(self.labels), bias=True, scale=scale),
        }

    def logits(
        self,
        params: Params,
        vectors: jax.Array,
        *,
        compute: Compute = "float32",
        dropout: Callable[[jax.Array], jax.Array] | None = None,
    ) -> jax.Array:
        """[..., K] of the vectors [..., D]. `dropout` is applied to the input of `out`."""
        values = dense(params["dense"], vectors, compute)
        values = jnp.tanh(values) if self.activation == "tanh" else activate(self.activation, values)
        if self.norm_epsilon is not None:
            values = layer_norm(params["norm"], values, self.norm_epsilon)
        return dense(params["out"], values if dropout is None else dropout(values), compute)
