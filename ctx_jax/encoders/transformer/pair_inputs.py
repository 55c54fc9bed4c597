"""The inputs of a Transformer that reads two texts in one row. Letters: B pairs, S tokens of a row."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ctx_jax.encoders.base import Level
from ctx_jax.encoders.transformer.inputs import SubwordInputs
from ctx_jax.io.errors import InputError, SentenceError
from ctx_jax.tokenizers.subwords import Pieces
from ctx_jax.tokenizers.templates import ONE_END, PairLayout

if TYPE_CHECKING:
    from ctx_jax.encoders.base import InputProcessor
    from ctx_jax.encoders.transformer.model import Transformer


@dataclass(frozen=True)
class PairInputs(SubwordInputs):
    """Inputs of pairs, each a sequence of two strings:

        texts          "a cat", "a dog"
        token_ids      [CLS] a   cat [SEP] a   dog [SEP] [PAD]      int32 [B, S]
        token_mask     1     1   1   1     1   1   1     0          bool  [B, S]
        token_types    0     0   0   0     1   1   1     0          int32 [B, S], where the model has them

    Of a split pair, `Pieces.words` says which text each piece belongs to, 0 or 1. `split`, `sizes`, `cut` and `pad` are
    those of pairs.
    """

    layout: PairLayout = ONE_END
    with_types: bool = True

    @classmethod
    def of(cls, processor: InputProcessor, model: Transformer) -> PairInputs:
        """Those of a model's input processor. InputError if it has no subwords, or lays out two texts in another way
        than `begin A end B end` with one or two ends between."""
        if not isinstance(processor, SubwordInputs):
            raise InputError(
                f"a {type(model).__name__} has no tokens to put between two texts; a Transformer is needed"
            )
        layout = processor.subwords.pair_layout
        own = {name: getattr(processor, name) for name in ("subwords", "longest", "rule", "pieces", "whole_texts")}
        return cls(**own, layout=layout, with_types=model.token_types > layout.second_type > 0)

    @property
    def digest(self) -> str:
        """SHA-256 of the tokenizer, the settings and the layout."""
        return hashlib.sha256(f"{super().digest} {tuple(self.layout)} {self.with_types}".encode()).hexdigest()

    @property
    def overhead(self) -> int:
        """The special tokens of a row."""
        return 2 + self.layout.separators

    def split(self, sentences: Sequence[str] | Sequence[Sequence[str]], level: Level = "words") -> list[Pieces]:
        """The pieces of every pair, which the tokenizer's own rule cuts."""
        sides = [self.subwords.tokenize_text([pair[side] for pair in sentences]) for side in (0, 1)]
        return [
            Pieces(np.concatenate(pair), np.repeat(np.arange(2, dtype=np.int32), [len(ids) for ids in pair]))
            for pair in zip(*sides, strict=True)
        ]

    def sizes(self, sentences: Sequence[Pieces]) -> list[int]:
        """Tokens of every pair, special ones included."""
        return [len(pieces.ids) + self.overhead for pieces in sentences]

    def cut(self, sentence: Pieces, length: int) -> Pieces:
        """The beginnings of both texts; the longer one loses its end first, then both (`tokenizers`' longest_first)."""
        room = max(length - self.overhead, 0)
        counts = np.bincount(sentence.words, minlength=2)
        if counts.sum() <= room:
            return sentence
        longer = int(counts[1] >= counts[0])
        kept = [0, 0]
        kept[1 - longer] = min(int(counts[1 - longer]), room // 2)
        kept[longer] = room - kept[1 - longer]
        places = np.concatenate([np.arange(kept[0]), counts[0] + np.arange(kept[1])])
        return Pieces(sentence.ids[places], sentence.words[places])

    def pad(
        self, sentences: Sequence[Pieces], rows: int, length: int, tokens: int | None = None
    ) -> dict[str, np.ndarray]:
        """The inputs of split pairs: B = `rows`, S = `length`, at most `longest`."""
        width = length if self.longest is None else min(length, self.longest)
        arrays = {
            "token_ids": np.full((rows, width), self.subwords.pad_id, np.int32),
            "token_mask": np.zeros((rows, width), bool),
        } | ({"token_types": np.zeros((rows, width), np.int32)} if self.with_types else {})
        begin, end = self.subwords.begin_id, self.subwords.end_id
        for row, (pieces, size) in enumerate(zip(sentences, self.sizes(sentences), strict=True)):
            if size > width:
                raise SentenceError(row, f"has {size} tokens, there is room for {width} in a row: shorten its texts")
            first, second = pieces.ids[pieces.words == 0], pieces.ids[pieces.words == 1]
            ends = [end] * self.layout.separators
            arrays["token_ids"][row, :size] = [begin, *first, *ends, *second, end]
            arrays["token_mask"][row, :size] = True
            if self.with_types:
                arrays["token_types"][row, size - len(second) - 1 : size] = self.layout.second_type
        return arrays
