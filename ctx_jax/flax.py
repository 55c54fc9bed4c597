"""An encoder and a mix of its layers as Flax modules, Linen and NNX, for use inside your own modules.

    class Tagger(nn.Module):                                  class Tagger(nnx.Module):
        encoder: ctx_jax.Encoder                                  def __init__(self, encoder, rngs):
                                                                      self.encoder = NNXEncoder(encoder)
        @nn.compact                                                   self.mix = NNXMix(encoder.model.num_layers)
        def __call__(self, inputs):                                   self.head = nnx.Linear(D, 17, rngs=rngs)
            layers = LinenEncoder.of(self.encoder)(inputs)        def __call__(self, inputs):
            vectors = LinenMix()(layers.values)                       layers = self.encoder(inputs)
            return nn.Dense(17)(vectors)                              return self.head(self.mix(layers.values))

A frozen encoder's parameters are kept apart from the trainable ones (Linen: in the collection "frozen"; NNX: as
`Frozen` variables), so that optimizers neither update nor decay them. Letters: L layers, B sentences, T words, D width.
"""

from collections.abc import Mapping
from typing import Any

import jax
from flax import linen as nn
from flax import nnx

from ctx_jax.embedding.embed import embed
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.embedding.mixing import LayerNorm, Mixing, init_mix, mix
from ctx_jax.encoders.base import Layers, Model
from ctx_jax.typing import Carry, Mask, Params


class LinenEncoder(nn.Module):
    """`embed` as a Linen module."""

    model: Model
    pretrained: Params | None = None
    """Initial parameters, such as `encoder.params`; None: those of `model.init`."""
    frozen: bool = True
    """Keep the parameters in the collection "frozen", without gradient; else in "params"."""

    @classmethod
    def of(cls, encoder: Encoder, *, frozen: bool = True, name: str | None = None) -> "LinenEncoder":
        """The module of a loaded encoder."""
        return cls(encoder.model, encoder.params, frozen, name=name)

    @nn.compact
    def __call__(self, inputs: Mapping[str, Any], *, carry: Carry = None) -> Layers:
        """The layers of the arrays that `encoder.tokenize` returns."""
        if self.frozen:
            params = self.variable("frozen", "encoder", lambda: self._initial(self.make_rng("params"))).value
            params = jax.lax.stop_gradient(params)
        else:
            params = self.param("encoder", self._initial)
        return embed(self.model, params, inputs, carry=carry)

    def _initial(self, key: jax.Array) -> Any:
        return self.model.init(key) if self.pretrained is None else plain_params(self.pretrained)


def plain_params(params: Params) -> dict[str, Any]:
    """The same arrays in plain dicts, which Linen's `apply` takes alone.

    Call it on a Linen head's parameters inside a task's loss: under fsdp they are a mapping that gathers each array as
    it is taken out.
    """
    return {name: plain_params(value) if isinstance(value, Mapping) else value for name, value in params.items()}


class LinenMix(nn.Module):
    """`mix` as a Linen module: parameters "weights" [L] and "gamma" []."""

    layer_norm: LayerNorm | None = None
    """As in `mix`."""

    @nn.compact
    def __call__(self, values: jax.Array, *, mask: Mask | None = None) -> jax.Array:
        """values [L, B, T, D] to [B, T, D]."""
        start = init_mix(len(values))
        weights = self.param("weights", lambda key: start["weights"])
        gamma = self.param("gamma", lambda key: start["gamma"])
        return mix(values, {"weights": weights, "gamma": gamma}, mask=mask, layer_norm=self.layer_norm)


class Frozen(nnx.Variable):
    """A parameter that is not trained: optimizers that filter by `nnx.Param` ignore it."""


class NNXEncoder(nnx.Module):
    """`embed` as an NNX module around a loaded encoder."""

    def __init__(self, encoder: Encoder, *, frozen: bool = True) -> None:
        self.model = encoder.model
        self.frozen = frozen
        kind = Frozen if frozen else nnx.Param
        self.params = nnx.data(jax.tree.map(kind, dict(encoder.params)))

    def __call__(self, inputs: Mapping[str, Any], *, carry: Carry = None) -> Layers:
        """The layers of the arrays that `encoder.tokenize` returns."""
        params = jax.tree.map(_value, self.params, is_leaf=lambda node: isinstance(node, nnx.Variable))
        return embed(self.model, jax.lax.stop_gradient(params) if self.frozen else params, inputs, carry=carry)


class NNXMix(nnx.Module):
    """`mix` as an NNX module."""

    def __init__(self, count: int, *, layer_norm: LayerNorm | None = None) -> None:
        """`count`: L, `model.num_layers`; `layer_norm` as in `mix`."""
        start, self.layer_norm = init_mix(count), layer_norm
        self.weights, self.gamma = nnx.Param(start["weights"]), nnx.Param(start["gamma"])

    def __call__(self, values: jax.Array, *, mask: Mask | None = None) -> jax.Array:
        """values [L, B, T, D] to [B, T, D]."""
        mixing: Mixing = {"weights": _value(self.weights), "gamma": _value(self.gamma)}
        return mix(values, mixing, mask=mask, layer_norm=self.layer_norm)


def _value(variable: Any) -> Any:
    return variable.get_value()
