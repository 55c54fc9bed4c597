"""The inputs of a causal Transformer that is fine-tuned as the first GPT was (Radford et al. 2018, section 3.3).

Letters: B texts or pairs, S tokens of a row, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ctx_jax.encoders.base import Level
from ctx_jax.encoders.transformer.inputs import SubwordInputs
from ctx_jax.encoders.transformer.pair_inputs import PairInputs
from ctx_jax.io.errors import InputError, SentenceError
from ctx_jax.tokenizers.subwords import Pieces

if TYPE_CHECKING:
    from ctx_jax.encoders.base import InputProcessor
    from ctx_jax.encoders.transformer.model import Transformer

NEW_TOKENS = 3
"""Start, delimiter and extract: the last rows of the token table, V - 3 to V - 1. The tokenizer does not know them, so
no text has them."""


@dataclass(frozen=True)
class GPTInputs(PairInputs):
    """Inputs with start, delimiter and extract tokens:

        text          <start> a cat <extract>
        pair          <start> a cat <delimiter> a dog <extract>

    "token_ids" int32 [B, S] and "token_mask" bool [B, S]. A split text is `Pieces` of which each belongs to text 0.
    """

    start: int = 0
    pairs: bool = False

    @classmethod
    def of_model(cls, processor: InputProcessor, model: Transformer, *, pairs: bool) -> GPTInputs:
        """Those of a causal model whose table has the `NEW_TOKENS`. InputError for a processor without subwords."""
        if not isinstance(processor, SubwordInputs):
            raise InputError(f"a {type(model).__name__} has no tokens; a causal Transformer is needed")
        subwords = processor.subwords.without_special_tokens()
        return cls(subwords, processor.longest, processor.rule, start=model.vocabulary - NEW_TOKENS, pairs=pairs)

    @property
    def digest(self) -> str:
        """SHA-256 of the tokenizer, the settings and the new tokens."""
        return hashlib.sha256(f"{super().digest} gpt {self.start} {self.pairs}".encode()).hexdigest()

    @property
    def overhead(self) -> int:
        """The special tokens of a row."""
        return 3 if self.pairs else 2

    def split(self, sentences: Sequence[str] | Sequence[Sequence[str]], level: Level = "words") -> list[Pieces]:
        """The pieces of every text or pair, which the tokenizer's own rule cuts."""
        if self.pairs:
            return super().split(sentences)
        found = self.subwords.tokenize_text([str(text) for text in sentences])
        return [Pieces(ids, np.zeros(len(ids), np.int32)) for ids in found]

    def pad(
        self, sentences: Sequence[Pieces], rows: int, length: int, tokens: int | None = None
    ) -> dict[str, np.ndarray]:
        """The inputs of split texts or pairs: B = `rows`, S = `length`, at most `longest`."""
        width = length if self.longest is None else min(length, self.longest)
        ids = np.full((rows, width), self.subwords.pad_id, np.int32)
        mask = np.zeros((rows, width), bool)
        delimiter, extract = self.start + 1, self.start + 2
        for row, (pieces, size) in enumerate(zip(sentences, self.sizes(sentences), strict=True)):
            if size > width:
                raise SentenceError(row, f"has {size} tokens, there is room for {width} in a row: shorten it")
            first, second = pieces.ids[pieces.words == 0], pieces.ids[pieces.words == 1]
            between = [delimiter] if self.pairs else []
            ids[row, :size] = [self.start, *first, *between, *second, extract]
            mask[row, :size] = True
        return {"token_ids": ids, "token_mask": mask}
