"""Initial parameters of a biLM, from the distributions that bilm-tf uses.

Letters: e character width, w filter width, n filters of a width, F filters in all, D cell, P projection, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from ctx_jax.encoders.elmo.network import DIRECTIONS
from ctx_jax.io.errors import ConfigError
from ctx_jax.tokenizers.characters import CHARACTERS

if TYPE_CHECKING:
    from ctx_jax.encoders.elmo.model import BiLM

Initializer = Callable[[jax.Array, tuple[int, ...], Any], jax.Array]
Draws = dict[str, tuple[Initializer, tuple[int, ...]]]

_zeros: Initializer = jax.nn.initializers.zeros
_glorot: Initializer = jax.nn.initializers.glorot_uniform()


def _uniform(bound: float) -> Initializer:
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


@partial(jax.jit, static_argnums=0)
def init(model: BiLM, key: jax.Array) -> dict[str, dict[str, jax.Array]]:
    """Parameters of the encoder (bilm-tf's `training.py`; Peters et al. 2018).

        characters  U(-1, 1)                              highway  N(0, 1/sqrt(F)), gate's bias -2
        CNN         relu U(-.05, .05), tanh N(0, 1/sqrt(w e))    projection  N(0, 1/sqrt(F))
        words, recurrent kernels  glorot uniform          other biases  0

    Raises ConfigError for a model over words whose `vocabulary` is 0.
    """
    if model.token_input == "words" and not model.vocabulary:
        raise ConfigError("vocabulary", 'must be the size of the word table with token_input="words", got 0')
    draws = dict(_draws(model))
    keys = iter(jax.random.split(key, sum(map(len, draws.values()))))
    return {
        module: {name: draw(next(keys), shape, jnp.float32) for name, (draw, shape) in arrays.items()}
        for module, arrays in draws.items()
    }


def init_softmax(
    model: BiLM, key: jax.Array, *, vocabulary: int, tied: bool = False
) -> dict[str, dict[str, jax.Array]]:
    """Parameters of the softmax head: a matrix N(0, 1/sqrt(P)), absent if tied to the word table, and a zero bias."""
    decoder = {} if tied else {"matrix": _normal(model.projection)(key, (vocabulary, model.projection), jnp.float32)}
    return {"decoder": decoder | {"bias": jnp.zeros(vocabulary, jnp.float32)}}


def _normal(inputs: int) -> Initializer:
    return jax.nn.initializers.normal(inputs**-0.5)


def _draws(model: BiLM) -> Iterator[tuple[str, Draws]]:
    """Initializer and shape of each array, by module."""
    size, width, dim, projection = model.character_dim, model.filter_count, model.dim, model.projection
    if model.token_input == "words":
        yield "words", {"embedding": (_glorot, (model.vocabulary, projection))}
    else:
        yield "characters", {"embedding": (_uniform(1.0), (CHARACTERS, size))}
        for index, (span, count) in enumerate(model.filters):
            draw = _uniform(0.05) if model.activation == "relu" else _normal(span * size)
            yield f"convolution_{index}", {"kernel": (draw, (span, size, count)), "bias": (_zeros, (count,))}
        for index in range(model.highways):
            square, gate_bias = (_normal(width), (width, width)), jax.nn.initializers.constant(-2.0)
            transform: Draws = {"kernel": square, "bias": (_zeros, (width,))}
            yield f"highway_{index}", {"gate_kernel": square, "gate_bias": (gate_bias, (width,)), **transform}
        if width != projection:
            yield "projection", {"kernel": (_normal(width), (width, projection)), "bias": (_zeros, (projection,))}
    gates = model.gates * dim
    cell: Draws = {"kernel": (_glorot, (2 * projection, gates)), "bias": (_zeros, (gates,))}
    if dim != projection:
        cell["projection"] = (_glorot, (dim, projection))
    for layer in range(model.depth):
        yield from ((f"{direction}_{layer}", cell) for direction in DIRECTIONS)
