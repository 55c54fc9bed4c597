"""How text becomes a Transformer's sequences and what is masked in them: one frozen dataclass, whose comments are
the help."""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from ctx_jax.io.errors import InputError
from ctx_jax.io.flags import field_with_flag

_flag = partial(field_with_flag, section="sequences")


@dataclass(frozen=True)
class SequenceConfig:
    """Rows of a fixed length, made of sentences, and the positions to predict in them."""

    form: Literal["full", "pairs", "packed", "causal"] = "full"
    """`full`: neighbouring sentences up to the length (RoBERTa). `pairs`: two texts with token types (BERT). `packed`:
    single sentences, several a row, that do not see each other. `causal`: blocks with next-token targets (GPT)."""

    length: int = 128
    """Tokens of a row (T), special ones included."""

    rows: int = 32
    """Rows of a batch (B), over all devices."""

    cross_documents: bool = True
    """`full`, `causal`: whether a row may go on in the next document, after a separator. Without it a `full` row ends
    with its document, and the documents of a `causal` row do not see each other."""

    whole_sentences: bool = True
    """`full`: rows end where a sentence does, which leaves about a sixth of 128 tokens and a twentieth of 512 empty.
    Without it rows are filled and sentences cut."""

    pairs: Literal["next_sentence", "order", "none"] = "next_sentence"
    """`pairs`: whether the second text is `next_sentence`, half the time one of another document; `order`, half the
    time swapped with the first; or `none`, always the true one and without a label."""

    short: float = 0.1
    """`pairs`: share of the pairs cut at a random shorter length, so that short inputs are met too."""

    masking: Literal["tokens", "words", "spans"] = "tokens"
    """What is masked as a whole: single tokens, words, or spans of words (SpanBERT)."""

    rate: float = 0.15
    """Share of the tokens that is predicted, above 0; `causal` predicts every token."""

    masked: float = 0.8
    """Of the predicted tokens, the share that the mask token stands for."""

    randomized: float = 0.1
    """Of the predicted tokens, the share that a random ordinary token stands for; what is left stays as it is."""

    span_mean: float = 3.0
    """`spans`: mean of the geometric distribution of a span's words, before it is cut off at `span_longest`."""

    span_longest: int = 10
    """`spans`: the most words of a span."""

    predictions: int = 0
    """The most predicted positions of a row (K), which fixes the shape of the head's work. 0: rate x length, rounded
    up, which single tokens never exceed; whole words need about 4 more to be never cut short."""

    first_steps: int = 0
    """Steps of a first phase with shorter rows and as many tokens a batch. 0: no such phase."""

    first_length: int = 128
    """Tokens of a row in the first phase; `length` must be a multiple of it."""

    def __post_init__(self) -> None:
        for name, least in (
            ("length", 4),
            ("rows", 1),
            ("span_mean", 1),
            ("span_longest", 1),
            ("predictions", 0),
            ("first_steps", 0),
        ):
            if not getattr(self, name) >= least:
                raise InputError(f"{_flag(name)} must be at least {least}, got {getattr(self, name)}")
        for name in ("short", "rate", "masked", "randomized"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{_flag(name)} is a share between 0 and 1, got {getattr(self, name)}")
        if not self.rate and self.form != "causal":
            raise InputError(f"{_flag('rate')} must be above 0, or there is nothing to learn, got {self.rate}")
        if self.masked + self.randomized > 1 + 1e-9:
            raise InputError(
                f"{_flag('masked')} and {_flag('randomized')} are shares of the predicted tokens that sum to at most "
                f"1, got {self.masked} and {self.randomized}"
            )
        if self.predictions > self.length:
            raise InputError(
                f"{_flag('predictions')} must be at most {_flag('length')}, which is {self.length}, got "
                f"{self.predictions}; 0 follows from the rate"
            )
        if self.first_steps and (self.first_length < 4 or self.length % self.first_length):
            raise InputError(
                f"{_flag('first_length')} must be at least 4 and divide {_flag('length')}, so that a batch of the "
                f"first phase has as many tokens, got {self.first_length} and {self.length}"
            )

    @property
    def budget(self) -> int:
        """K, the predicted positions a row has room for."""
        return self.predictions or max(1, math.ceil(self.rate * self.length))

    @property
    def first_phase(self) -> "SequenceConfig | None":
        """The sequences of the first `first_steps` steps, None without such a phase.

        length 512, rows 256, predictions 80, first_length 128  ->  length 128, rows 1024, predictions 20
        """
        if not self.first_steps:
            return None
        parts = self.length // self.first_length
        return replace(
            self,
            length=self.first_length,
            rows=self.rows * parts,
            predictions=math.ceil(self.predictions / parts),
            first_steps=0,
        )
