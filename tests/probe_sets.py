"""Data in the layout of a probe's data folder, and an encoder that knows labels in one of its layers alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ctx_jax.embedding.encoder import Encoder
from ctx_jax.encoders.base import Layers
from ctx_jax.encoders.static.inputs import StaticInputs
from ctx_jax.encoders.static.model import StaticTable
from ctx_jax.ops.dropout import Dropout
from ctx_jax.typing import Carry, Params

TAGS = ("ADJ", "NOUN", "VERB")
LAYERS, SIGNAL, WIDTH = 3, 1, 4


@dataclass(frozen=True)
class Planted(StaticTable):
    """A table of word vectors [L D] as L layers of width D."""

    @property
    def num_layers(self) -> int:
        return LAYERS

    @property
    def width(self) -> int:
        return self.dim // LAYERS

    def layers(
        self, params: Params, inputs: Mapping[str, Any], *, carry: Carry = None, dropout: Dropout | None = None
    ) -> Layers:
        found = super().layers(params, inputs, carry=carry, dropout=dropout)
        return Layers(jnp.stack(jnp.split(found.values[0], LAYERS, axis=-1)), found.mask)


def words(split: str) -> list[tuple[str, int]]:
    """The words of a split, which no other has, and the numbers of their tags."""
    return [(f"{split}{number}", number % len(TAGS)) for number in range(60)]


def planted(seed: int = 0) -> Encoder:
    """Layer 1 holds the tags of words, with noise; the other layers hold noise alone."""
    random = np.random.default_rng(seed)
    known = [pair for split in ("train", "dev", "test") for pair in words(split)]
    vectors = random.normal(size=(len(known) + 1, LAYERS, WIDTH)).astype(np.float32)
    for row, (_, tag) in enumerate(known):
        vectors[row, SIGNAL] = 0.3 * vectors[row, SIGNAL] + 3.0 * np.eye(WIDTH, dtype=np.float32)[tag]
    model = Planted(len(known), LAYERS * WIDTH)
    params = {"words": {"embedding": jnp.asarray(vectors.reshape(len(vectors), -1))}}
    return Encoder(model, params, StaticInputs(tuple(word for word, _ in known)))


def write_data(folder: Path) -> Path:
    """UPOS, whose tags the planted encoder knows, and SST-2 with random labels, 70 % of them 1."""
    random = np.random.default_rng(1)
    for split in ("train", "dev", "test"):
        own = words(split)
        tagged, texts = [], []
        for number in range(60 if split == "train" else 40):
            chosen = [own[i] for i in random.integers(len(own), size=4)]
            rows = (f"{i}\t{word}\t_\t{TAGS[tag]}" + "\t_" * 6 for i, (word, tag) in enumerate(chosen, start=1))
            tagged.append("\n".join(rows) + "\n\n")
            texts.append(f"{' '.join(word for word, _ in chosen)}\t{int(number % 10 < 7)}\n")
        for path, lines in ((f"pos/en_ewt/{split}.conllu", tagged), (f"cls/sst2/{split}.tsv", texts)):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text("".join(lines))
    return folder
