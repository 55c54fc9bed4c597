"""How text becomes a Transformer's sequences and what is masked in them: one frozen dataclass, whose comments are
the help."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from ctx_jax.data.config import check_at_least
from ctx_jax.io.errors import ConfigError

Packing = Literal["full_sentences", "pairs", "packed", "causal_blocks"]


@dataclass(frozen=True)
class SequenceConfig:
    """Rows of a fixed length, made of sentences, and the positions to predict in them."""

    packing: Packing = "full_sentences"
    """`full_sentences`: neighbouring sentences up to the length (RoBERTa). `pairs`: two texts with token types (BERT).
    `packed`: single sentences, several a row, that do not see each other. `causal_blocks`: blocks with next-token
    targets (GPT)."""

    length: int = 128
    """Tokens of a row (T), special ones included."""

    batch_size: int = 32
    """Rows of a batch (B), over all devices."""

    cross_documents: bool = True
    """`full_sentences`, `causal_blocks`: whether a row may go on in the next document, after a separator. Without it a
    row of `full_sentences` ends with its document, and the documents of a causal block do not see each other."""

    whole_sentences: bool = True
    """`full_sentences`: rows end where a sentence does, which leaves about a sixth of 128 tokens and a twentieth of 512
    empty. Without it rows are filled and sentences cut."""

    pair_label: Literal["next_sentence", "order", "none"] = "next_sentence"
    """`pairs`: whether the second text is `next_sentence`, half the time one of another document; `order`, half the
    time swapped with the first; or `none`, always the true one and without a label."""

    short_sequence_probability: float = 0.1
    """`pairs`: share of the pairs cut at a random shorter length, so that short inputs are met too."""

    masking: Literal["tokens", "words", "spans"] = "tokens"
    """What is masked as a whole: single tokens, words, or spans of words (SpanBERT)."""

    mask_rate: float = 0.15
    """Share of the tokens that is predicted, above 0; `causal_blocks` predict every token."""

    mask_token_probability: float = 0.8
    """Of the predicted tokens, the share that the mask token replaces."""

    random_token_probability: float = 0.1
    """Of the predicted tokens, the share that a random ordinary token replaces; what is left stays as it is."""

    span_mean: float = 3.0
    """`spans`: mean of the geometric distribution of a span's words, before it is cut off at `span_longest`."""

    span_longest: int = 10
    """`spans`: the most words of a span."""

    max_predictions: int = 0
    """The most predicted positions of a row (K), which fixes the shape of the head's work. 0: mask_rate x length,
    rounded up, which single tokens never exceed; whole words need about 4 more to be never cut short."""

    short_steps: int = 0
    """Steps with shorter rows and as many tokens a batch, before those of the full length."""

    short_length: int = 128
    """Tokens of a row in these first steps; `length` must be a multiple of it."""

    def __post_init__(self) -> None:
        check_at_least("sequences", self, length=4, batch_size=1, span_mean=1, span_longest=1, max_predictions=0)
        check_at_least("sequences", self, short_steps=0)
        for name in ("short_sequence_probability", "mask_rate", "mask_token_probability", "random_token_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise _error(name, f"must be between 0 and 1, got {getattr(self, name)}")
        if not self.mask_rate and self.packing != "causal_blocks":
            raise _error("mask_rate", "must be above 0, or there is nothing to learn, got 0")
        total = self.mask_token_probability + self.random_token_probability
        if total > 1 + 1e-9:
            raise _error("mask_token_probability", f"and random_token_probability must sum to at most 1, got {total}")
        if self.max_predictions > self.length:
            limit = f"must be at most the length, which is {self.length}"
            raise _error("max_predictions", f"{limit}, got {self.max_predictions}; 0 takes mask_rate")
        if self.short_steps and (self.short_length < 4 or self.length % self.short_length):
            raise _error(
                "short_length",
                f"must be at least 4 and divide the length, so that its batches have as many tokens, got "
                f"{self.short_length} and {self.length}",
            )

    @property
    def predictions_per_row(self) -> int:
        """K."""
        return self.max_predictions or max(1, math.ceil(self.mask_rate * self.length))

    @property
    def has_pair_label(self) -> bool:
        """Whether batches have a label for the second text of their pairs."""
        return self.packing == "pairs" and self.pair_label != "none"

    @property
    def short_phase(self) -> "SequenceConfig | None":
        """The sequences of the first `short_steps` steps, None without such steps.

        length 512, batch_size 256, max_predictions 80, short_length 128
        ->  length 128, batch_size 1024, max_predictions 20
        """
        if not self.short_steps:
            return None
        parts = self.length // self.short_length
        return replace(
            self,
            length=self.short_length,
            batch_size=self.batch_size * parts,
            max_predictions=math.ceil(self.max_predictions / parts),
            short_steps=0,
        )


def _error(name: str, message: str) -> ConfigError:
    return ConfigError(f"sequences.{name}", message)
