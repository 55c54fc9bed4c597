"""`BiLM`: ELMo's bidirectional language model as a value with methods (see `encoders.base.Model`).

Parameters, float32, kernels [in, out]:

    characters/embedding [261, e]     convolution_i/{kernel [w, e, n], bias}     or   words/embedding [V, P]
    highway_i/{gate_kernel, gate_bias, kernel, bias}     projection/{kernel [F, P], bias}, absent if F = P
    forward_l, backward_l/{kernel [P + P, 4D], bias [4D], projection [D, P]}, no projection if D = P

Letters: L LSTM layers, B rows, T words, C characters, D cell, P projection, V vocabulary, F filters.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ctx_jax.encoders.base import InputProcessor, Layers
from ctx_jax.encoders.elmo import network
from ctx_jax.encoders.elmo.init import init
from ctx_jax.encoders.elmo.inputs import CharacterInputs, WordInputs
from ctx_jax.encoders.elmo.parts import layers_in_parts
from ctx_jax.encoders.elmo.word_cache import CachedWordInputs, WordVectors
from ctx_jax.io.errors import ConfigError, InputError, InputTypeError
from ctx_jax.ops.dropout import Dropout
from ctx_jax.ops.linear import Compute
from ctx_jax.tokenizers.characters import is_token
from ctx_jax.tokenizers.words import Rule
from ctx_jax.typing import Carry, Mask, Params

_MODULE = re.compile(
    r"(?:characters|words|projection|(?:convolution|highway)_\d+|(?:forward|backward)_(?P<layer>\d+))/"
)


@dataclass(frozen=True)
class BiLM:
    """ELMo's encoder; hashable, so it can be a static argument of `jax.jit`.

    model = BiLM(dim=4096, projection=512, highways=2)      # the published "original"
    params = model.init(jax.random.key(0))
    layers = model.layers(params, model.inputs().arrays([["The", "river", "."]]))
    layers.values.shape                                     # (3, 1, 3, 1024)
    """

    token_input: Literal["characters", "words"] = "characters"
    """How token vectors are made: by a CNN over each word's characters, or by lookup in a word table."""
    vocabulary: int = 0
    """V, rows of the word table of `token_input="words"`. 0 in a training config: the size of the run's vocabulary."""
    max_characters: int = 50
    """C, characters of a word, its two markers included; longer words are cut."""
    character_dim: int = 16
    """Width of a character's embedding."""
    filters: tuple[tuple[int, int], ...] = ((1, 32), (2, 32), (3, 64), (4, 128), (5, 256), (6, 512), (7, 1024))
    """Filters of the CNN: pairs of a width in characters and the number of filters of that width."""
    activation: Literal["relu", "tanh"] = "relu"
    """Activation of the CNN."""
    highways: int = 1
    """Highway layers after the CNN."""
    cell: Literal["lstm", "gru"] = "lstm"
    """`lstm` is ELMo's; `gru` is our own variant, without published weights."""
    dim: int = 1024
    """D, width of the cell state in one direction."""
    projection: int = 128
    """P, width of a layer's output in one direction; equal to `dim`: no projection."""
    depth: int = 2
    """Recurrent layers in each direction."""
    cell_clip: float | None = 3.0
    """Cell states are clipped to plus and minus this value; None: no clipping."""
    projection_clip: float | None = 3.0
    """Projected outputs are clipped to plus and minus this value; None: no clipping."""
    residual: bool = True
    """From the second layer on, a layer's input is added to its output."""
    dropout: float = 0.1
    """Dropout rate, in training, of the input of each layer and of the output of the last."""
    compute: Compute = "float32"
    """`float32`: full float32 products on every device. `bfloat16`: bf16 operands, all else in float32; faster."""
    length_buckets: tuple[tuple[int, float], ...] = ((9, 0.36), (14, 0.14))
    """Tables of the batch's distinct words, by length: (most positions a word occupies, rows as a share of the batch's
    words)."""
    long_word_share: float = 0.03
    """Rows of the table of distinct words longer than the last bucket, as a share of the batch's words."""
    dedup_table_factors: tuple[float, ...] = (1.0, 2.2)
    """Table sizes to try, as multiples of these shares; a batch that fits none of them encodes every word."""

    def __post_init__(self) -> None:
        minimums = dict.fromkeys(("depth", "dim", "projection", "character_dim"), 1)
        minimums["max_characters"] = 3  # begin of word, one character, end of word
        minimums |= dict.fromkeys(("vocabulary", "highways", "long_word_share"), 0)
        for name, minimum in minimums.items():
            if not getattr(self, name) >= minimum:
                raise ConfigError(name, f"must be at least {minimum}, got {getattr(self, name)}")
        for name in ("cell_clip", "projection_clip"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ConfigError(name, f"must be above 0, got {getattr(self, name)}")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError("dropout", f"must be in [0, 1), got {self.dropout}")
        if self.token_input == "words":
            return
        widest = max((width for width, _ in self.filters), default=0)
        if not self.filters or widest > self.max_characters or min(map(min, self.filters)) < 1:
            raise ConfigError(
                "filters",
                "must be (width, count) pairs of 1 or more with widths up to max_characters, which is "
                f"{self.max_characters}, got {self.filters}",
            )
        if self.vocabulary:
            raise ConfigError(
                "vocabulary",
                f'is the size of the word table of token_input="words", got {self.vocabulary} for a model over '
                "characters: leave it out",
            )

    @property
    def filter_count(self) -> int:
        """F, the filters of all widths."""
        return sum(count for _, count in self.filters)

    @property
    def gates(self) -> int:
        """Number of gates of a cell."""
        return 4 if self.cell == "lstm" else 3

    @property
    def word_buckets(self) -> tuple[tuple[int, float], ...]:
        """The `length_buckets` below `max_characters`, and a last one for the longest words."""
        shorter = tuple(bucket for bucket in self.length_buckets if bucket[0] < self.max_characters)
        return (*shorter, (self.max_characters, self.long_word_share))

    @property
    def num_layers(self) -> int:
        """L + 1: the token layer and the LSTM layers."""
        return self.depth + 1

    @property
    def width(self) -> int:
        """2P: both directions side by side."""
        return 2 * self.projection

    def init(self, key: jax.Array) -> Params:
        """Initial parameters from bilm-tf's distributions; see `init.init`."""
        params: Params = init(self, key)
        return params

    def layers(
        self,
        params: Params,
        inputs: Mapping[str, Any],
        *,
        carry: Carry = None,
        dropout: Dropout | None = None,
        markers: bool = False,
    ) -> Layers:
        """[token, token], then [forward, backward] of each LSTM layer, 0 past a sentence's end.

        Args:
          inputs: of `inputs().arrays`: {"char_ids": int [B, T + 2, C]} with sentence markers and 0 for padding, or for
            a model over words {"token_ids": int [B, T + 2]} with -1 for padding. Or ready token vectors, as
            `with_word_cache` gives them: {"token_vectors": float [B, T + 2, P], "token_mask": bool [B, T + 2]}.
          carry: the LSTM state to start from, one row a sentence: `layers.carry` of an earlier call, or None for zeros.
          dropout: drop out at the model's rate.
          markers: keep the vectors of both sentence markers: values [L + 1, B, T + 2, 2P], mask [B, T + 2], and word t
            at position t + 1 (`mix(..., layer_norm="allennlp")` needs them). Static under `jax.jit`.

        Raises (while tracing):
          InputError: the inputs have another name or shape than the model reads, or the carry another shape.
          InputTypeError: ids are no integers.
        """
        vectors, present = self.token_vectors(params, inputs)
        if carry is not None:
            self._check_carry(carry, present.shape[0])
        # A sentence of n words has n + 2 tokens, so word t exists if token t + 2 does.
        mask = present if markers else present[:, 2:]
        values, carry = network.sentence_layers(self, params, vectors, present, carry, dropout)
        if not markers:
            values = values[:, :, 1:-1]
        return Layers(jnp.where(mask[None, :, :, None], values, 0.0), mask, carry)

    def token_layer(self, params: Params, inputs: Mapping[str, Any]) -> jax.Array:
        """Layer 0 alone: [B, T, 2P], the token vector twice, 0 past a sentence's end."""
        vectors, present = self.token_vectors(params, inputs, slice(1, -1))
        return jnp.where(present[:, 2:, None], jnp.concatenate([vectors, vectors], axis=-1), 0.0)

    def token_vectors(
        self, params: Params, inputs: Mapping[str, Any], where: slice = slice(None)
    ) -> tuple[jax.Array, Mask]:
        """Token vectors [B, T + 2, P], undefined at padding, and the mask of tokens, bool [B, T + 2], for inputs of
        `layers`. With `where` only the vectors at these positions."""
        ready = isinstance(inputs, Mapping) and set(inputs) == {"token_vectors", "token_mask"}
        if ready:
            found = _array(inputs["token_vectors"], "token_vectors", ("B", "T + 2", self.projection), jnp.floating)
            present: Mask = _array(inputs["token_mask"], "token_mask", found.shape[:2], jnp.bool_)
        elif self.token_input == "characters":
            found = _integers(inputs, "char_ids", ("B", "T + 2", self.max_characters))
            present = is_token(found)
        else:
            found = _integers(inputs, "token_ids", ("B", "T + 2"))
            found, present = jnp.maximum(found, 0), found >= 0
        if found.shape[1] < 2:
            raise InputError(f"inputs need room for both sentence markers, T + 2 >= 2, got shape {found.shape}")
        found = found[:, where]
        return found.astype(jnp.float32) if ready else network.token_vectors(self, params, found), present

    def inputs(self, folder: Path | None = None, *, rule: Rule = "whitespace") -> CharacterInputs | WordInputs:
        """The input processor. A model over words reads `vocabulary.txt` of `folder`, which must have V words."""
        if self.token_input == "characters":
            return CharacterInputs(self.max_characters, rule)
        if folder is None:
            raise InputError("a biLM over words needs the folder of its vocabulary.txt: give inputs(folder)")
        return WordInputs.read(folder, self.vocabulary, rule)

    def with_word_cache(self, params: Params, processor: InputProcessor) -> InputProcessor:
        """A processor that encodes each distinct word once for all its calls (see `encoders.base.CachesWords`).

        Its inputs are token vectors, {"token_vectors", "token_mask"}, which `layers` and `token_layer` take in place of
        char_ids. They travel from the host to the device with every batch: 4 x P bytes a word, 2 kB for the original,
        where char_ids take 200. It keeps 65,536 words (`word_cache.WordVectors` says in how much memory). `processor`
        itself comes back if it is not this model's own: a lookup in a word table needs no cache.
        """
        own = self.token_input == "characters" and processor == CharacterInputs(self.max_characters, processor.rule)
        if not own or not isinstance(processor, CharacterInputs):
            return processor
        return CachedWordInputs(processor, WordVectors(self, params))

    def layers_in_parts(
        self, params: Params, inputs: Mapping[str, Any], part: int, select: Callable[[jax.Array], jax.Array]
    ) -> np.ndarray:
        """The layers of one sentence of any length (see `encoders.base.RunsInParts`), from any inputs of `layers`.

        Each direction runs over parts of `part` tokens (sentence markers included), 2 at least. The host keeps the
        sentence's token vectors meanwhile, 4 x P bytes a word.
        """
        return layers_in_parts(self, params, inputs, part, select)

    def depth_of(self, name: str) -> int:
        """0 for parameters of the token layer, l + 1 for "forward_l/..." and "backward_l/..."."""
        match = _MODULE.match(name)
        depth = int(match["layer"]) + 1 if match and match["layer"] else 0
        if not match or depth > self.depth:
            raise InputError(f"a biLM of depth {self.depth} has no parameter {name!r}")
        return depth

    def flops_per_token(self, length: int) -> float:
        """2 operations for each weight used for a token; independent of the length. The character CNN runs once per row
        of the tables of distinct words."""
        cell = 2 * self.projection * self.gates * self.dim
        cell += self.dim * self.projection if self.dim != self.projection else 0
        weights = 2.0 * self.depth * cell
        if self.token_input == "characters":
            total = self.filter_count
            dense = self.highways * 2 * total**2 + (total * self.projection if total != self.projection else 0)
            for positions, share in self.word_buckets:
                convolved = sum(span * self.character_dim * count * positions for span, count in self.filters)
                weights += share * (dense + convolved)  # one table serves both directions
        return 2.0 * weights

    def _check_carry(self, carry: Carry, rows: int) -> None:
        needed = jax.eval_shape(lambda: network.zero_carry(self, rows))
        structure: Any = jax.tree.structure(carry)
        if structure != jax.tree.structure(needed):
            raise InputError(f"carry must be layers.carry of this model, {jax.tree.structure(needed)}, got {structure}")
        for have, want in zip(jax.tree.leaves(carry), jax.tree.leaves(needed), strict=True):
            if jnp.shape(have) != want.shape:
                raise InputError(
                    f"carry has a leaf of shape {jnp.shape(have)}, the batch of {rows} rows needs {want.shape}: "
                    "one row of state for each sentence"
                )


def _integers(inputs: Mapping[str, Any], name: str, shape: tuple[str | int, ...]) -> jax.Array:
    """inputs[name] as int32. Raises unless it is the only input and an integer array of `shape`."""
    if not isinstance(inputs, Mapping) or set(inputs) != {name}:
        names = sorted(inputs) if isinstance(inputs, Mapping) else type(inputs).__name__
        raise InputError(f"this model reads inputs {{{name!r}: ...}}, got {names}: use encoder.tokenize")
    return _array(inputs[name], name, shape, jnp.integer).astype(jnp.int32)


def _array(values: Any, name: str, shape: tuple[str | int, ...], kind: Any) -> jax.Array:
    """`values` as an array. Raises unless it has this shape (letters stand for any size) and kind of dtype."""
    array = jnp.asarray(values)
    wrong = [want for want, have in zip(shape, array.shape, strict=False) if isinstance(want, int) and want != have]
    if array.ndim != len(shape) or wrong:
        needed = ", ".join(map(str, shape))
        raise InputError(f"{name} must be [{needed}], got shape {array.shape}: use encoder.tokenize")
    if not jnp.issubdtype(array.dtype, kind):
        kinds = {jnp.integer: "integers", jnp.floating: "floating-point numbers", jnp.bool_: "bool"}
        raise InputTypeError(f"{name} must be {kinds[kind]}, got {array.dtype}")
    return array
