"""Heads: vectors to logits. A head is given widths and parameters, never a model.

Language models' heads are frozen configs with pure functions, like the encoders. Heads of downstream tasks are Flax
Linen modules, which users write themselves.
"""

from typing import Any, NamedTuple

import jax

from ctx_jax.heads.attention_pooling import AttentionPooling
from ctx_jax.heads.cosine import CosineHead
from ctx_jax.heads.generator import Generator
from ctx_jax.heads.label import LabelHead, LayerMix
from ctx_jax.heads.sentence import DenseHead, SentenceModules
from ctx_jax.heads.sequence import ClassificationHead, Labelling, Pooler, SequenceHead
from ctx_jax.heads.tagger import TaggerHead
from ctx_jax.heads.vocabulary import VocabularyHead
from ctx_jax.typing import Params

__all__ = [
    "HEADS",
    "AttentionPooling",
    "ClassificationHead",
    "CosineHead",
    "DenseHead",
    "Generator",
    "Head",
    "LabelHead",
    "Labelling",
    "LayerMix",
    "Pooler",
    "SentenceModules",
    "SequenceHead",
    "TaggerHead",
    "VocabularyHead",
    "parameter_count",
]

HEADS = (
    VocabularyHead,
    Pooler,
    SequenceHead,
    ClassificationHead,
    LabelHead,
    TaggerHead,
    LayerMix,
    AttentionPooling,
    CosineHead,
    Generator,
)
"""The head types that a run's `encoder.json` may name."""


class Head(NamedTuple):
    """A head of a loaded encoder, `encoder.heads[name]`: one of `HEADS` and its parameters."""

    module: Any
    params: Params

    def __repr__(self) -> str:
        # A tuple's own would print the arrays.
        return f"Head({type(self.module).__name__}, {parameter_count(self.params):,} parameters)"


def parameter_count(params: Params) -> int:
    """How many numbers a nested dict of arrays holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
