"""The network of ELMo's bidirectional language model (Peters et al. 2018), as pure functions of its parameters.

Letters: L LSTM layers, B rows, T tokens, C characters, D cell, P projection, V vocabulary, F filters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from ctx_jax.encoders.elmo.token_encoder import encode_characters
from ctx_jax.ops.dropout import Dropout
from ctx_jax.ops.gru import gru
from ctx_jax.ops.linear import linear, lookup
from ctx_jax.ops.lstm import Cell, State, Weights, lstm
from ctx_jax.typing import Mask, Params

if TYPE_CHECKING:
    from ctx_jax.encoders.elmo.model import BiLM

ElmoCarry = dict[str, tuple[dict[str, jax.Array], ...]]
"""Per direction and layer {"c": [B, D], "h": [B, P]}."""

DIRECTIONS = ("forward", "backward")


def zero_carry(model: BiLM, rows: int) -> ElmoCarry:
    """The state before the first word: zeros."""

    def state() -> dict[str, jax.Array]:
        return {"c": jnp.zeros((rows, model.dim), jnp.float32), "h": jnp.zeros((rows, model.projection), jnp.float32)}

    return {name: tuple(state() for _ in range(model.depth)) for name in DIRECTIONS}


def token_vectors(model: BiLM, params: Params, ids: jax.Array, *, copies: int = 1) -> jax.Array:
    """Context-free vectors, float32 [..., P], of char_ids [..., C] or of rows of the word table [...].

    An id outside its table gives a NaN vector. If the batch holds the same words `copies` times, the tables of
    distinct words are smaller by this factor.
    """
    if model.token_input == "characters":
        return encode_characters(model, params, jnp.asarray(ids), copies)
    return lookup(params["words"]["embedding"], ids)


def run_directions(
    model: BiLM,
    params: Params,
    inputs: dict[str, jax.Array],
    carry: ElmoCarry | None = None,
    *,
    mask: Mask | None = None,
    key: jax.Array | None = None,
    rows: jax.Array | None = None,
) -> tuple[dict[str, list[jax.Array]], ElmoCarry]:
    """Run the layers of both directions, or of one, over token vectors, each in its own reading order.

    Args:
      inputs: {"forward": [B, T, P], "backward": [B, T, P]}; a direction that is left out does not run.
      carry: the state before the first token; None: zeros.
      mask: bool [B, T], False past the end of a row (state frozen, output 0); None: True everywhere.
      key: enables dropout.
      rows: int32 [B], the rows' global numbers, which select each row's dropout mask; None: 0..B-1.

    Returns:
      {"forward": L + 1 arrays [B, T, P], "backward": ...}, the output of each layer and then that of the last layer
      after dropout, which the softmax reads; and the state after the last token. Both have the directions of `inputs`.
    """
    names = [name for name in DIRECTIONS if name in inputs]
    if carry is None:
        carry = zero_carry(model, inputs[names[0]].shape[0])
    steps = None if mask is None else mask.T.astype(jnp.float32)
    recurrence = lstm if model.cell == "lstm" else gru
    cell = Cell(model.cell_clip, model.projection_clip, model.compute)

    def drop(values: list[jax.Array], layer: int) -> list[jax.Array]:
        if key is None or not model.dropout:
            return values
        keys = [jax.random.fold_in(key, DIRECTIONS.index(name) * (model.depth + 1) + layer) for name in names]
        return [_dropout(each, model.dropout, own, rows) for each, own in zip(values, keys, strict=True)]

    new_carry: ElmoCarry = dict.fromkeys(names, ())
    outputs: dict[str, list[jax.Array]] = {name: [] for name in names}
    values = [jnp.swapaxes(inputs[name], 0, 1) for name in names]  # [T, B, P]
    for layer in range(model.depth):
        taken = drop(values, layer)
        states = [State(**carry[name][layer]) for name in names]
        gates, weights = [], []
        for name, own_values in zip(names, taken, strict=True):
            own = params[f"{name}_{layer}"]
            kernel = jnp.asarray(own["kernel"])  # [P + P, 4D], input rows, then recurrent rows
            products = linear(own_values, kernel[: model.projection], model.compute)
            gates.append(products + jnp.asarray(own["bias"])[None, None, :])
            projection = jnp.asarray(own["projection"]) if model.dim != model.projection else None
            weights.append(Weights(kernel[model.projection :], projection))
        values, states = recurrence(cell, weights, gates, steps, states)
        if model.residual and layer:
            values = [output + own for output, own in zip(values, taken, strict=True)]
        for name, output, state in zip(names, values, states, strict=True):
            outputs[name].append(jnp.swapaxes(output, 0, 1))
            new_carry[name] = (*new_carry[name], state._asdict())
    for name, top in zip(names, drop(values, model.depth), strict=True):
        outputs[name].append(jnp.swapaxes(top, 0, 1))
    return outputs, new_carry


def _dropout(values: jax.Array, rate: float, key: jax.Array, rows: jax.Array | None) -> jax.Array:
    """Dropout of [T, B, P]; the mask depends on the key and the global row alone, not on the device."""
    steps, count, width = values.shape
    keys = row_keys(key, rows, count)
    dropout_mask = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, (steps, width)), out_axes=1)(keys)
    return jnp.where(dropout_mask, values / (1.0 - rate), 0.0)


def row_keys(key: jax.Array, rows: jax.Array | None, count: int) -> jax.Array:
    """A key for each of B = `count` rows, from the rows' global numbers; None: 0..B-1."""
    numbers = jnp.arange(count, dtype=jnp.int32) if rows is None else rows
    return jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)


def sentence_layers(
    model: BiLM,
    params: Params,
    vectors: jax.Array,
    mask: Mask,
    carry: ElmoCarry | None = None,
    dropout: Dropout | None = None,
) -> tuple[jax.Array, ElmoCarry]:
    """`BiLM.layers` with sentence markers, of token vectors [B, T + 2, P]: float32 [L + 1, B, T + 2, 2P], undefined
    where the mask is False, and the state after the sentences."""
    reverse = reversal(jnp.sum(mask, axis=1, dtype=jnp.int32), mask.shape[1])
    both = {"forward": vectors, "backward": _take(vectors, reverse)}
    key, rows = dropout or (None, None)
    outputs, carry = run_directions(model, params, both, carry, mask=mask, key=key, rows=rows)
    backward = [_take(values, reverse) for values in outputs["backward"][:-1]]
    pairs = [(vectors, vectors), *zip(outputs["forward"][:-1], backward, strict=True)]
    return jnp.stack([jnp.concatenate(pair, axis=-1) for pair in pairs]), carry


def reversal(lengths: jax.Array, count: int) -> jax.Array:
    """int32 [B, T]: the indices that reverse rows of these lengths and leave padding in place.

    >>> reversal(jnp.array([3]), 5)
    Array([[2, 1, 0, 3, 4]], dtype=int32)
    """
    positions = jnp.arange(count, dtype=jnp.int32)[None, :]
    return jnp.where(positions < lengths[:, None], lengths[:, None] - 1 - positions, positions)


def _take(values: jax.Array, positions: jax.Array) -> jax.Array:
    return jnp.take_along_axis(values, positions[:, :, None], axis=1)
