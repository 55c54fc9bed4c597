"""A label for each word: one vector a word, from a mix of an encoder's layers, and a linear layer.

ctx-jax train tag --encoder minilm --frozen --data.train train.conllu --data.valid dev.conllu --run-dir runs/upos
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ctx_jax.data.labelled import STANDARD_INPUT, Example, LabelledData, read_sentences
from ctx_jax.encoders.base import InputProcessor, WordPieces, sentences_to_words
from ctx_jax.tasks.label_config import LabelConfig
from ctx_jax.tasks.label_network import LabelNetwork
from ctx_jax.tasks.label_rows import row_limit, split_to_fit
from ctx_jax.typing import Log


@dataclass(frozen=True)
class TagConfig(LabelConfig):
    """Train a tagger of words."""

    data: LabelledData = field(default_factory=lambda: LabelledData(columns="form,upos"))

    pieces: WordPieces = "mean"
    """Which of a word's pieces give its vector; without effect on encoders of whole words."""

    name: ClassVar[str] = "tag"
    item: ClassVar[str] = "form"

    def processed(self, processor: InputProcessor, model: Any) -> InputProcessor:
        return processor.with_pieces(self.pieces)

    def read(self, path: str, known: Collection[str] | None = None) -> Iterator[Example]:
        like, prefix = self.data.train if path == STANDARD_INPUT else path, self.data.strip_prefix
        return read_sentences(path, self.columns, prefix=prefix, labels=known is None, like=like)

    def checked(self, items: Sequence[Any], processor: InputProcessor) -> list[Any]:
        return sentences_to_words(items, processor.rule)

    def split(self, processor: InputProcessor, items: Sequence[list[str]], log: Log) -> list[list[tuple[Any, int]]]:
        """A row a sentence; one longer than the encoder takes is several rows, which `log` says once."""
        longest, split = row_limit(processor, self.length), processor.split(list(items))
        rows = []
        for words, text, size in zip(items, split, processor.sizes(split), strict=True):
            parts = [words] if longest is None or size <= longest else split_to_fit(processor, words, longest)
            texts = [text] if len(parts) == 1 else [processor.split([part])[0] for part in parts]
            rows.append([(each, len(part)) for each, part in zip(texts, parts, strict=True)])
        if long := sum(len(own) > 1 for own in rows):
            log(f"{long:,} of {len(rows):,} sentences are longer than {longest} tokens: their parts are tagged apart")
        return rows

    def answer(self, item: list[str], network: LabelNetwork, found: np.ndarray) -> dict[str, Any]:
        """{"words": [...], "labels": [...]}."""
        return {"words": item, "labels": [network.labels[number] for number in found.argmax(axis=1)]}
