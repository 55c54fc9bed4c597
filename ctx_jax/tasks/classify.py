"""A label for a text: the mean of its tokens' vectors, from a mix of an encoder's layers, and a linear layer.

ctx-jax train classify --encoder minilm --frozen --data.train train.tsv --data.valid dev.tsv --run-dir runs/sst2
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ctx_jax.data.labelled import Example, read_texts
from ctx_jax.embedding.pooling import How
from ctx_jax.encoders.base import InputProcessor, checked
from ctx_jax.io.errors import InputTypeError
from ctx_jax.tasks.label_config import LabelConfig
from ctx_jax.tasks.label_rows import row_limit
from ctx_jax.typing import Log


@dataclass(frozen=True)
class ClassifyConfig(LabelConfig):
    """Train a classifier of texts."""

    pooling: How = "mean"
    """How the vectors of a text's tokens become one. A text without tokens has the vector 0."""

    name: ClassVar[str] = "classify"
    item: ClassVar[str] = "text"

    @property
    def text_pooling(self) -> How:
        return self.pooling

    def read(self, path: str, known: Collection[str] | None = None) -> Iterator[Example]:
        prefix = self.data.strip_prefix
        return read_texts(path, self.columns, prefix=prefix, labels=known is None, known=known or ())

    def processed(self, processor: InputProcessor) -> InputProcessor:
        return processor.of_texts(empty=False)

    def checked(self, items: Sequence[Any], processor: InputProcessor) -> list[Any]:
        texts = checked(items)
        if wrong := [number for number, text in enumerate(texts) if not isinstance(text, str)]:
            raise InputTypeError(f"a text must be a string; number {wrong[0]} is a {type(texts[wrong[0]]).__name__}")
        return texts

    def split(self, processor: InputProcessor, items: Sequence[str], log: Log) -> list[list[tuple[Any, int]]]:
        """One row a text, cut where it is longer than the encoder takes, which `log` says once."""
        texts, longest = processor.split(list(items), "tokens"), row_limit(processor, self.length)
        if longest is not None and (long := sum(size > longest for size in processor.sizes(texts))):
            log(f"{long:,} of {len(texts):,} texts are longer than {longest} tokens: what is beyond is cut off")
            texts = [processor.cut(text, longest) for text in texts]
        return [[(text, 1)] for text in texts]

    def answer(self, item: str, labels: tuple[str, ...], found: np.ndarray) -> dict[str, Any]:
        """{"label": ..., "probabilities": {label: p}}."""
        probabilities = np.exp(found[0], dtype=np.float64).tolist()
        return {
            "label": labels[int(found[0].argmax())],
            "probabilities": dict(zip(labels, probabilities, strict=True)),
        }
