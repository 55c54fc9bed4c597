"""A tagger on the vectors of words: characters beside them, BiLSTMs, and a CRF, each optional.

    input          [vectors; characters] -> BiLSTM -> ... -> scores -> CRF          (Peters et al. 2018, ELMo)
    first_output   [static vectors; characters] -> BiLSTM -> [h; vectors] -> BiLSTM -> scores -> CRF
                                                                                    (Peters et al. 2017, TagLM)

Letters: B rows, T words, C characters, I input width, D width, H hidden units of a direction, K labels.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from ctx_jax.heads.characters import CharacterCNN
from ctx_jax.heads.crf import CRF, Transitions
from ctx_jax.ops.dropout import dropout
from ctx_jax.ops.lstm import Cell, State
from ctx_jax.ops.recurrent_layer import LayerWeights, lstm_layer
from ctx_jax.typing import Mask

Placement = Literal["input", "first_output"]


class TagScores(NamedTuple):
    """What a tagger says of the labels of each word."""

    logits: jax.Array  # [B, T, K]
    transitions: Transitions | None  # None without a CRF


class BiLSTM(nn.Module):
    """[B, T, I] to [B, T, 2 H]: an LSTM in each direction, [forward, backward]; 0 at padding, which stands at the end
    of rows."""

    hidden: int

    @nn.compact
    def __call__(self, values: jax.Array, mask: Mask) -> jax.Array:
        rows, width = len(values), values.shape[-1]
        weights = [
            LayerWeights(
                self.param(f"{name}_kernel", nn.initializers.glorot_uniform(), (width + self.hidden, 4 * self.hidden)),
                self.param(f"{name}_bias", nn.initializers.zeros, (4 * self.hidden,)),
                None,
            )
            for name in ("forward", "backward")
        ]
        zeros = jnp.zeros((rows, self.hidden), jnp.float32)
        inputs = [jnp.swapaxes(each, 0, 1) for each in (values, _reversed(values, mask))]  # [T, B, I]
        steps = mask.T.astype(jnp.float32)
        cell = Cell(cell_clip=None, projection_clip=None, compute="float32")
        outputs, _ = lstm_layer(cell, weights, inputs, steps, [State(zeros, zeros)] * 2)
        forward, backward = (jnp.swapaxes(each, 0, 1) for each in outputs)
        return jnp.concatenate([forward, _reversed(backward, mask)], axis=-1)


def _reversed(values: jax.Array, mask: Mask) -> jax.Array:
    """The words of each row in reverse; padding stays at the end."""
    places = jnp.arange(mask.shape[1], dtype=jnp.int32)[None]
    lengths = jnp.sum(mask, axis=1, dtype=jnp.int32)[:, None]
    order = jnp.where(places < lengths, lengths - 1 - places, places)
    return jnp.take_along_axis(values, order[..., None], axis=1)


class TaggerHead(nn.Module):
    """Vectors [B, T, D] of words, and their characters, to `TagScores`; `labels` are the names of the K scores."""

    labels: tuple[str, ...] = ()
    hidden: int = 0
    """H; 0: no BiLSTM."""
    layers: int = 1
    """BiLSTMs, one on the other."""
    crf: bool = False
    constrained: bool = False
    """The best sequence has only steps that the labels' scheme allows (`data.span_labels`)."""
    placement: Placement = "input"
    """Where the vectors enter; see above."""
    static_columns: tuple[tuple[int, int], ...] = ()
    """first_output: (first, stop) of the columns of the vectors that the first BiLSTM reads."""
    char_filters: int = 0
    """0: characters are not read."""
    char_dim: int = 25
    char_length: int = 24
    """C."""
    dropout: float = 0.0
    """Rate of the characters' vectors and of each BiLSTM's output."""

    @nn.compact
    def __call__(
        self,
        vectors: jax.Array,
        mask: Mask,
        characters: jax.Array | None = None,
        seeds: jax.Array | None = None,
    ) -> TagScores:
        """`characters`: char_ids int32 [B, T, C]; `seeds`: of the rows' dropout (`ops.dropout`), None: none."""
        first, later = self._placed(vectors)
        if characters is not None and self.char_filters:
            found = CharacterCNN(self.char_filters, self.char_dim, name="characters")(characters)
            first = [*first, dropout(seeds, 1, self.dropout, found)]
        values = jnp.concatenate(first, axis=-1)
        for number in range(self.layers if self.hidden else 0):
            values = BiLSTM(self.hidden, name=f"lstm_{number}")(values, mask)
            values = dropout(seeds, 2 + number, self.dropout, values)
            if number == 0:
                values = jnp.concatenate([values, *later], axis=-1)
        small = nn.initializers.normal(0.02)
        logits = nn.Dense(len(self.labels), kernel_init=small, precision="highest", name="scores")(values)
        return TagScores(logits, CRF(len(self.labels), name="crf")() if self.crf else None)

    def _placed(self, vectors: jax.Array) -> tuple[list[jax.Array], list[jax.Array]]:
        """The parts of the vectors that are joined before and after the first BiLSTM."""
        if self.placement == "input":
            return [vectors], []
        stops = [0, *(edge for columns in self.static_columns for edge in columns), vectors.shape[-1]]
        rest = [vectors[..., start:stop] for start, stop in zip(stops[::2], stops[1::2], strict=True)]
        return [vectors[..., start:stop] for start, stop in self.static_columns], rest
