"""The layers of one long sentence, part by part, in device memory that does not grow with the sentence.

The directions of a biLM are independent until their outputs are put side by side: the forward one reads the parts of a
sentence from left to right, the backward one from right to left, each with its own LSTM state carried along.

Letters: L layers without the token layer, T words, t tokens of a part, P projection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from ctx_jax.distributed.sharding import pipelined
from ctx_jax.encoders.elmo.network import DIRECTIONS, run_directions, zero_carry
from ctx_jax.io.errors import InputError
from ctx_jax.typing import Params

if TYPE_CHECKING:
    from ctx_jax.encoders.elmo.model import BiLM

Select = Callable[[jax.Array], jax.Array]


def layers_in_parts(model: BiLM, params: Params, inputs: Mapping[str, Any], part: int, select: Select) -> np.ndarray:
    """`BiLM.layers_in_parts`: float32 [..., T, 2P]."""
    if part < 2:
        raise InputError(f"part must be at least 2 tokens, got {part}")
    rows, tokens = jax.eval_shape(model.token_vectors, params, inputs)[1].shape
    if rows != 1:
        raise InputError(f"layers_in_parts takes one sentence, got inputs of {rows} rows")
    chosen = jax.eval_shape(select, jax.ShapeDtypeStruct((model.num_layers, 1, part, model.projection), jnp.float32))
    if chosen.shape[-3:] != (1, part, model.projection):
        raise InputError(
            f"select must keep the last three axes, (1, {part}, {model.projection}), got shape {chosen.shape}"
        )
    if not isinstance(select, Partial):
        select = Partial(select)
    vectors = _token_vectors(model, params, inputs, part)  # [n, P], sentence markers included
    result = np.zeros((*chosen.shape[:-3], tokens - 2, 2 * model.projection), np.float32)
    for direction, name in enumerate(DIRECTIONS):
        half = slice(direction * model.projection, (direction + 1) * model.projection)
        own = {f"forward_{layer}": params[f"{name}_{layer}"] for layer in range(model.depth)}
        reading = vectors if name == "forward" else vectors[::-1]
        for start, values in pipelined(_run(model, own, reading, part, select)):
            read = np.arange(start, min(start + part, len(vectors)))
            words = (read if name == "forward" else len(vectors) - 1 - read) - 1
            inside = (words >= 0) & (words < len(vectors) - 2)
            result[..., words[inside], half] = np.asarray(values)[..., 0, : len(read), :][..., inside, :]
    return result


def _run(model: BiLM, params: Params, vectors: np.ndarray, part: int, select: Partial) -> Iterator[tuple[int, Any]]:
    """(first token, what `select` makes of the values) of each part, of one direction in its reading order."""
    params = jax.tree.map(jnp.asarray, params)  # to the device once, not with each part
    states = zero_carry(model, 1)["forward"]
    for start in range(0, len(vectors), part):
        piece = vectors[start : start + part]
        padded = np.zeros((1, part, vectors.shape[1]), np.float32)
        padded[0, : len(piece)] = piece
        values, states = _run_part(model, params, padded, np.int32(len(piece)), states, select)
        yield start, values


@partial(jax.jit, static_argnums=0)
def _run_part(
    model: BiLM, params: Params, vectors: jax.Array, count: jax.Array, states: Any, select: Select
) -> tuple[jax.Array, Any]:
    """One direction over vectors [1, t, P], of which the first `count` are tokens, and its states after them.

    Both directions run as "forward", so that they share one compiled program."""
    mask = jnp.arange(vectors.shape[1], dtype=jnp.int32)[None, :] < count
    outputs, carry = run_directions(model, params, {"forward": vectors}, {"forward": states}, mask=mask)
    return select(jnp.stack([vectors, *outputs["forward"][:-1]])), carry["forward"]


def _token_vectors(model: BiLM, params: Params, inputs: Mapping[str, Any], part: int) -> np.ndarray:
    """float32 [n, P] of the sentence's n tokens, computed once for both directions and kept by the host."""
    arrays = {name: np.asarray(array) for name, array in inputs.items()}
    if "token_vectors" in arrays:
        return arrays["token_vectors"][0, : int(arrays["token_mask"].sum())]
    ((name, ids),) = arrays.items()
    count = ids.shape[1]
    vectors, mask = np.empty((count, model.projection), np.float32), np.empty(count, bool)
    own = {module: value for module, value in params.items() if model.depth_of(f"{module}/") == 0}
    own = jax.tree.map(jnp.asarray, own)

    def running() -> Iterator[tuple[int, tuple[Any, Any]]]:
        for start in range(0, count, part):
            piece = ids[:, start : start + part]
            padded = np.full((1, part, *ids.shape[2:]), -1 if name == "token_ids" else 0, np.int32)
            padded[:, : piece.shape[1]] = piece
            yield start, _vectors_of_part(model, own, {name: padded})

    for start, (found, present) in pipelined(running()):
        size = min(part, count - start)
        vectors[start : start + size] = np.asarray(found)[0, :size]
        mask[start : start + size] = np.asarray(present)[0, :size]
    return vectors[: int(mask.sum())]


@partial(jax.jit, static_argnums=0)
def _vectors_of_part(model: BiLM, params: Params, inputs: Mapping[str, Any]) -> tuple[jax.Array, jax.Array]:
    return model.token_vectors(params, inputs)
