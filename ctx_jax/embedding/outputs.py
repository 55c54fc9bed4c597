"""What `Encoder.encode` computes of a batch: the layers that are asked for, of words or tokens, or one vector a text.

Letters: L layers, B sentences, T words or tokens, D width.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctx_jax.embedding import mixing
from ctx_jax.embedding.embed import embed
from ctx_jax.embedding.sentences import sentence_vectors
from ctx_jax.encoders.base import Model
from ctx_jax.heads import Head, SentenceModules
from ctx_jax.io.errors import InputError, InputTypeError

LayerChoice = Literal["all", "last", "mix"] | int | tuple[int, ...]


class Choice(NamedTuple):
    """Which layers of a model; hashable."""

    numbers: tuple[int, ...] | None
    """None: a mix of all."""
    single: bool
    """One layer without an axis of its own."""

    @classmethod
    def of(cls, layers: LayerChoice, count: int, mix: Mapping[str, Any] | None) -> "Choice":
        """From the argument `layers` of `encode` and a model of `count` layers. Raises InputError."""
        if (layers == "mix") != (mix is not None):
            raise InputError(f'layers="mix" and mix= go together, got layers={layers!r} and mix={mix!r}: see init_mix')
        if mix is not None and np.shape(mix["weights"]) != (count,):
            raise InputError(f"mix has {np.size(mix['weights'])} weights, and the encoder {count} layers")
        if layers == "mix":
            return cls(None, True)
        if layers in ("all", "last"):
            return cls(tuple(range(count)), False) if layers == "all" else cls((count - 1,), True)
        if isinstance(layers, str):
            raise InputError(f'layers must be "all", "last", "mix", a layer\'s number or several, got {layers!r}')
        numbers: Sequence[Any] = layers if isinstance(layers, tuple | list) else (layers,)
        for number in numbers:
            if isinstance(number, bool) or not hasattr(number, "__index__"):
                raise InputTypeError(
                    f'layers must be "all", "last", "mix", a layer\'s number or several, got {layers!r}'
                )
            if not -count <= number < count:
                raise InputError(f"layers={layers!r}: the encoder has the layers 0 to {count - 1}, or -{count} to -1")
        if not numbers:
            raise InputError('layers=() leaves no vector: name a layer, or set layers="all"')
        return cls(tuple(int(number) % count for number in numbers), numbers is not layers)

    @property
    def axes(self) -> int:
        """How many layers stand in the result."""
        return 1 if self.numbers is None else len(self.numbers)

    def __call__(self, values: jax.Array, mix: mixing.Mixing | None) -> jax.Array:
        """Of values [L, B, T, D]: [L', B, T, D], or [B, T, D] of a single layer or a mix."""
        if self.numbers is None:
            assert mix is not None
            return mixing.mix(values, mix)
        if self.single:
            return values[self.numbers[0]]
        if self.numbers == tuple(range(len(values))):
            return values
        return jnp.stack([values[number] for number in self.numbers])


class TextOutput(NamedTuple):
    """How one vector a text is made of its tokens'; hashable."""

    modules: SentenceModules
    heads: tuple[tuple[str, Any], ...]
    normalize: bool


class Output(NamedTuple):
    """What is computed of a batch; hashable."""

    model: Model
    choice: Choice
    texts: TextOutput | None
    """None: the vectors of words or tokens."""
    dtype: str


class Replicated(NamedTuple):
    """The arrays that all batches of a call share."""

    params: Any
    mix: Any  # Mixing or None
    heads: Mapping[str, Any]
    skipped: Any  # int32 [], tokens of the prompt that are not pooled


def compute(output: Output, arrays: Replicated, inputs: Mapping[str, Any]) -> jax.Array:
    """[B, L, T, D] or [B, T, D] of a batch's inputs, or with `texts` [B, L, D] or [B, D]."""
    layers = embed(output.model, arrays.params, inputs)
    values = output.choice(layers.values, arrays.mix)
    if output.texts is not None:
        return pool_layers(output, arrays, values, layers.mask)
    return _rows_first(values, 4).astype(output.dtype)


def pool_layers(output: Output, arrays: Replicated, values: jax.Array, mask: jax.Array) -> jax.Array:
    """One vector a text, [B, L, D] or [B, D], of chosen layers [L, B, T, D] or [B, T, D] and mask [B, T]."""
    texts = output.texts
    assert texts is not None
    heads = {name: Head(module, arrays.heads[name]) for name, module in texts.heads}

    def of_layer(layer: jax.Array) -> jax.Array:
        return sentence_vectors(
            layer,
            mask,
            texts.modules,
            heads,
            skipped=arrays.skipped,
            normalize=texts.normalize,
            compute=output.model.compute,
        )

    vectors = jax.vmap(of_layer)(values) if values.ndim == 4 else of_layer(values)
    return _rows_first(vectors, 3).astype(output.dtype)


def _rows_first(values: jax.Array, several: int) -> jax.Array:
    """The axis of rows before that of layers, in an array that has one."""
    return values.swapaxes(0, 1) if values.ndim == several else values
