"""Shape and mathematics of a biLM.

Letters: B rows, T tokens, C characters, D state, P projection, V vocabulary.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from ctx_jax.io.errors import InputError
from ctx_jax.io.flags import field_with_flag
from ctx_jax.ops.linear import Compute

_flag = partial(field_with_flag, section="model")


@dataclass(frozen=True)
class BiLM:
    """Shape and mathematics of a biLM; hashable, so it can be a static argument of `jax.jit`."""

    vocabulary: int = 0
    """V, words of the softmax and of the table that word inputs read. 0: an encoder without a softmax; in training as
    many as the run's vocabulary has."""
    inputs: Literal["characters", "words"] = "characters"
    """What a word's vector is made of: its characters, by a CNN, or a row of a table."""
    max_characters: int = 50
    """C, characters of a word, its two markers included; longer words are cut."""
    character_dim: int = 16
    """Width of a character's vector."""
    filters: tuple[tuple[int, int], ...] = ((1, 32), (2, 32), (3, 64), (4, 128), (5, 256), (6, 512), (7, 1024))
    """The CNN's: pairs of a width in characters and how many filters have it."""
    activation: Literal["relu", "tanh"] = "relu"
    """Of the CNN."""
    highways: int = 1
    """Highway layers behind the CNN."""
    cell: Literal["lstm", "gru"] = "lstm"
    """`lstm` is ELMo's; `gru` is ours, and has no published weights."""
    dim: int = 1024
    """D, width of a cell's state in one direction."""
    projection: int = 128
    """P, width of a layer's output in one direction; equal to `dim`: no projection."""
    layers: int = 2
    """Recurrent layers in each direction."""
    cell_clip: float | None = 3.0
    """States of the cells are kept within plus and minus this; None: not."""
    projection_clip: float | None = 3.0
    """The same of what the projections give."""
    residual: bool = True
    """From the second layer on, a layer's input is added to its output."""
    dropout: float = 0.1
    """Rate, in training, of what goes into each layer and out of the last."""
    zero_start: float = 0.0
    """Share of a row's windows that begin from a zero state in training, as sentences later do."""
    tied_softmax: bool = False
    """The softmax shares the table of words (word inputs only)."""
    negatives: int = 0
    """Sampled softmax in training, with so many words beside the right one; 0 for the exact one."""
    compute: Compute = "float32"
    """`float32`: exact products on every device. `bfloat16`: bf16 operands, all else in float32, the fast mode."""
    tiers: tuple[tuple[int, float], ...] = ((9, 0.36), (14, 0.14))
    """Rows for distinct words: (positions they occupy at most, share of the batch's words)."""
    long_words: float = 0.03
    """Rows for distinct words beyond the last tier, as a share of the batch's words."""
    table_factors: tuple[float, ...] = (1.0, 2.2)
    """Sizes of tables to choose from, as multiples of these shares; what fits none encodes every word for itself."""

    def __post_init__(self) -> None:
        for name in ("layers", "dim", "projection", "character_dim"):
            self._least(name, 1)
        self._least("max_characters", 3)  # a word's begin, one character, its end
        for name in ("vocabulary", "highways", "negatives", "long_words"):
            self._least(name, 0)
        for name in ("cell_clip", "projection_clip"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise InputError(f"{_flag(name)} must be above 0, got {getattr(self, name)}")
        if self.inputs == "characters":
            widest = max((width for width, _ in self.filters), default=0)
            if not self.filters or widest > self.max_characters or min(map(min, self.filters)) < 1:
                raise InputError(
                    f"{_flag('filters')} must be (width, count) pairs of 1 or more with widths up to "
                    f"{_flag('max_characters')}, which is {self.max_characters}, got {self.filters}"
                )
            if self.tied_softmax:
                raise InputError(
                    "tied_softmax shares a word table, which inputs='characters' has not: "
                    "set inputs='words' or tied_softmax=False"
                )
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"{_flag('dropout')} must be in [0, 1), got {self.dropout}")
        if not 0.0 <= self.zero_start <= 1.0:
            raise InputError(f"{_flag('zero_start')} must be in [0, 1], got {self.zero_start}")

    def _least(self, name: str, least: int) -> None:
        if not getattr(self, name) >= least:
            raise InputError(f"{_flag(name)} must be at least {least}, got {getattr(self, name)}")
