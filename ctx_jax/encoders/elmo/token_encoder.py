"""The context-free token encoder of a biLM: characters -> CNN -> highways -> projection, or a table of words.

Letters: N words, C characters, e character width, w filter width, n filters of a width, F filters in all, P width out.
Source: Kim et al. 2016 (character CNN, highway), Jozefowicz et al. 2016 (projection).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ctx_jax.encoders.elmo.word_dedup import once_per_distinct
from ctx_jax.ops.linear import Compute, linear, lookup

# The ids are made in `ctx_jax.tokenizers.characters`, which a model does not import.
PAD = 260  # the id that fills a word behind its end marker; its embedding is learned like any other
CHARACTERS = 261  # rows of the table: 256 bytes, the four markers, PAD

Initializer = Callable[..., jax.Array]


def symmetric(bound: float) -> Initializer:
    """U(-bound, bound)."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Bank(NamedTuple):
    """All filters as one product: narrower ones are filled up with zeros to the widest."""

    kernel: jax.Array  # [w e, F], w the greatest width
    bias: jax.Array  # [F]
    widths: tuple[int, ...]  # of each of the F filters


def bank(filters: Sequence[tuple[jax.Array, jax.Array]]) -> Bank:
    """Kernels [w, e, n] with their biases [n], side by side."""
    widest = max(kernel.shape[0] for kernel, _ in filters)
    filled = [jnp.pad(kernel, ((0, widest - kernel.shape[0]), (0, 0), (0, 0))) for kernel, _ in filters]
    kernel = jnp.concatenate(filled, axis=-1)
    widths = tuple(kernel.shape[0] for kernel, _ in filters for _ in range(kernel.shape[-1]))
    return Bank(kernel.reshape(-1, kernel.shape[-1]), jnp.concatenate([bias for _, bias in filters]), widths)


def convolve(filters: Bank, characters: jax.Array, pad: jax.Array, occupied: int, compute: Compute) -> jax.Array:
    """VALID cross-correlation over a word's positions, maximum over them, bias; no activation yet.

    Past a word's end every window sees only padding, so those windows are one constant per filter: of a word with
    `occupied` positions only the windows that start on one are computed, and the constant stands for the rest. Where a
    word may be so long that a filter has no such window, all its windows are computed instead.

    Args:
      characters: [M, C, e], of words that occupy at most `occupied` positions.
      pad: [e], the embedding of padding.

    Returns:
      [M, F].
    """
    length, size = characters.shape[1:]
    widest = filters.kernel.shape[0] // size
    short = occupied + widest <= length
    starts = occupied if short else length - min(filters.widths) + 1
    # Narrow filters start where the widest would reach beyond the word; it meets zeros there and is left out below.
    reach = jnp.pad(characters[:, : starts + widest - 1], ((0, 0), (0, max(0, starts + widest - 1 - length)), (0, 0)))
    windows = jnp.concatenate([reach[:, i : i + starts] for i in range(widest)], axis=-1)
    values = linear(windows, filters.kernel, compute)  # [M, starts, F]
    if short:
        constant = linear(jnp.tile(pad, widest)[None, :], filters.kernel, compute)
        return jnp.maximum(jnp.max(values, axis=1), constant) + filters.bias[None, :]
    valid = np.arange(starts)[:, None] <= length - np.array(filters.widths)[None, :]
    return jnp.max(jnp.where(valid[None], values, -jnp.inf), axis=1) + filters.bias[None, :]


class Convolution(nn.Module):
    """Filters [w, e, n] of one width."""

    width: int
    size: int
    filters: int
    activation: Literal["relu", "tanh"]

    def setup(self) -> None:
        scale = float((self.width * self.size) ** -0.5)
        init = symmetric(0.05) if self.activation == "relu" else nn.initializers.normal(scale)
        self.kernel = self.param("kernel", init, (self.width, self.size, self.filters))
        self.bias = self.param("bias", nn.initializers.zeros, (self.filters,))


class Highway(nn.Module):
    """x -> g * relu(x W + b) + (1 - g) * x with g = sigmoid(x W_g + b_g). The original calls the gate "carry"
    although it gates the transform, and keeps relu even behind a tanh CNN."""

    width: int

    def setup(self) -> None:
        init = nn.initializers.normal(float(self.width**-0.5))
        self.gate_kernel = self.param("gate_kernel", init, (self.width, self.width))
        self.gate_bias = self.param("gate_bias", nn.initializers.constant(-2.0), (self.width,))
        self.kernel = self.param("kernel", init, (self.width, self.width))
        self.bias = self.param("bias", nn.initializers.zeros, (self.width,))


class Projection(nn.Module):
    """A linear layer [F, P]."""

    width: int
    features: int

    def setup(self) -> None:
        init = nn.initializers.normal(float(self.width**-0.5))
        self.kernel = self.param("kernel", init, (self.width, self.features))
        self.bias = self.param("bias", nn.initializers.zeros, (self.features,))


class Table(nn.Module):
    """Rows by id."""

    rows: int
    features: int
    init_rows: Initializer

    def setup(self) -> None:
        self.embedding = self.param("embedding", self.init_rows, (self.rows, self.features))


def occupied_positions(words: jax.Array) -> jax.Array:
    """int32 [N] of raw character ids [N, C]: positions up to the last that is not padding."""
    positions = jnp.arange(1, words.shape[1] + 1, dtype=jnp.int32)
    return jnp.max(jnp.where(words == PAD, 0, positions[None, :]), axis=1, initial=0)


class CharacterEncoder(nn.Module):
    """Raw character ids [..., C] -> token vectors [..., P], each distinct word once."""

    size: int
    filters: tuple[tuple[int, int], ...]
    activation: Literal["relu", "tanh"]
    highways: int
    features: int
    tiers: tuple[tuple[int, float], ...]
    factors: tuple[float, ...]
    compute: Compute

    def setup(self) -> None:
        width = sum(n for _, n in self.filters)
        self.characters = Table(CHARACTERS, self.size, symmetric(1.0))
        self.convolution = [Convolution(w, self.size, n, self.activation) for w, n in self.filters]
        self.highway = [Highway(width) for _ in range(self.highways)]
        if width != self.features:
            self.projection = Projection(width, self.features)

    def __call__(self, tokens: jax.Array, copies: int = 1) -> jax.Array:
        words = tokens.reshape(math.prod(tokens.shape[:-1]), tokens.shape[-1])
        lengths = occupied_positions(words)
        vectors = once_per_distinct(self._reader(), self._finisher(), words, lengths, self.tiers, self.factors, copies)
        return vectors.reshape(*tokens.shape[:-1], self.features)

    # Both parts run inside a condition: they close over arrays, not over modules.

    def _reader(self) -> Callable[[jax.Array, int], jax.Array]:
        """Words [M, C] that occupy at most `occupied` positions -> filters' values [M, F]."""
        table, compute = self.characters.embedding, self.compute
        filters = bank([(module.kernel, module.bias) for module in self.convolution])
        activate = jax.nn.relu if self.activation == "relu" else jnp.tanh

        def read(words: jax.Array, occupied: int) -> jax.Array:
            return activate(convolve(filters, lookup(table, words), table[PAD], occupied, compute))

        return read

    def _finisher(self) -> Callable[[jax.Array], jax.Array]:
        """Filters' values [M, F] -> vectors [M, P]: the highways and the projection."""
        highways = [(m.gate_kernel, m.gate_bias, m.kernel, m.bias) for m in self.highway]
        projection = (self.projection.kernel, self.projection.bias) if hasattr(self, "projection") else None
        compute = self.compute

        def finish(values: jax.Array) -> jax.Array:
            for gate_kernel, gate_bias, kernel, bias in highways:
                gate = jax.nn.sigmoid(linear(values, gate_kernel, compute) + gate_bias[None, :])
                transformed = jax.nn.relu(linear(values, kernel, compute) + bias[None, :])
                values = gate * transformed + (1.0 - gate) * values
            if projection is None:
                return values
            return linear(values, projection[0], compute) + projection[1][None, :]

        return finish
