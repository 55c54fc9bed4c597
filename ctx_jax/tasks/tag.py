"""A label for each word: one vector a word, from a mix of an encoder's layers, and a linear layer or BiLSTMs and a CRF.

ctx-jax train tag --encoder minilm --frozen --data.train train.conllu --data.valid dev.conllu --run-dir runs/upos
ctx-jax train tag --encoder runs/elmo --frozen --head.kind bilstm_crf --head.char-filters 50 --scheme BIOES \\
    --data.train train.txt --data.valid dev.txt --data.columns form,ner --evaluate.metric f1 --run-dir runs/ner
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, ClassVar, Literal

import numpy as np

from ctx_jax.data.labelled import Example, LabelledData, read_sentences
from ctx_jax.data.span_labels import OUTSIDE, has_illegal, in_scheme, without_mark
from ctx_jax.data.text_files import STANDARD_INPUT
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.encoders.base import InputProcessor, WordPieces, sentences_to_words
from ctx_jax.io.errors import ConfigError, InputError, listed
from ctx_jax.tasks.huggingface_head import with_own_head
from ctx_jax.tasks.label_config import LabelConfig
from ctx_jax.tasks.label_network import LabelNetwork
from ctx_jax.tasks.label_rows import Rows, row_limit, split_to_fit
from ctx_jax.tasks.tag_head import CharacterRows, TagHead
from ctx_jax.typing import Log


@dataclass(frozen=True)
class TagConfig(LabelConfig):
    """Train a tagger of words."""

    data: LabelledData = field(default_factory=lambda: LabelledData(columns="form,upos"))

    pieces: WordPieces = "mean"
    """Which of a word's pieces give its vector; without effect on encoders of whole words."""

    head: TagHead = field(default_factory=TagHead)
    scheme: Literal["file", "BIO", "BIOES"] = "file"
    """How labels mark spans of words in training, measuring and predictions. `file`: as they stand in the files; else
    those of the files, in either scheme, are converted."""

    name: ClassVar[str] = "tag"
    exportable: ClassVar[str] = "layers last, pieces first and head.kind linear (of ModernBERT huggingface)"
    item: ClassVar[str] = "form"

    def processed(self, processor: InputProcessor, model: Any) -> InputProcessor:
        return processor.with_pieces(self.pieces)

    def read(self, path: str, known: Collection[str] | None = None) -> Iterator[Example]:
        like, prefix = self.data.train if path == STANDARD_INPUT else path, self.data.strip_prefix
        return read_sentences(path, self.columns, prefix=prefix, labels=known is None, like=like)

    def prepared(self, examples: list[Example], path: str, log: Log) -> list[Example]:
        """With their labels in `scheme`; `log` gets the number of illegal ones. ConfigError for labels that mark no
        spans, if a scheme is set, and for illegal ones that a constrained CRF could not give."""
        marked = {label for each in examples for label in each.labels} - {OUTSIDE}
        plain = sorted(without_mark(marked))
        if self.scheme != "file" and plain:
            raise ConfigError(
                "scheme",
                f"{self.scheme} is for labels that mark spans, as O, B-PER and I-PER; {path} has {listed(plain)}",
            )
        if plain and len(plain) < len(marked):
            log(
                f"{path}: {listed(plain)} mark no spans, as the other labels do: F1 is the mean over labels, and a CRF "
                "keeps to no scheme"
            )
        found = in_scheme(examples, None if self.scheme == "file" else self.scheme, path, log)
        if path == self.data.train and self.head.crf and self.head.constrained and has_illegal(found):
            raise ConfigError(
                "head.constrained",
                f"allows no answer like some labels of {path}, which their scheme does not allow: set scheme to BIO or "
                "BIOES, which converts them, or head.constrained to False",
            )
        return found

    def network(self, encoder: Encoder, labels: tuple[str, ...]) -> LabelNetwork:
        base = super().network(encoder, labels)
        if self.head.kind == "huggingface":
            return with_own_head(base, encoder, "head.kind")
        return replace(base, head=self.head.module(encoder.model, labels, self.dropout))

    def exported(self, encoder: Encoder) -> Encoder:
        """As `LabelConfig.exported`; InputError for words whose labels are not those of their first pieces."""
        if self.pieces != "first":
            raise InputError(
                f"a class of transformers labels pieces, and a word by its first one; pieces are {self.pieces}. Train "
                f"with {self.exportable}, or export the encoder alone"
            )
        return super().exported(encoder)

    def check(self, steps: int) -> None:
        """As `LabelConfig.check` and `TagHead.check`; ConfigError for class weights with a CRF, and for other pieces
        than a class has."""
        super().check(steps)
        self.head.check()
        if self.head.kind == "huggingface" and self.pieces != "first":
            raise ConfigError("pieces", f"must be first for head.kind huggingface, got {self.pieces}: set it")
        if self.head.crf and self.class_weights != "none":
            raise ConfigError("class_weights", f"weigh single labels, and head.kind {self.head.kind} scores sequences")

    def completed(self, rows: Rows, items: Sequence[list[str]], counts: Sequence[Sequence[int]]) -> Rows:
        """With the characters of the words, if the head reads them."""
        if not self.head.char_filters:
            return rows
        words = [iter(item) for item in items]
        parts = [list(islice(own, count)) for own, each in zip(words, counts, strict=True) for count in each]
        return CharacterRows(rows, parts, self.head.char_length)

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
            crf = self.head.crf and self.head.constrained
            what = f"{long:,} of {len(rows):,} sentences are longer than {longest} tokens: their parts are tagged apart"
            log(what + (", and a constrained CRF finds no span across a cut" if crf else ""))
        return rows

    def answer(self, item: list[str], network: LabelNetwork, found: np.ndarray) -> dict[str, Any]:
        """{"words": [...], "labels": [...]}."""
        return {"words": item, "labels": [network.labels[number] for number in found.tolist()]}
