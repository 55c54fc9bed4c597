"""The settings of a tagger's head, and the characters of words that it reads beside their vectors.

Letters: B rows, T words, C characters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from ctx_jax.encoders.stack import Stack
from ctx_jax.heads import LabelHead, TaggerHead
from ctx_jax.heads.tagger import Placement
from ctx_jax.io.errors import ConfigError
from ctx_jax.tasks.label_network import CHARACTERS
from ctx_jax.tasks.label_rows import Rows
from ctx_jax.tasks.options import refuse_options
from ctx_jax.tokenizers.characters import encode_word

HeadKind = Literal["linear", "crf", "bilstm", "bilstm_crf"]


@dataclass(frozen=True)
class TagHead:
    """What scores the labels of words."""

    kind: HeadKind | Literal["huggingface"] = "linear"
    """`crf`: the labels of a sentence are scored together, by a linear-chain CRF, and the best sequence is the answer;
    else each word's by itself. `bilstm`: the scores are of BiLSTMs over the vectors, else of the vectors.
    `huggingface`: the head of the encoder's class in transformers, with `layers` last and `pieces` first; a linear one
    of all but ModernBERT."""

    hidden: int = 200
    """Hidden units of a BiLSTM in each direction."""

    layers: int = 1
    """BiLSTMs, one on the other."""

    constrained: bool = True
    """A CRF's answer has no step that the labels' scheme, BIO or BIOES, does not allow."""

    placement: Placement = "input"
    """Where the encoder's vectors enter. `first_output`: they are joined to the output of the first BiLSTM, which reads
    characters and, where the encoder is a stack, the vectors of its tables alone (TagLM, with `layers` last)."""

    char_filters: int = 0
    """Filters of a convolution over a word's characters, whose maxima stand beside its vector; 0: none."""

    char_dim: int = 25
    """Width of a character's embedding."""

    char_length: int = 24
    """Bytes of a word that are read, with its two markers; what is beyond is cut off."""

    def __post_init__(self) -> None:
        for name, least in (("hidden", 1), ("layers", 1), ("char_filters", 0), ("char_dim", 1), ("char_length", 3)):
            if getattr(self, name) < least:
                raise ConfigError(f"head.{name}", f"must be at least {least}, got {getattr(self, name)}")
        if self.kind == "huggingface" and self.char_filters:
            raise ConfigError("head.char_filters", "must be 0 for head.kind huggingface, which reads no characters")
        if self.placement == "first_output" and not self.recurrent:
            raise ConfigError("head.placement", f"first_output needs head.kind bilstm or bilstm_crf, got {self.kind}")

    @property
    def crf(self) -> bool:
        return self.kind in ("crf", "bilstm_crf")

    @property
    def recurrent(self) -> bool:
        return self.kind in ("bilstm", "bilstm_crf")

    def check(self) -> None:
        """ConfigError for a setting that this head does not read."""
        if not self.recurrent:
            refuse_options(self, ("hidden", "layers"), f"head.kind {self.kind}, which has no BiLSTM", prefix="head.")
        if not self.crf:
            refuse_options(self, ("constrained",), f"head.kind {self.kind}, which has no CRF", prefix="head.")
        if not self.char_filters:
            refuse_options(self, ("char_dim", "char_length"), "a head without head.char_filters", prefix="head.")

    def module(self, model: Any, labels: tuple[str, ...], dropout: float) -> Any:
        """The head of an encoder's model. ConfigError if `placement` leaves the first BiLSTM without inputs."""
        if self.kind == "linear" and not self.char_filters:
            return LabelHead(labels)
        columns = _static_columns(model) if self.placement == "first_output" else ()
        if self.placement == "first_output":
            if not columns and not self.char_filters:
                raise ConfigError(
                    "head.placement",
                    "first_output leaves the first BiLSTM without inputs: set head.char_filters, or give a stack of "
                    "the encoder and a table of word vectors",
                )
            if sum(stop - first for first, stop in columns) == model.width:
                raise ConfigError("head.placement", "first_output needs an encoder of more than one layer")
        return TaggerHead(
            labels,
            hidden=self.hidden if self.recurrent else 0,
            layers=self.layers,
            crf=self.crf,
            constrained=self.constrained and self.crf,
            placement=self.placement,
            static_columns=columns,
            char_filters=self.char_filters,
            char_dim=self.char_dim,
            char_length=self.char_length,
            dropout=dropout,
        )


def _static_columns(model: Any) -> tuple[tuple[int, int], ...]:
    """The columns of a stack's vectors that are those of members with one layer, (first, stop)."""
    if not isinstance(model, Stack) or model.how != "concat":
        return ((0, int(model.width)),) if model.num_layers == 1 else ()
    stops = np.cumsum([0, *(member.model.width for member in model.members)]).tolist()
    return tuple(
        (stops[i], stops[i + 1]) for i, member in enumerate(model.members) if int(member.model.num_layers) == 1
    )


@dataclass(frozen=True, eq=False)
class CharacterRows:
    """Rows of words with their characters; see `label_rows.Rows`."""

    rows: Rows
    words: Sequence[Sequence[str]]  # of each row
    char_length: int

    @property
    def sizes(self) -> np.ndarray:
        """See `Rows`."""
        return self.rows.sizes

    @property
    def tokens(self) -> np.ndarray:
        """See `Rows`."""
        return self.rows.tokens

    @property
    def stored(self) -> bool:
        """See `Rows`."""
        return self.rows.stored

    @cached_property
    def _char_ids(self) -> list[np.ndarray]:
        """int16 [T, C] of each row."""
        known = {word: encode_word(word, self.char_length) for word in {word for row in self.words for word in row}}
        none = np.zeros((0, self.char_length), np.int16)
        return [np.array([known[word] for word in row], np.int16) if row else none for row in self.words]

    def batch(self, numbers: Sequence[int], rows: int, length: int) -> dict[str, Any]:
        """See `Rows`; with char_ids int32 [B, T, C], 0 where there is no word."""
        char_ids = np.zeros((rows, length, self.char_length), np.int32)
        for row, number in enumerate(numbers):
            own = self._char_ids[number]
            char_ids[row, : len(own)] = own
        return self.rows.batch(numbers, rows, length) | {CHARACTERS: char_ids}
