"""Tasks without training in a probe: senses by nearest vectors, WiC by a threshold, grammar by minimal pairs.

What chooses the layer: of CoarseWSD-20 every second word, of all-words senses SemEval-2007, of WiC the half of the
pairs that also chooses the threshold. The scores that are reported are of the other words, test sets and pairs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ctx_jax.data.sense_files import read_coarse_wsd
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.embedding.encoder_digest import heads_digest
from ctx_jax.evaluation.all_words_senses import all_words_wsd
from ctx_jax.evaluation.minimal_pairs import blimp
from ctx_jax.evaluation.results import Result
from ctx_jax.evaluation.word_in_context import word_in_context
from ctx_jax.evaluation.word_senses import coarse_wsd
from ctx_jax.io.files import file_digest
from ctx_jax.tasks.probing.results import Kind, layer_name
from ctx_jax.typing import Log

Record = dict[str, Any]
"""{"way", "seed", "dev": metrics, "test": metrics}."""


@dataclass(frozen=True)
class UntrainedProbe:
    """A task that needs no training: one pass over its text gives the scores of all layers."""

    name: str
    kind: Kind
    metric: str
    chosen_on: str
    measured_on: str
    files: tuple[Path, ...]
    measure: Callable[[Encoder, Path, Log], tuple[list[Record], dict[str, Any]]]
    """(encoder, the first file, log): the records, and the result as JSON."""
    has_layers: bool = True

    def identity(self, encoder: Encoder) -> dict[str, Any]:
        """All that the results depend on besides the encoder's vectors, as JSON."""
        heads = {} if self.has_layers else {"heads": heads_digest(encoder)}
        return {"task": self.name, "files": {path.name: file_digest(path) for path in self.files}, **heads}


def coarse_senses(encoder: Encoder, path: Path, log: Log) -> tuple[list[Record], dict[str, Any]]:
    """CoarseWSD-20 by nearest centroid; the mean over words of recall by sense, and accuracy."""
    words = sorted(word.word for word in read_coarse_wsd(path))
    result = coarse_wsd(encoder, path, log=log)
    metrics = ("centroid_macro_recall", "centroid_accuracy", "neighbour_macro_recall", "neighbour_accuracy")

    def mean(layer: str, chosen: Sequence[str]) -> dict[str, float]:
        scores = [result.parts[word].scores[layer] for word in chosen]
        return {metric: fmean(own[metric] for own in scores) for metric in metrics}

    halves = (words[1::2], words[::2]) if len(words) > 1 else ([], words)
    return _records(result, lambda layer: mean(layer, halves[0]) if halves[0] else {}, lambda x: mean(x, halves[1]))


def all_words_senses(encoder: Encoder, path: Path, log: Log) -> tuple[list[Record], dict[str, Any]]:
    """SemCor to the framework's test sets by nearest centroid: F1."""
    result = all_words_wsd(encoder, path.parent, semcor=path, log=log)

    def together(layer: str) -> dict[str, float]:
        hits = instances = answered = 0.0
        for name in ("senseval2", "senseval3"):
            own = result.parts[name]
            instances += own.counts["instances"]
            answered += own.counts["instances"] - own.counts["unanswered"]
            hits += own.scores[layer]["recall"] * own.counts["instances"]
        precision, recall = hits / answered if answered else 0.0, hits / instances
        return {"f1": 2 * precision * recall / (precision + recall) if hits else 0.0}

    return _records(result, lambda layer: dict(result.parts["semeval2007"].scores[layer]), together)


def pairs_in_context(encoder: Encoder, path: Path, log: Log) -> tuple[list[Record], dict[str, Any]]:
    """WiC by a threshold on the cosine: accuracy."""
    result = word_in_context(encoder, path, log=log)

    def chosen(layer: str) -> dict[str, float]:
        return {"accuracy": result.scores[layer]["threshold_accuracy"]}

    return _records(result, chosen, lambda layer: dict(result.scores[layer]))


def minimal_pairs(encoder: Encoder, path: Path, log: Log) -> tuple[list[Record], dict[str, Any]]:
    """BLiMP by the encoder's own language model, by way of scoring: accuracy."""
    result = blimp(encoder, path, log=log)
    records = [{"way": way, "seed": 0, "dev": {}, "test": dict(scores)} for way, scores in result.scores.items()]
    return records, result.json()


def _records(
    result: Result, dev: Callable[[str], Mapping[str, float]], test: Callable[[str], Mapping[str, float]]
) -> tuple[list[Record], dict[str, Any]]:
    names = {layer: layer if layer == "mean" else layer_name(int(layer)) for layer in result.scores}
    records = [
        {"way": way, "seed": 0, "dev": dict(dev(layer)), "test": dict(test(layer))} for layer, way in names.items()
    ]
    return records, result.json()
