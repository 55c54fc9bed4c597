"""A run's subword tokenizer: one frozen dataclass whose comments are the help."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["wordpiece", "bpe", "unigram"]


@dataclass(frozen=True)
class TokenizerConfig:
    """A tokenizer trained on the run's own text, or read from a file; the run keeps its copy."""

    file: str = ""
    """A tokenizer.json, a BERT vocab.txt, a RoBERTa vocab.json (merges.txt beside it), a SentencePiece .model, or a
    folder with one of them. Empty: trained on the training text."""

    kind: Kind = "bpe"
    """What is trained: BERT's `wordpiece`, RoBERTa's byte-level `bpe`, or SentencePiece's `unigram`. The same text
    gives the same `bpe`; the other two differ from training to training: to repeat a run exactly, give a `file`."""

    size: int = 16_384
    """The most tokens a trained vocabulary may hold, special tokens included."""

    lowercase: bool = False
    """A trained tokenizer makes no difference between capitals and small letters."""

    minimum_count: int = 2
    """How often a pair must occur to become a token (wordpiece, bpe)."""
