"""WiC (Pilehvar and Camacho-Collados 2019) by a threshold on the cosine, at every layer.

Letters: N pairs, L layers, D width.
"""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ctx_jax.data.context_pairs import ContextPair, read_wic
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.embedding.outputs import LayerChoice
from ctx_jax.evaluation.inflection import find_word
from ctx_jax.evaluation.nearest_senses import cosine
from ctx_jax.evaluation.results import Result
from ctx_jax.evaluation.sense_scores import wilson_interval
from ctx_jax.evaluation.target_vectors import LayerVectors, Targets
from ctx_jax.io.errors import InputError
from ctx_jax.typing import Log

_LOGGER = logging.getLogger("ctx_jax")

_ROUNDING = 1e-9
"""Cosines of equal vectors, in float64, differ by less. The layers of some encoders have all cosines within 1e-4."""


class _Places(NamedTuple):
    """Where the word stands in both sentences."""

    first: int
    second: int


def word_in_context(
    encoder: Encoder, path: str | Path, *, layers: LayerChoice = "all", seed: int = 0, log: Log = _LOGGER.info
) -> Result:
    """WiC: a word has the same sense in two sentences if the cosine of its vectors there is above a threshold.

        result = word_in_context(encoder, "wic_part_5228.jsonl.xz")
        result.scores["3"]                          # {"accuracy", "low", "high", "threshold", "threshold_accuracy"}

    A random half of the pairs (by `seed`) chooses each layer's threshold, by its "threshold_accuracy"; "accuracy" is of
    the other half, with Wilson's 95 % interval from "low" to "high". Where the files do not tell the word's places, it
    is looked for in all its inflections, and the first place counts. A pair in which it is not found ("not_found" of
    both halves, "test_not_found" of the second) chooses no threshold and counts as wrong. The baseline "most_frequent"
    answers the first half's most frequent label.

    `path`: files in a published form (`data.context_pairs.read_wic`), all pairs together; `layers` as in
    `Encoder.encode`, and of several also their plain mean; `log` gets the progress. Raises InputError for fewer than
    two pairs, and if the first half has none in which the word is found.
    """
    pairs = read_wic(path)
    if len(pairs) < 2:
        raise InputError(f"{path} has {len(pairs)} pairs; half of them choose the threshold, so it takes two or more")
    places = [_places(pair) for pair in pairs]
    read = LayerVectors(encoder, layers, log)
    cosines = _cosines(read, pairs, places)  # [N, L], nan where the word is not found
    same = np.array([pair.same for pair in pairs])
    order = np.random.default_rng(seed).permutation(len(pairs))
    chosen, tested = order[: len(pairs) // 2], order[len(pairs) // 2 :]
    usable = chosen[~np.isnan(cosines[chosen, 0])]
    if not len(usable):
        raise InputError(f"{path}: no pair of the half that chooses the threshold has its word in both sentences")
    scores = {}
    for layer, name in enumerate(read.names):
        threshold, own = best_threshold(cosines[usable, layer], same[usable])
        found = ~np.isnan(cosines[tested, layer])
        hits = int(np.sum(found & ((cosines[tested, layer] > threshold) == same[tested])))
        scores[name] = _scores(hits, len(tested)) | {"threshold": threshold, "threshold_accuracy": own}
    missing = np.array([place is None for place in places])
    counts = {
        "pairs": len(pairs),
        "test_pairs": len(tested),
        "not_found": int(missing.sum()),
        "test_not_found": int(missing[tested].sum()),
    }
    majority = bool(2 * same[chosen].sum() >= len(chosen))
    return Result(scores, counts, {"most_frequent": _scores(int(np.sum(same[tested] == majority)), len(tested))})


def best_threshold(cosines: np.ndarray, same: np.ndarray) -> tuple[float, float]:
    """(threshold, accuracy) with the most pairs on the right side: above it if and only if `same`, bool [N].

    Thresholds lie midway between neighbouring cosines [N] that differ by more than rounding, or beside them all;
    of equally good ones the middle one.
    """
    order = np.argsort(cosines, kind="stable")
    ranked, positive = cosines[order], same[order].astype(np.int64)
    # Below the i-th threshold lie i cosines: right are those that differ, and the ones above that are the same.
    right = np.concatenate([[0], np.cumsum(1 - positive)]) + positive.sum() - np.concatenate([[0], np.cumsum(positive)])
    between = np.concatenate([[-math.inf], ranked, [math.inf]])
    allowed = np.flatnonzero(between[1:] > between[:-1] + _ROUNDING)
    best = allowed[right[allowed] == right[allowed].max()]
    cut = int(best[len(best) // 2])
    if 0 < cut < len(ranked):
        threshold = (ranked[cut - 1] + ranked[cut]) / 2
    else:
        threshold = ranked[0] - 1 if cut == 0 else ranked[-1] + 1
    return float(threshold), float(right[cut] / len(ranked))


def _places(pair: ContextPair) -> _Places | None:
    if pair.places is not None:
        return _Places(*pair.places)
    first, second = (find_word(pair.word, sentence) for sentence in (pair.first, pair.second))
    return None if first is None or second is None else _Places(first, second)


def _cosines(read: LayerVectors, pairs: Sequence[ContextPair], places: Sequence[_Places | None]) -> np.ndarray:
    """[N, L] of each pair at each layer; nan where the word is not found."""
    found = np.full((len(pairs), len(read.names)), np.nan)
    usable = [number for number, place in enumerate(places) if place is not None]
    spans = (
        Targets(sentence, [(place, place + 1)])
        for number in usable
        for sentence, place in zip((pairs[number].first, pairs[number].second), places[number] or (), strict=True)
    )
    vectors = iter(read(spans, 2 * len(usable)))
    for number in usable:
        first, second = next(vectors)[0], next(vectors)[0]  # [L, D]
        found[number] = cosine(first, second)
    return found


def _scores(hits: int, count: int) -> dict[str, float]:
    low, high = wilson_interval(hits, count)
    return {"accuracy": hits / count, "low": low, "high": high}
