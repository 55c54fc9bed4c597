"""Arrays to every layer of an encoder, as one pure function."""

from collections.abc import Mapping
from typing import Any

from ctx_jax.encoders.base import Layers, Model
from ctx_jax.io.errors import InputTypeError
from ctx_jax.typing import Carry, Params

__all__ = ["Layers", "embed"]


def embed(model: Model, params: Params, inputs: Mapping[str, Any], *, carry: Carry = None) -> Layers:
    """Every layer of `model` for a tokenized batch; `jax.jit(embed, static_argnums=0)`.

    A pure function: it works inside anyone's `jit`, `grad`, `vmap`, `scan` or Flax module, and a frozen encoder is
    `jax.lax.stop_gradient` around `params`. Derivatives are taken in reverse, of any order (`grad`, `vjp`, `jacrev`);
    in forward mode (`jvp`, `jacfwd`, `hessian`) jax raises a TypeError.

        inputs = encoder.tokenize(["The bank of the river ."])
        layers = embed(encoder.model, encoder.params, inputs)
        layers.values.shape                                       # (3, 1, 6, 2 * projection)

    Args:
      model: the encoder's frozen config, such as a `BiLM` or a `Transformer`; its method `layers` does the work.
      params: nested dict of arrays, as `load` or `model.init` give it.
      inputs: what `encoder.tokenize` gives, a dict of arrays with leading axis B; the model's `layers` says which.
      carry: the recurrent state to start from, one row a sentence: `layers.carry` of an earlier call, or None for
        zeros. For encoders that have one.

    Returns:
      Layers(values [L, B, T, D], mask [B, T], carry).

    Raises (while tracing):
      InputError: inputs of another kind or shape than the model reads, a carry of other rows.
      InputTypeError: a model that is no encoder, ids that are no integers, a carry for an encoder without one.
    """
    if isinstance(model, type) or not callable(getattr(model, "layers", None)):
        found = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise InputTypeError(f"embed needs an encoder's model such as BiLM() or Transformer(), got {found}")
    return model.layers(params, inputs, carry=carry)
