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
from ctx_jax.evaluation.results import Result, Scores
from ctx_jax.evaluation.word_in_context import word_in_context
from ctx_jax.evaluation.word_senses import coarse_wsd
from ctx_jax.io.files import file_digest
from ctx_jax.tasks.probing.results import MOST_FREQUENT, Kind, layer_name
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

    def mean(key: str, scores: Callable[[Result], Scores], chosen: Sequence[str]) -> dict[str, float]:
        each = [scores(result.parts[word])[key] for word in chosen]
        return {metric: fmean(own[metric] for own in each) for metric in (each[0] if each else ())}

    def most_frequent(part: Result) -> Scores:
        return {key: {f"centroid_{name}": value for name, value in own.items()} for key, own in part.baselines.items()}

    halves = (words[1::2], words[::2]) if len(words) > 1 else ([], words)
    dev, test = ({layer: mean(layer, _scores, half) for layer in result.scores} for half in halves)
    chosen, others = (mean("most_frequent", most_frequent, half) for half in halves)
    return _records(result, dev, test, (chosen, others))


def all_words_senses(encoder: Encoder, path: Path, log: Log) -> tuple[list[Record], dict[str, Any]]:
    """SemCor to the framework's test sets by nearest centroid: F1."""
    result = all_words_wsd(encoder, path.parent, semcor=path, log=log)

    def together(key: str, scores: Callable[[Result], Scores]) -> dict[str, float]:
        hits = instances = answered = 0.0
        for name in ("senseval2", "senseval3"):
            own = result.parts[name]
            instances += own.counts["instances"]
            answered += own.counts["instances"] - own.counts["unanswered"]
            hits += scores(own)[key]["recall"] * own.counts["instances"]
        precision, recall = hits / answered if answered else 0.0, hits / instances
        return {"f1": 2 * precision * recall / (precision + recall) if hits else 0.0}

    chosen = result.parts["semeval2007"]
    without = chosen.baselines["most_frequent"], together("most_frequent", _baselines)
    return _records(result, chosen.scores, {layer: together(layer, _scores) for layer in result.scores}, without)


def pairs_in_context(encoder: Encoder, path: Path, log: Log) -> tuple[list[Record], dict[str, Any]]:
    """WiC by a threshold on the cosine: accuracy."""
    result = word_in_context(encoder, path, log=log)
    chosen = {layer: {"accuracy": own["threshold_accuracy"]} for layer, own in result.scores.items()}
    return _records(result, chosen, result.scores, ({}, result.baselines["most_frequent"]))


def minimal_pairs(encoder: Encoder, path: Path, log: Log) -> tuple[list[Record], dict[str, Any]]:
    """BLiMP by the encoder's own language model, by way of scoring: accuracy."""
    result = blimp(encoder, path, log=log)
    records = [{"way": way, "seed": 0, "dev": {}, "test": dict(scores)} for way, scores in result.scores.items()]
    return records, result.json()


def _scores(result: Result) -> Scores:
    return result.scores


def _baselines(result: Result) -> Scores:
    return result.baselines


def _records(
    result: Result, dev: Scores, test: Scores, most_frequent: tuple[Mapping[str, float], Mapping[str, float]]
) -> tuple[list[Record], dict[str, Any]]:
    """One record a layer, and one of the most frequent sense or answer: (on the data that choose, on the others)."""
    names = {layer: layer if layer == "mean" else layer_name(int(layer)) for layer in result.scores}
    scores = {way: (dev[layer], test[layer]) for layer, way in names.items()} | {MOST_FREQUENT: most_frequent}
    records = [{"way": way, "seed": 0, "dev": dict(own[0]), "test": dict(own[1])} for way, own in scores.items()]
    return records, result.json()
