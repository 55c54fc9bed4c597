"""Scores of answered senses: accuracy with and without the bias to large words and senses, and F1 of the framework."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ctx_jax.evaluation.label_scores import accuracy


class Answers(NamedTuple):
    """True senses and those that were answered, of the occurrences of one word."""

    true: Sequence[str]
    given: Sequence[str]


def macro_recall(true: Sequence[str], given: Sequence[str]) -> float:
    """The mean over the true senses of the share that is right; nan for none."""
    counts, hits = Counter(true), Counter(a for a, b in zip(true, given, strict=True) if a == b)
    return sum(hits[sense] / count for sense, count in counts.items()) / len(counts) if counts else math.nan


def coarse_scores(words: Sequence[Answers]) -> dict[str, float]:
    """Of all words: "accuracy", pooled over occurrences, which frequent words and senses decide; "word_accuracy", the
    mean over words of their accuracy; "macro_recall", the mean over words of their `macro_recall`."""
    true, given = ([sense for word in words for sense in word[side]] for side in (0, 1))
    return {
        "accuracy": accuracy(true, given),
        "word_accuracy": sum(accuracy(*word) for word in words) / len(words) if words else math.nan,
        "macro_recall": sum(macro_recall(*word) for word in words) / len(words) if words else math.nan,
    }


def framework_scores(gold: Mapping[str, Sequence[str]], answers: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Precision, recall and F1 as the scorer of Raganato et al. (2017) counts them.

    An instance counts the share of its answers that are among its gold senses. Precision divides by the instances that
    were answered, recall by all of `gold`; 0 where nothing was.
    """
    hits = answered = 0.0
    for instance, senses in gold.items():
        if own := answers.get(instance):
            answered += 1
            hits += sum(sense in senses for sense in own) / len(own)
    precision, recall = hits / answered if answered else 0.0, hits / len(gold) if gold else 0.0
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return {"f1": f1, "precision": precision, "recall": recall}


def wilson_interval(hits: int, count: int, deviations: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's score interval of a proportion (1927), by default at 95 %; (nan, nan) for none."""
    if not count:
        return math.nan, math.nan
    share, square = hits / count, deviations**2 / count
    centre = (share + square / 2) / (1 + square)
    half = deviations * math.sqrt(share * (1 - share) / count + square / (4 * count)) / (1 + square)
    return max(0.0, centre - half), min(1.0, centre + half)
