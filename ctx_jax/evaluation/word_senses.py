"""Senses by the nearest vectors, without training: CoarseWSD-20 (Loureiro et al. 2021) at every layer.

Letters: L layers, N training sentences, M test sentences, D width.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from ctx_jax.data.sense_files import CoarseWord, SenseSentence, read_coarse_wsd
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.embedding.outputs import LayerChoice
from ctx_jax.evaluation.nearest_senses import by_frequency, nearest_centroid, nearest_neighbour
from ctx_jax.evaluation.results import Result
from ctx_jax.evaluation.sense_scores import Answers, coarse_scores
from ctx_jax.evaluation.target_vectors import LayerVectors, Targets
from ctx_jax.io.errors import InputError
from ctx_jax.typing import Log

_LOGGER = logging.getLogger("ctx_jax")

METHODS: dict[str, Callable[[np.ndarray, Sequence[str], np.ndarray], list[str]]] = {
    "centroid": nearest_centroid,
    "neighbour": nearest_neighbour,
}

_Answered = dict[str, dict[str, Answers]]  # by layer, by method


def coarse_wsd(
    encoder: Encoder,
    folder: str | Path,
    *,
    layers: LayerChoice = "all",
    words: Collection[str] | None = None,
    log: Log = _LOGGER.info,
) -> Result:
    """CoarseWSD-20: the sense of a word is that of the nearest centroid of its training vectors, or of the nearest one.

        result = coarse_wsd(encoder, "CoarseWSD-20", words=["bank", "spring"])
        result.scores["3"]["centroid_macro_recall"]         # layer 3; result.parts["bank"].scores of one word

    `folder` is the data set's, or a tar archive of it; `layers` as in `Encoder.encode`, and of several also their
    plain mean; `words`: only these. Scores begin with "centroid_" and "neighbour_", and are those of `coarse_scores`;
    of a word "accuracy" and "macro_recall". The baseline "most_frequent" answers the word's most frequent sense in
    training. Memory holds the vectors of one word's occurrences. `log` gets the progress. InputError
    for words that are not there.
    """
    data = read_coarse_wsd(folder)
    if missing := sorted({*(words or ())} - {word.word for word in data}):
        raise InputError(f"{folder} lacks the words {', '.join(missing)}")
    data = [word for word in data if words is None or word.word in words]
    read = LayerVectors(encoder, layers, log)
    total = sum(len(word.train) + len(word.test) for word in data)
    vectors = (each[0] for each in read(_targets(data), total))  # [L, D] each
    answered = {word.word: _answers(word, vectors, read.names) for word in data}
    baseline = {word.word: _most_frequent(word) for word in data}
    parts = {
        word.word: Result(
            {layer: _of_word(methods) for layer, methods in answered[word.word].items()},
            {"train": len(word.train), "test": len(word.test), "senses": len({*_senses(word.train)})},
            {"most_frequent": _of_word({"": baseline[word.word]})},
        )
        for word in data
    }
    counts = {name: sum(part.counts[name] for part in parts.values()) for name in ("train", "test", "senses")}
    scores = {layer: _of_all([own[layer] for own in answered.values()]) for layer in read.names}
    baselines = {"most_frequent": coarse_scores(list(baseline.values()))}
    return Result(scores, counts | {"words": len(data)}, baselines, parts)


def _targets(data: Sequence[CoarseWord]) -> Iterator[Targets]:
    for word in data:
        for sentence in (*word.train, *word.test):
            yield Targets(sentence.words, [(tag.start, tag.stop) for tag in sentence.tags])


def _answers(word: CoarseWord, vectors: Iterator[np.ndarray], names: Sequence[str]) -> _Answered:
    """The answers for one word, whose vectors come next."""
    train, test = (np.stack(list(islice(vectors, len(part)))) for part in (word.train, word.test))  # [N or M, L, D]
    senses, true = _senses(word.train), _senses(word.test)
    return {
        layer: {method: Answers(true, answer(train[:, i], senses, test[:, i])) for method, answer in METHODS.items()}
        for i, layer in enumerate(names)
    }


def _senses(sentences: Sequence[SenseSentence]) -> list[str]:
    return [sentence.tags[0].senses[0] for sentence in sentences]


def _most_frequent(word: CoarseWord) -> Answers:
    true = _senses(word.test)
    return Answers(true, by_frequency(_senses(word.train))[:1] * len(true))


def _of_word(methods: dict[str, Answers]) -> dict[str, float]:
    found: dict[str, float] = {}
    for method, answers in methods.items():
        scores = coarse_scores([answers])
        prefix = f"{method}_" if method else ""
        found |= {f"{prefix}{name}": scores[name] for name in ("accuracy", "macro_recall")}
    return found


def _of_all(words: Sequence[dict[str, Answers]]) -> dict[str, float]:
    by_method: dict[str, list[Answers]] = defaultdict(list)
    for own in words:
        for method, answers in own.items():
            by_method[method].append(answers)
    return {
        f"{method}_{name}": value
        for method, several in by_method.items()
        for name, value in coarse_scores(several).items()
    }
