"""The settings of a biLM.

Letters: C characters, D cell, P projection, V vocabulary.
"""

from dataclasses import dataclass
from typing import Literal

from ctx_jax.io.errors import ConfigError
from ctx_jax.ops.linear import Compute


@dataclass(frozen=True)
class BiLMConfig:
    """Shape and mathematics of a biLM; `encoders.elmo.BiLM` adds the methods of a model."""

    token_input: Literal["characters", "words"] = "characters"
    """What a word's vector is made of: its characters, by a CNN, or a row of a word table."""
    vocabulary: int = 0
    """V, rows of the word table of `token_input="words"`. 0 in a training config: as many as the run's vocabulary
    has."""
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
        for name in ("depth", "dim", "projection", "character_dim"):
            self._check_minimum(name, 1)
        self._check_minimum("max_characters", 3)  # begin of word, one character, end of word
        for name in ("vocabulary", "highways", "long_word_share"):
            self._check_minimum(name, 0)
        for name in ("cell_clip", "projection_clip"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ConfigError(name, f"must be above 0, got {getattr(self, name)}")
        if self.token_input == "characters":
            self._check_characters()
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError("dropout", f"must be in [0, 1), got {self.dropout}")

    def _check_characters(self) -> None:
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

    def _check_minimum(self, name: str, minimum: int) -> None:
        if not getattr(self, name) >= minimum:
            raise ConfigError(name, f"must be at least {minimum}, got {getattr(self, name)}")

    @property
    def filter_count(self) -> int:
        """F, the filters of all widths."""
        return sum(count for _, count in self.filters)

    @property
    def gates(self) -> int:
        """Gates of a cell."""
        return 4 if self.cell == "lstm" else 3

    @property
    def word_buckets(self) -> tuple[tuple[int, float], ...]:
        """`length_buckets` shorter than a word can be, and the bucket of the longest words."""
        shorter = tuple(bucket for bucket in self.length_buckets if bucket[0] < self.max_characters)
        return (*shorter, (self.max_characters, self.long_word_share))
