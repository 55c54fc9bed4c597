"""Vectors to scores of a vocabulary: the head of every language model here.

    BERT   decoder(norm(activation(dense(x))))     masked tokens (Devlin et al. 2019)
    GPT    decoder(x)                              next tokens
    ELMo   decoder(x), one for both directions     next tokens (Peters et al. 2018)

Parameters: dense {kernel [D, E], bias}, norm {scale, bias} if there is a transform; decoder {matrix [V, E] unless
tied, bias [V]}. Besides `logits` there are its two steps, `hidden` and `decoder`: a loss applies `hidden` to the
predicted positions alone and computes the softmax over the decoder in chunks. Letters: D width, V
vocabulary, E width of the decoder, D unless the encoder's token table is narrower (ELECTRA, ALBERT).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ctx_jax.io.errors import ConfigError, InputError
from ctx_jax.ops.dense import Activation, activate, dense, init_dense, init_norm, layer_norm, truncated_normal
from ctx_jax.ops.linear import Compute, linear
from ctx_jax.typing import Params


@dataclass(frozen=True)
class VocabularyHead:
    """A vocabulary head; its widths are those of its parameters."""

    transform: bool = True
    """A dense layer, activation and norm before the decoder (BERT)."""
    activation: Activation = "gelu"
    """Activation of the transform."""
    bias: bool = True
    """The transform's dense layer has a bias."""
    norm_epsilon: float = 1e-12
    """Added to the variance in the transform's norm."""
    norm_bias: bool = True
    """The transform's norm has a bias."""
    decoder_bias: bool = True
    """The decoder has a bias for each entry of the vocabulary."""
    tied: bool = True
    """The decoder's matrix is the encoder's token table; otherwise the head has its own."""

    def __post_init__(self) -> None:
        if not 0 <= self.norm_epsilon < 1:
            raise ConfigError("head.norm_epsilon", f"must be in [0, 1), got {self.norm_epsilon}")

    @property
    def has_params(self) -> bool:
        """Whether it has parameters of its own: GPT's, tied and without a bias, has none."""
        return self.transform or self.decoder_bias or not self.tied

    def flops_per_token(self, *, width: int, vocabulary: int, decoder_width: int | None = None) -> float:
        """Floating-point operations of a forward pass per predicted token: 2 for each weight of a matrix."""
        inner = decoder_width or width
        return 2.0 * (inner * vocabulary + (width * inner if self.transform else 0))

    def init(
        self,
        key: jax.Array,
        *,
        width: int,
        vocabulary: int,
        decoder_width: int | None = None,
        scale: float = 0.02,
        dense_scale: float | None = None,
    ) -> Params:
        """Initial parameters: matrices truncated normal of `scale`, or `dense_scale` for the dense layer; biases 0,
        scales 1. `decoder_width` None: D; another one needs the transform."""
        inner = decoder_width or width
        if inner != width and not self.transform:
            raise ConfigError("head.transform", f"is needed between a width of {width} and a decoder of {inner}")
        dense_key, matrix_key = jax.random.split(key)
        params: dict[str, Params] = {}
        if self.transform:
            dense_scale = scale if dense_scale is None else dense_scale
            params["dense"] = init_dense(dense_key, width, inner, bias=self.bias, scale=dense_scale)
            params["norm"] = init_norm(inner, bias=self.norm_bias)
        matrix = {} if self.tied else {"matrix": truncated_normal(matrix_key, (vocabulary, inner), scale)}
        bias = {"bias": jnp.zeros(vocabulary, jnp.float32)} if self.decoder_bias else {}
        if matrix or bias:
            params["decoder"] = matrix | bias
        return params

    def hidden(self, params: Params, vectors: jax.Array, *, compute: Compute = "float32") -> jax.Array:
        """The transform, [..., D] to [..., E]; the vectors themselves if there is none."""
        if not self.transform:
            return vectors
        values = activate(self.activation, dense(params["dense"], vectors, compute))
        return layer_norm(params["norm"], values, self.norm_epsilon)

    def decoder(self, params: Params, table: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """The output matrix [V, E] and bias [V] (zeros if there is none): scores = hidden @ matrix.T + bias.

        A tied head needs `table`, the encoder's token table [V, E]; InputError without it.
        """
        if self.tied and table is None:
            raise InputError("a tied vocabulary head decodes with the encoder's token table: give table=")
        matrix = jnp.asarray(table if self.tied else params["decoder"]["matrix"])
        if not self.decoder_bias:
            return matrix, jnp.zeros(matrix.shape[0], matrix.dtype)
        return matrix, jnp.asarray(params["decoder"]["bias"])

    def logits(
        self, params: Params, vectors: jax.Array, table: jax.Array | None = None, *, compute: Compute = "float32"
    ) -> jax.Array:
        """Scores of every entry of the vocabulary, float32 [..., V], of vectors [..., D]; holds them all at once."""
        matrix, bias = self.decoder(params, table)
        scores = linear(self.hidden(params, vectors, compute=compute), matrix.T, compute)
        return scores + bias.reshape((1,) * (scores.ndim - 1) + bias.shape)
