"""The context-free token encoder of a biLM: characters -> CNN -> highways -> projection.

Letters: N words, M rows of a table of distinct words, C characters, e character width, w filter width, n filters of a
width, F filters in all, P projection.
Source: Kim et al. 2016 (character CNN, highway), Jozefowicz et al. 2016 (projection).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctx_jax.encoders.elmo.word_dedup import once_per_distinct
from ctx_jax.ops.linear import Compute, linear, lookup
from ctx_jax.tokenizers.characters import PAD, raw_ids
from ctx_jax.typing import Params

if TYPE_CHECKING:
    from ctx_jax.encoders.elmo.model import BiLM


class FilterBank(NamedTuple):
    """All filters as one kernel; narrower filters are padded with zeros to the widest."""

    kernel: jax.Array  # [w e, F], w the greatest width
    bias: jax.Array  # [F]
    widths: tuple[int, ...]  # of each of the F filters


def filter_bank(filters: Sequence[Sequence[jax.Array]]) -> FilterBank:
    """Concatenate pairs of a kernel [w, e, n] and its bias [n]."""
    widest = max(kernel.shape[0] for kernel, _ in filters)
    padded = [jnp.pad(kernel, ((0, widest - kernel.shape[0]), (0, 0), (0, 0))) for kernel, _ in filters]
    kernel = jnp.concatenate(padded, axis=-1)
    widths = tuple(kernel.shape[0] for kernel, _ in filters for _ in range(kernel.shape[-1]))
    return FilterBank(kernel.reshape(-1, kernel.shape[-1]), jnp.concatenate([bias for _, bias in filters]), widths)


def convolve(filters: FilterBank, characters: jax.Array, pad: jax.Array, occupied: int, compute: Compute) -> jax.Array:
    """VALID cross-correlation over a word's positions, the maximum over positions, plus bias; no activation.

    Windows that start past a word's end cover only padding, so their value is one constant per filter. Only windows
    that start on an occupied position are computed; the maximum includes the constant for the others. If words may be
    so long that some filter has no window of padding alone, all windows are computed.

    Args:
      characters: [M, C, e], embeddings of words that occupy at most `occupied` positions.
      pad: [e], the embedding of padding.

    Returns:
      [M, F].
    """
    length, size = characters.shape[1:]
    widest = filters.kernel.shape[0] // size
    short = occupied + widest <= length
    starts = occupied if short else length - min(filters.widths) + 1
    # Narrow filters have windows that start where the widest filter would reach past position C: the input is padded
    # with zeros there, and `valid` below masks the values of the filters that are too wide.
    reach = jnp.pad(characters[:, : starts + widest - 1], ((0, 0), (0, max(0, starts + widest - 1 - length)), (0, 0)))
    windows = jnp.concatenate([reach[:, i : i + starts] for i in range(widest)], axis=-1)
    values = linear(windows, filters.kernel, compute)  # [M, starts, F]
    if short:
        constant = linear(jnp.tile(pad, widest)[None, :], filters.kernel, compute)
        return jnp.maximum(jnp.max(values, axis=1), constant) + filters.bias[None, :]
    valid = np.arange(starts)[:, None] <= length - np.array(filters.widths)[None, :]
    return jnp.max(jnp.where(valid[None], values, -jnp.inf), axis=1) + filters.bias[None, :]


def occupied_positions(words: jax.Array) -> jax.Array:
    """int32 [N] from raw ids [N, C]: the number of positions up to the last one that is not padding."""
    positions = jnp.arange(1, words.shape[1] + 1, dtype=jnp.int32)
    return jnp.max(jnp.where(words == PAD, 0, positions[None, :]), axis=1, initial=0)


class TokenNetwork(NamedTuple):
    """The network from characters to token vectors, in two parts; its parameters are read once."""

    convolution: Callable[[jax.Array, int], jax.Array]
    """(raw ids of words [M, C], how many positions the longest occupies) -> [M, F]."""
    finish: Callable[[jax.Array], jax.Array]
    """[M, F] -> [M, P]: highways and projection."""


def token_network(model: BiLM, params: Params) -> TokenNetwork:
    """The token encoder with the parameters of a model. The highway layers are

        x -> g * relu(x W + b) + (1 - g) * x,  g = sigmoid(x W_g + b_g)

    with relu even after a tanh CNN, as in bilm-tf.
    """

    def arrays(module: str, *names: str) -> list[jax.Array]:
        return [jnp.asarray(params[module][name]) for name in names]

    # `convolution` and `finish` run inside a `lax.cond`, so the parameters are read outside them.
    (table,) = arrays("characters", "embedding")
    filters = filter_bank([arrays(f"convolution_{i}", "kernel", "bias") for i in range(len(model.filters))])
    names = ("gate_kernel", "gate_bias", "kernel", "bias")
    highways = [arrays(f"highway_{i}", *names) for i in range(model.highways)]
    projection = arrays("projection", "kernel", "bias") if model.filter_count != model.projection else None
    activate = jax.nn.relu if model.activation == "relu" else jnp.tanh

    def convolution(words: jax.Array, occupied: int) -> jax.Array:
        characters = lookup(table, words)  # [M, C, e]
        features = activate(convolve(filters, characters, table[PAD], occupied, model.compute))
        # XLA's maximum on CPUs drops NaN in some shapes, and with it the mark of an id outside the table.
        bad = jnp.isnan(jnp.sum(jax.lax.stop_gradient(characters), axis=(1, 2)))
        return jnp.where(bad[:, None], jnp.nan, features)

    def finish(values: jax.Array) -> jax.Array:
        for gate_kernel, gate_bias, kernel, bias in highways:
            gate = jax.nn.sigmoid(linear(values, gate_kernel, model.compute) + gate_bias[None, :])
            transformed = jax.nn.relu(linear(values, kernel, model.compute) + bias[None, :])
            values = gate * transformed + (1.0 - gate) * values
        if projection is None:
            return values
        return linear(values, projection[0], model.compute) + projection[1][None, :]

    return TokenNetwork(convolution, finish)


def encode_characters(model: BiLM, params: Params, char_ids: jax.Array, copies: int = 1) -> jax.Array:
    """Token vectors [..., P] of char_ids [..., C]; each distinct word of the batch is encoded once."""
    convolution, finish = token_network(model, params)
    words = raw_ids(char_ids).reshape(math.prod(char_ids.shape[:-1]), char_ids.shape[-1])
    lengths = occupied_positions(words)
    vectors = once_per_distinct(
        convolution, finish, words, lengths, model.word_buckets, model.dedup_table_factors, copies
    )
    return vectors.reshape(*char_ids.shape[:-1], model.projection)


def encode_distinct(model: BiLM, params: Params, char_ids: jax.Array, occupied: int) -> jax.Array:
    """Token vectors [N, P] of char_ids [N, C], every row by itself: for words that are distinct already and occupy at
    most `occupied` positions."""
    convolution, finish = token_network(model, params)
    return finish(convolution(raw_ids(char_ids), occupied))
