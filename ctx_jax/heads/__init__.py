"""Heads: vectors to logits. A head is given widths and parameters, never a model.

Language models' heads are frozen configs with pure functions, as the encoders are; the heads of tasks are Flax Linen
modules.
"""

from typing import Any, NamedTuple

from ctx_jax.heads.sequence import Pooler, SequenceHead
from ctx_jax.heads.vocabulary import VocabularyHead
from ctx_jax.typing import Params

__all__ = ["HEADS", "Head", "Pooler", "SequenceHead", "VocabularyHead"]

HEADS = (VocabularyHead, Pooler, SequenceHead)
"""The types a run's `encoder.json` may name."""


class Head(NamedTuple):
    """A head of a loaded encoder, `encoder.heads[name]`: what it is, and its parameters."""

    module: Any
    params: Params
