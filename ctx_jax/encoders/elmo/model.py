"""The bidirectional language model of ELMo (Peters et al. 2018): one network for training and inference.

Letters: L layers (LSTMs), B rows, T tokens, C characters, D state, P projection, V vocabulary.

Parameters, float32, kernels [in, out]:

    characters/embedding [261, e]     convolution_i/{kernel [w, e, n], bias}     or   words/embedding [V, P]
    highway_i/{gate_kernel, gate_bias, kernel, bias}     projection/{kernel [F, P], bias}, absent if F = P
    forward_l, backward_l/{kernel [P + P, 4D], bias [4D], projection [D, P]}, no projection if D = P
    softmax/{kernel [V, P], bias [V]}, if V > 0; with a tied softmax the bias alone
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ctx_jax.encoders.elmo.config import BiLM
from ctx_jax.encoders.elmo.token_encoder import PAD, CharacterEncoder, Table
from ctx_jax.io.errors import InputError
from ctx_jax.ops.gru import gru
from ctx_jax.ops.linear import linear, lookup
from ctx_jax.ops.lstm import Cell, State, Weights, lstm

Params = dict[str, Any]
Carry = dict[str, tuple[dict[str, jax.Array], ...]]
DIRECTIONS = ("forward", "backward")


class Direction(nn.Module):
    """Weights of one layer in one direction."""

    gates: int
    inputs: int
    dim: int
    outputs: int

    def setup(self) -> None:
        init = nn.initializers.glorot_uniform()
        self.kernel = self.param("kernel", init, (self.inputs + self.outputs, self.gates * self.dim))
        self.bias = self.param("bias", nn.initializers.zeros, (self.gates * self.dim,))
        self.projection = self.param("projection", init, (self.dim, self.outputs)) if self.dim != self.outputs else None


class Softmax(nn.Module):
    """W [V, P] and b [V]; W elsewhere if tied."""

    model: BiLM

    def setup(self) -> None:
        model = self.model
        if not model.tied_softmax:
            init = nn.initializers.normal(float(model.projection**-0.5))
            self.kernel = self.param("kernel", init, (model.vocabulary, model.projection))
        self.bias = self.param("bias", nn.initializers.zeros, (model.vocabulary,))


class Network(nn.Module):
    """Every parameter of a biLM and how its layers run."""

    model: BiLM

    def setup(self) -> None:
        model = self.model
        if model.inputs == "characters":
            longest = ((model.max_characters, model.long_words),)
            self.tokens = CharacterEncoder(
                model.character_dim,
                model.filters,
                model.activation,
                model.highways,
                model.projection,
                tuple(tier for tier in model.tiers if tier[0] < model.max_characters) + longest,
                model.table_factors,
                model.compute,
            )
            nn.share_scope(self, self.tokens)
        else:
            self.words = Table(model.vocabulary, model.projection, nn.initializers.glorot_uniform())
        gates = 4 if model.cell == "lstm" else 3
        layers = range(model.layers)
        self.forward = [Direction(gates, model.projection, model.dim, model.projection) for _ in layers]
        self.backward = [Direction(gates, model.projection, model.dim, model.projection) for _ in layers]
        if model.vocabulary:
            self.softmax = Softmax(model)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Touch every parameter, for `init`."""
        vectors = self.vectors(tokens)
        for direction in (*self.forward, *self.backward):
            _ = direction.kernel
        if self.model.vocabulary:
            _ = self.softmax.bias
        return vectors

    def vectors(self, tokens: jax.Array, copies: int = 1) -> jax.Array:
        """Context-free vectors [..., P] of raw character ids [..., C] or word ids [...]."""
        if self.model.inputs == "characters":
            return self.tokens(tokens, copies)
        return lookup(self.words.embedding, tokens)

    def streams(
        self,
        inputs: dict[str, jax.Array],
        present: jax.Array | None,
        carry: Carry,
        key: jax.Array | None,
        rows: jax.Array | None,
    ) -> tuple[dict[str, list[jax.Array]], Carry]:
        """Each direction's layers over its own stream [B, T, P], in the order the stream is read.

        The lists hold the L layers' outputs [B, T, P] and, behind them, the top one as the softmax sees it: dropped
        where there is a `key`.
        """
        model = self.model
        left: Carry = dict.fromkeys(DIRECTIONS, ())
        run = lstm if model.cell == "lstm" else gru
        cell = Cell(model.cell_clip, model.projection_clip, model.compute)
        steps = None if present is None else present.T.astype(jnp.float32)

        def drop(values: jax.Array, direction: int, layer: int) -> jax.Array:
            return _drop(values, model.dropout, key, rows, direction * (model.layers + 1) + layer)

        values = [jnp.swapaxes(inputs[name], 0, 1) for name in DIRECTIONS]
        layers: dict[str, list[jax.Array]] = {name: [] for name in DIRECTIONS}
        for layer, modules in enumerate(zip(self.forward, self.backward, strict=True)):
            values = [drop(taken, direction, layer) for direction, taken in enumerate(values)]
            gates = [
                linear(taken, module.kernel[: model.projection], model.compute) + module.bias[None, None, :]
                for taken, module in zip(values, modules, strict=True)
            ]
            weights = [Weights(module.kernel[model.projection :], module.projection) for module in modules]
            outputs, states = run(cell, weights, gates, steps, [State(**carry[name][layer]) for name in DIRECTIONS])
            if model.residual and layer:
                outputs = [output + taken for output, taken in zip(outputs, values, strict=True)]
            values = outputs
            for name, output, state in zip(DIRECTIONS, outputs, states, strict=True):
                layers[name].append(jnp.swapaxes(output, 0, 1))
                left[name] = (*left[name], state._asdict())
        for direction, name in enumerate(DIRECTIONS):
            layers[name].append(jnp.swapaxes(drop(values[direction], direction, model.layers), 0, 1))
        return layers, left


def _drop(values: jax.Array, rate: float, key: jax.Array | None, rows: jax.Array | None, place: int) -> jax.Array:
    """Dropout of [T, B, P] with a mask per (step's key, place, global row), whoever holds the row."""
    if key is None or not rate:
        return values
    steps, count, width = values.shape
    numbers = jnp.arange(count, dtype=jnp.int32) if rows is None else rows
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, place), numbers)
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, (steps, width)), out_axes=1)(keys)
    return jnp.where(kept, values / (1.0 - rate), 0.0)


def init(model: BiLM, key: jax.Array) -> Params:
    """Parameters drawn as the original trainer draws them (elmo's `training.py`; Peters et al. 2018).

    Raises ValueError for a model over words without a vocabulary: its table would have no rows.
    """
    if model.inputs == "words" and not model.vocabulary:
        raise InputError("inputs='words' needs the size of its table: set vocabulary, a run takes its own vocabulary's")
    return _init(model, key)


@partial(jax.jit, static_argnums=0)
def _init(model: BiLM, key: jax.Array) -> Params:
    shape = (1, model.max_characters) if model.inputs == "characters" else (1,)
    tokens = jnp.full(shape, PAD if model.inputs == "characters" else 0, jnp.int32)
    params: Params = Network(model).init(key, tokens)["params"]
    return params


def zero_carry(model: BiLM, rows: int) -> Carry:
    """The state before the first word: per direction and layer `c` [B, D] and `h` [B, P], zeros."""

    def state() -> dict[str, jax.Array]:
        return {
            name: jnp.zeros((rows, width), jnp.float32) for name, width in (("c", model.dim), ("h", model.projection))
        }

    return {name: tuple(state() for _ in range(model.layers)) for name in DIRECTIONS}


def token_vectors(model: BiLM, params: Params, tokens: jax.Array, *, copies: int = 1) -> jax.Array:
    """Context-free vectors, float32 [..., P], of raw character ids [..., C] (or of word ids [...]).

    A word with an id outside the table (below 0 too) is NaN.

    `copies`: how many times the tokens hold the same words, so that the tables of distinct words can be that much
    smaller.
    """
    vectors: jax.Array = _apply(model, params, Network.vectors, jnp.asarray(tokens), copies)
    return vectors


def streams(
    model: BiLM,
    params: Params,
    inputs: dict[str, jax.Array],
    carry: Carry | None = None,
    *,
    present: jax.Array | None = None,
    key: jax.Array | None = None,
    rows: jax.Array | None = None,
) -> tuple[dict[str, list[jax.Array]], Carry]:
    """Run both directions over token vectors, each in its own order of reading.

    Args:
      inputs: {"forward": [B, T, P], "backward": [B, T, P]}.
      carry: the state before the window; None: zeros.
      present: bool [B, T], False past the end of a row (state frozen, output 0); None: everywhere True.
      key: turns dropout on; rows: int32 [B], the rows' global numbers, which seed it (None: 0..B-1).

    Returns:
      {"forward": [L + 1 arrays [B, T, P]], "backward": ...}: the layers, then the top one as the softmax sees it;
      and the state after the window.
    """
    if carry is None:
        carry = zero_carry(model, inputs["forward"].shape[0])
    layers, left = _apply(model, params, Network.streams, inputs, present, carry, key, rows)
    return layers, left


def _apply(model: BiLM, params: Params, method: Any, *arguments: Any) -> Any:
    """Run a method of the network; parameters may come as numpy arrays, which no tracer may index."""
    return Network(model).apply({"params": jax.tree.map(jnp.asarray, params)}, *arguments, method=method)


def softmax_weights(model: BiLM, params: Params) -> tuple[jax.Array, jax.Array]:
    """W [V, P] and b [V] of the softmax both directions share."""
    if not model.vocabulary:
        raise InputError(
            "this biLM has no softmax (vocabulary=0), so it gives vectors but no probabilities: "
            "load a run, or weights with softmax/W and softmax/b"
        )
    kernel = params["words"]["embedding"] if model.tied_softmax else params["softmax"]["kernel"]
    return kernel, params["softmax"]["bias"]


def contextual(
    model: BiLM,
    params: Params,
    tokens: jax.Array,
    mask: jax.Array,
    carry: Carry | None = None,
    *,
    markers: bool = False,
) -> tuple[jax.Array, Carry]:
    """Every layer of sentences.

    Args:
      tokens: raw character ids int32 [B, T + 2, C], or word ids [B, T + 2], with the sentence markers in place.
      mask: bool [B, T + 2], True at markers and words; a row is True up to its length, then False.
      carry: the state before the sentences; None: zeros.
      markers: keep the vectors of both sentence markers, [L + 1, B, T + 2, 2P]: those of place t are of token t.

    Returns:
      values float32 [L + 1, B, T, 2P]: [token, token], then [forward, backward] per LSTM layer, without the markers
      and 0 past a sentence's end; and the state after the sentences.
    """
    vectors = token_vectors(model, params, tokens)
    lengths = jnp.sum(mask, axis=1, dtype=jnp.int32)
    reverse = reversal(lengths, mask.shape[1])
    both = {"forward": vectors, "backward": _take(vectors, reverse)}
    layers, left = streams(model, params, both, carry, present=mask)
    forward, backward = layers["forward"][:-1], [_take(values, reverse) for values in layers["backward"][:-1]]
    pairs = [(vectors, vectors), *zip(forward, backward, strict=True)]
    values = jnp.stack([jnp.concatenate(pair, axis=-1) for pair in pairs])
    if not markers:  # they take two places, so word t of n, which is token t + 1 of n + 2, is there if token t + 2 is
        values, mask = values[:, :, 1:-1], mask[:, 2:]
    return jnp.where(mask[None, :, :, None], values, 0.0), left


def reversal(lengths: jax.Array, count: int) -> jax.Array:
    """int32 [B, T]: the place that place t swaps with when rows of these lengths are reversed; padding stays.

    >>> reversal(jnp.array([3]), 5)
    Array([[2, 1, 0, 3, 4]], dtype=int32)
    """
    places = jnp.arange(count, dtype=jnp.int32)[None, :]
    return jnp.where(places < lengths[:, None], lengths[:, None] - 1 - places, places)


def _take(values: jax.Array, places: jax.Array) -> jax.Array:
    return jnp.take_along_axis(values, places[:, :, None], axis=1)
