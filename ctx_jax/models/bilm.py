"""The bidirectional language model of ELMo (Peters et al. 2018)."""

from dataclasses import dataclass
from typing import Literal

Compute = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class BiLM:
    """Shape and mathematics of a biLM; hashable, so it can be a static argument of `jax.jit`."""

    vocabulary: int = 0  # V, words of the softmax; 0 for an encoder without one
    inputs: Literal["characters", "words"] = "characters"
    max_characters: int = 50  # C
    character_dim: int = 16
    filters: tuple[tuple[int, int], ...] = ((1, 32), (2, 32), (3, 64), (4, 128), (5, 256), (6, 512), (7, 1024))
    activation: Literal["relu", "tanh"] = "relu"
    highways: int = 1
    cell: Literal["lstm", "gru"] = "lstm"
    dim: int = 1024  # D
    projection: int = 128  # P; equal to dim: no projection
    layers: int = 2
    cell_clip: float | None = 3.0
    projection_clip: float | None = 3.0
    residual: bool = True  # from the second layer on
    dropout: float = 0.1
    tied_softmax: bool = False  # word inputs only
    negatives: int = 0  # sampled softmax in training; 0 for the exact one
    compute: Compute = "float32"
    distinct: float = 0.5  # rows of the table of distinct words, as a share of the tokens
    positions: int = 20  # character positions convolved for short words
