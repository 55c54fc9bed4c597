"""`embed`: the layers of an encoder as a pure function of arrays."""

from collections.abc import Mapping
from typing import Any

from ctx_jax.encoders.base import Layers, Model
from ctx_jax.io.errors import InputTypeError
from ctx_jax.typing import Carry, Params

__all__ = ["Layers", "embed"]


def embed(model: Model, params: Params, inputs: Mapping[str, Any], *, carry: Carry = None) -> Layers:
    """Every layer of `model` for a tokenized batch; `jax.jit(embed, static_argnums=0)`.

    A pure function: it works inside `jit`, `grad`, `vmap`, `scan` or a Flax module. To freeze the encoder, apply
    `jax.lax.stop_gradient` to `params`. Reverse-mode derivatives of any order work (`grad`, `vjp`, `jacrev`); in
    forward mode (`jvp`, `jacfwd`, `hessian`) jax raises a TypeError.

        inputs = encoder.tokenize(["The bank of the river ."])
        layers = embed(encoder.model, encoder.params, inputs)
        layers.values.shape                                       # (3, 1, 6, 2 * projection)

    Args:
      model: the encoder's frozen config, such as a `BiLM` or a `Transformer`.
      params: nested dict of arrays, from `load` or `model.init`.
      inputs: dict of arrays with leading axis B, from `encoder.tokenize`; see the model's `layers`.
      carry: the initial state of a recurrent encoder, one row a sentence: `layers.carry` of an earlier call, or None
        for zeros.

    Returns:
      Layers(values [L, B, T, D], mask [B, T], carry).

    Raises (while tracing):
      InputError: inputs of the wrong kind or shape, or a carry with another number of rows.
      InputTypeError: `model` is no encoder, ids are no integers, or a carry for an encoder without state.
    """
    if isinstance(model, type) or not callable(getattr(model, "layers", None)):
        found = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise InputTypeError(f"embed needs an encoder's model such as BiLM() or Transformer(), got {found}")
    if isinstance(inputs, Mapping) and "offsets" in inputs:  # of `tokenize`, for the caller
        inputs = {name: array for name, array in inputs.items() if name != "offsets"}
    return model.layers(params, inputs, carry=carry)
