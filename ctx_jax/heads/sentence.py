"""One vector for a text: how a sentence encoder pools its tokens, and what follows, by sentence-transformers' names.

Letters: B texts, I inputs, O outputs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp

from ctx_jax.ops.dense import activate, dense
from ctx_jax.ops.linear import Compute
from ctx_jax.typing import Params

PoolingMode = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]

NORMALIZE = "normalize"
"""The module that divides a vector by its length, in `SentenceModules.modules`."""


@dataclass(frozen=True)
class SentenceModules:
    """What makes one vector a text of the vectors of its tokens, and how the text is read before."""

    pooling: tuple[PoolingMode, ...] = ("mean",)
    """The vectors of several modes stand one after the other."""
    include_prompt: bool = True
    """The tokens of a prompt are pooled too."""
    modules: tuple[str, ...] = ()
    """What follows pooling, in order: `NORMALIZE` or the name of a `DenseHead` among the encoder's heads."""
    dimensions: int | None = None
    """So many numbers at the beginning of the last module's vector are kept; None: all."""
    length: int | None = None
    """Texts are cut to so many tokens, special ones included; None: to what the encoder's positions hold."""
    prompts: Mapping[str, str] = field(default_factory=dict, hash=False)
    """By name: what is put in front of a text."""
    default_prompt: str | None = None
    """The name of the prompt that is used where none is asked for."""
    similarity: str | None = None
    """How the authors compare two vectors: "cosine", "dot", "euclidean" or "manhattan". Changes no vector."""
    layers: Literal["last", "mix"] | int = "last"
    """What is pooled: the last layer, the one of a number, or the mix of all by the encoder's head "mix"."""
    empty: bool = True
    """An empty text has the vector of its special tokens; False: zeros."""
    unsupported: tuple[str, ...] = ()
    """Settings that a run's vectors were trained with, and that `Encoder.encode` cannot follow."""

    @property
    def heads(self) -> tuple[str, ...]:
        """The names of the encoder's heads that it reads: dense layers, and the mix."""
        dense = tuple(name for name in self.modules if name != NORMALIZE)
        return (*dense, "mix") if self.layers == "mix" else dense


@dataclass(frozen=True)
class DenseHead:
    """activation(dense(x)) [+ x, or + x @ residual]; parameters {kernel [I, O]} and, where the module has them, {bias
    [O], residual [I, O]}."""

    activation: Literal["tanh", "identity", "relu", "gelu", "sigmoid", "silu"] = "tanh"
    residual: bool = False
    """The input is added to the result, times a matrix where I and O differ."""

    def vectors(self, params: Params, vectors: jax.Array, *, compute: Compute = "float32") -> jax.Array:
        """[B, O] of the vectors [B, I]."""
        values = dense(params, vectors, compute)
        match self.activation:
            case "tanh":
                values = jnp.tanh(values)
            case "sigmoid":
                values = jax.nn.sigmoid(values)
            case "relu" | "gelu" | "silu":
                values = activate(self.activation, values)
        if not self.residual:
            return values
        return values + (dense({"kernel": params["residual"]}, vectors, compute) if "residual" in params else vectors)
