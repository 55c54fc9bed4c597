"""The context-free token encoder of a biLM: characters -> CNN -> highways -> projection, or a table of words.

Letters: N words, C characters, e character width, w filter width, n filters of a width, F filters in all, P width out.
Source: Kim et al. 2016 (character CNN, highway), Jozefowicz et al. 2016 (projection).
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from ctx_jax.models.distinct import once_per_distinct
from ctx_jax.numerics.linear import Compute, linear

PAD = 260  # the id that fills a word behind its end marker; its embedding is learned like any other
CHARACTERS = 261

Initializer = Callable[..., jax.Array]


def symmetric(bound: float) -> Initializer:
    """U(-bound, bound)."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def convolve(
    kernel: jax.Array, bias: jax.Array, characters: jax.Array, pad: jax.Array | None, occupied: int, compute: Compute
) -> jax.Array:
    """One filter width over words: VALID cross-correlation, maximum over the positions, bias; no activation yet.

    Past a word's end every window sees only padding, so those windows are one constant per filter: of a word with
    `occupied` positions only the windows that start on one are computed, and the constant stands for the rest.

    Args:
      kernel: [w, e, n].
      bias: [n].
      characters: [M, at least min(C, occupied + w - 1), e], of words that occupy at most `occupied` positions.
      pad: [e], the embedding of padding, if windows of padding alone exist; None where all positions are read.

    Returns:
      [M, n].
    """
    width, size, filters = kernel.shape
    starts = min(occupied, characters.shape[1] - width + 1)
    windows = jnp.concatenate([characters[:, i : i + starts] for i in range(width)], axis=-1)
    kernel = kernel.reshape(width * size, filters)
    highest = jnp.max(linear(windows, kernel, compute), axis=1)
    if pad is not None:
        highest = jnp.maximum(highest, linear(jnp.tile(pad, width)[None, :], kernel, compute))
    return highest + bias[None, :]


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
        table = self.characters.embedding
        filters = [(module.kernel, module.bias) for module in self.convolution]
        activate = jax.nn.relu if self.activation == "relu" else jnp.tanh
        widest, compute = max(width for width, _ in self.filters), self.compute

        def read(words: jax.Array, occupied: int) -> jax.Array:
            short = occupied + widest <= words.shape[1]
            characters = table[words[:, : occupied + widest - 1] if short else words]
            pad = table[PAD] if short else None
            starts = occupied if short else words.shape[1]
            values = [convolve(kernel, bias, characters, pad, starts, compute) for kernel, bias in filters]
            return activate(jnp.concatenate(values, axis=-1))

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
