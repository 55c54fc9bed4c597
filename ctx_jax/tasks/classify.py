"""A label for a text, several labels or a number: the mean of its tokens' vectors, from a mix of an encoder's layers,
and a linear layer.

ctx-jax train classify --encoder minilm --frozen --data.train train.tsv --data.valid dev.tsv --run-dir runs/sst2
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np

from ctx_jax.data.labelled import Example, read_texts
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.encoders.base import InputProcessor, checked
from ctx_jax.encoders.transformer.gpt_inputs import GPTInputs
from ctx_jax.io.errors import InputTypeError
from ctx_jax.tasks.huggingface_head import HeadChoice, with_own_head
from ctx_jax.tasks.label_config import LabelConfig
from ctx_jax.tasks.label_network import LabelNetwork, TextPooling
from ctx_jax.tasks.label_rows import cut_texts
from ctx_jax.tasks.label_values import Target, checked_number, is_number, labels_in, split_labels
from ctx_jax.typing import Log


@dataclass(frozen=True)
class ClassifyConfig(LabelConfig):
    """Train a classifier of texts."""

    target: Literal["classes", "several", "number"] = "classes"
    """What a text has: one label, several with `data.separator` between them (or none), or a number."""

    pooling: TextPooling = "mean"
    """How the vectors of a text's tokens become one. `attention`: a learned weighted mean. `concat`: the last, the
    largest and the mean, one after the other. A text without tokens has the vector 0."""

    head: HeadChoice = "linear"
    """`huggingface`: the head that the encoder's class in transformers has (of BERT its pooler, which starts as the
    folder's, and a linear layer); such a run is exported with its head. Needs `layers` last and the class's `pooling`:
    first, of GPT last, of ModernBERT first or mean. An empty text then has its special tokens."""

    name: ClassVar[str] = "classify"
    item: ClassVar[str] = "text"

    @property
    def text_pooling(self) -> TextPooling:
        return self.pooling

    @property
    def predicted(self) -> Target:
        return self.target

    def read(self, path: str, known: Collection[str] | None = None) -> Iterator[Example]:
        return read_texts(
            path,
            self.columns,
            prefix=self.data.strip_prefix,
            labels=known is None,
            is_label=partial(self._is_label, known) if known else None,
            empty_labels=self.target == "several",
        )

    def _is_label(self, known: Collection[str], text: str) -> bool:
        """Whether a text may be the label of one that is predicted, whose labels are `known`."""
        match self.target:
            case "number":
                return is_number(text)
            case "several":
                return {*labels_in(text, self.data.separator)} <= {*known}
        return text in known

    def converted(self, example: Example) -> Example:
        match self.target:
            case "several":
                return split_labels(example, self.data.separator)
            case "number":
                return checked_number(example)
        return example

    def processed(self, processor: InputProcessor, model: Any) -> InputProcessor:
        if self.tuning.gpt:
            return GPTInputs.of_model(processor, model, pairs=False)
        return processor.of_texts(empty=self.head == "huggingface")

    def network(self, encoder: Encoder, labels: tuple[str, ...]) -> LabelNetwork:
        base = super().network(encoder, labels)
        return with_own_head(base, encoder, "head") if self.head == "huggingface" else base

    def checked(self, items: Sequence[Any], processor: InputProcessor) -> list[Any]:
        texts = checked(items)
        if wrong := [number for number, text in enumerate(texts) if not isinstance(text, str)]:
            raise InputTypeError(f"a text must be a string; number {wrong[0]} is a {type(texts[wrong[0]]).__name__}")
        return texts

    def split(self, processor: InputProcessor, items: Sequence[str], log: Log) -> list[list[tuple[Any, int]]]:
        """One row a text, cut where it is longer than the encoder takes, which `log` says once."""
        texts = processor.split(list(items), "tokens")
        return [[(text, 1)] for text in cut_texts(processor, texts, self.length, log, "texts")]

    def answer(self, item: str, network: LabelNetwork, found: np.ndarray) -> dict[str, Any]:
        """{"label": ..., "probabilities": {label: p}}; "labels" of several, {"number": ...} of a number."""
        return network.answer(found[0])
