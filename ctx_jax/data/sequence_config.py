"""How text becomes a Transformer's sequences and what is masked in them: one frozen dataclass, whose comments are
the help."""

import math
from dataclasses import dataclass, replace
from typing import Literal


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
    """Share of the tokens that is predicted."""

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
        if self.length < 4 or self.rows < 1:
            raise ValueError(f"a batch needs 1 row or more of at least 4 tokens, got {self.rows=}, {self.length=}")
        for name, value in (("rate", self.rate), ("short", self.short)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is a share between 0 and 1, got {value}")
        if min(self.masked, self.randomized) < 0 or self.masked + self.randomized > 1 + 1e-9:
            raise ValueError(
                "masked and randomized are shares of the predicted tokens that sum to at most 1, "
                f"got {self.masked} and {self.randomized}"
            )
        if self.span_mean < 1 or self.span_longest < 1:
            raise ValueError(f"a span has 1 word or more, got {self.span_mean=}, {self.span_longest=}")
        if not 0 <= self.predictions <= self.length:
            raise ValueError(f"a row of {self.length} tokens has 0 (automatic) to {self.length} predictions, "
                             f"got {self.predictions}")  # fmt: skip
        if self.first_steps and (self.first_length < 4 or self.length % self.first_length):
            raise ValueError(
                f"a first phase of as many tokens a batch needs a first_length that divides length, got "
                f"{self.first_length} and {self.length}"
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
