"""Smooth inverse frequency: sentence vectors as averages of word vectors, weighted by how rare a word is, without their
common component (Arora, Liang and Ma 2017, "A Simple but Tough-to-Beat Baseline for Sentence Embeddings").

    v(s) = mean over the words w of s of a / (a + p(w)) x(w);    v(s) - u u^T v(s)

p(w) is the share of w among a corpus's words, u the first right singular vector of its sentences' vectors.

Letters: N sentences, T words, D width, L layers.
"""

import hashlib
import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ctx_jax.embedding.outputs import LayerChoice
from ctx_jax.io.errors import InputError, listed
from ctx_jax.io.files import atomic_write
from ctx_jax.io.sealed_json import read_sealed, sealed_text

SENTENCES = 10_000
"""So many sentences of a corpus give the common component; all give the frequencies."""

WordVectors = Callable[[Iterable[Sequence[str]]], Iterator[np.ndarray]]


@dataclass(frozen=True, eq=False)
class Sif:
    """What `Encoder.fit_sif` finds out about a corpus."""

    counts: Mapping[str, int]
    total: int
    """Words of the corpus."""
    weight: float
    """a of the formula."""
    component: np.ndarray  # [D], of length 1
    layers: LayerChoice
    """The layer of the word vectors; the component is of this one."""
    mix: Mapping[str, Any] | None

    def facts(self) -> dict[str, Any]:
        """All of it as JSON."""
        mix = None if self.mix is None else {name: np.asarray(value).tolist() for name, value in self.mix.items()}
        numbers = {"weight": self.weight, "component": self.component.tolist()}
        return {"counts": self.counts, "total": self.total, **numbers, "layers": self.layers, "mix": mix}

    @property
    def digest(self) -> str:
        """SHA-256 of all of it, in hexadecimal."""
        return hashlib.sha256(json.dumps(self.facts(), sort_keys=True).encode()).hexdigest()

    def vectors(
        self, sentences: Iterable[Sequence[str]], encode: WordVectors, *, normalize: bool = False
    ) -> Iterator[np.ndarray]:
        """The vector [D] of each sentence, of length 1 with `normalize`; zeros for one without words. `encode` gives
        word vectors [T, D]."""
        for average in _averages(sentences, encode, self.counts, self.total, self.weight):
            vector = average - self.component * (self.component @ average)
            yield vector / max(float(np.linalg.norm(vector)), 1e-12) if normalize else vector


def save_sif(path: str | Path, sif: Sif) -> None:
    """Write what `fit_sif` found as JSON with a digest; an existing file is replaced whole.

    save_sif("sif.json", encoder.sif)
    encoder = dataclasses.replace(load("glove.6B.300d.txt"), sif=load_sif("sif.json"))
    """
    atomic_write(Path(path), sealed_text(sif.facts()))


def load_sif(path: str | Path) -> Sif:
    """Read a file of `save_sif`. MissingFileError; InputError, naming the file, for a damaged one."""
    facts = read_sealed(Path(path))
    if facts.keys() != {field.name for field in fields(Sif)}:
        raise InputError(f"{path} is no file of save_sif: it holds {listed(facts)}")
    component, layers = np.array(facts["component"], np.float32), facts["layers"]
    mix = None if facts["mix"] is None else {name: np.array(value, np.float32) for name, value in facts["mix"].items()}
    return Sif(**{**facts, "component": component, "layers": layers, "mix": mix})


def fit(
    corpus: Iterable[Sequence[str]],
    encode: WordVectors,
    weight: float,
    layers: LayerChoice,
    mix: Mapping[str, Any] | None,
) -> Sif:
    """Word frequencies of all sentences of a corpus, and the common component of the first `SENTENCES`.

    Raises InputError for a corpus without words and a weight that is not above 0.
    """
    if not weight > 0:
        raise InputError(f"weight must be above 0, got {weight}")
    sentences = iter(corpus)
    first = list(islice(sentences, SENTENCES))
    counts = Counter(word for words in first for word in words)
    for words in sentences:
        counts.update(words)
    if not counts:
        raise InputError("fit_sif needs a corpus with words, got none")
    total = counts.total()
    averages = np.stack(list(_averages(first, encode, counts, total, weight))).astype(np.float64)
    # The first right singular vector, by way of [D, D].
    component = np.linalg.eigh(averages.T @ averages)[1][:, -1]
    return Sif(dict(counts), total, weight, component.astype(np.float32), layers, mix)


def _averages(
    sentences: Iterable[Sequence[str]], encode: WordVectors, counts: Mapping[str, int], total: int, weight: float
) -> Iterator[np.ndarray]:
    weights: deque[np.ndarray] = deque()

    def noted() -> Iterator[Sequence[str]]:
        for words in sentences:
            shares = np.array([counts.get(word, 0) / total for word in words], np.float32)
            weights.append(weight / (weight + shares))
            yield words

    for vectors in encode(noted()):
        own = weights.popleft()
        yield own @ vectors / max(len(own), 1)
