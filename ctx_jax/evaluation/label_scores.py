"""Scores of predicted labels: accuracy, macro F1, Matthews correlation, F1 of spans in labels of BIO or BIOES."""

import math
from collections import Counter
from collections.abc import Collection, Sequence

from ctx_jax.data.span_labels import spans


def accuracy(true: Sequence[str], predicted: Sequence[str]) -> float:
    """The share of labels that are right; nan for none."""
    hits = sum(a == b for a, b in zip(true, predicted, strict=True))
    return hits / len(true) if true else float("nan")


def macro_f1(true: Sequence[str], predicted: Sequence[str]) -> float:
    """The mean over labels, all that occur on either side, of F1 = 2 hits / (true + predicted); nan for none."""
    hits = Counter(a for a, b in zip(true, predicted, strict=True) if a == b)
    counts = Counter(true) + Counter(predicted)
    return sum(2 * hits[label] / counts[label] for label in counts) / len(counts) if counts else float("nan")


def matthews(true: Sequence[str], predicted: Sequence[str]) -> float:
    """Matthews correlation, of any number of labels (R_K of Gorodkin 2004): the correlation of the indicators of the
    labels. 0 if one side has a single label, as scikit-learn has it; nan for none."""
    if not true:
        return float("nan")
    hits, count = sum(a == b for a, b in zip(true, predicted, strict=True)), len(true)
    wanted, given = Counter(true), Counter(predicted)

    def spread(one: Counter[str], other: Counter[str]) -> int:
        return count**2 - sum(one[label] * other[label] for label in one)

    scale = math.sqrt(spread(wanted, wanted) * spread(given, given))
    return (hits * count - sum(wanted[label] * given[label] for label in wanted)) / scale if scale else 0.0


def several_scores(true: Sequence[Collection[str]], predicted: Sequence[Collection[str]]) -> dict[str, float]:
    """Scores of several labels at once: accuracy (the share of examples with exactly the right ones), f1 (the mean over
    labels, all that occur on either side) and micro_f1 (of all labels together); nan for none."""
    if not true:
        return dict.fromkeys(("accuracy", "f1", "micro_f1"), float("nan"))
    sets = [({*a}, {*b}) for a, b in zip(true, predicted, strict=True)]
    hits = Counter(label for a, b in sets for label in a & b)
    counts = Counter(label for pair in sets for side in pair for label in side)
    return {
        "accuracy": sum(a == b for a, b in sets) / len(sets),
        "f1": sum(2 * hits[label] / counts[label] for label in counts) / len(counts) if counts else float("nan"),
        "micro_f1": 2 * hits.total() / counts.total() if counts else float("nan"),
    }


def span_f1(true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> float:
    """F1 of the spans of sentences (Tjong Kim Sang and Buchholz 2000): a span is right if its type, its first and its
    last word are; 0 if no span is right."""
    hits = count = 0
    for a, b in zip(true, predicted, strict=True):
        wanted, given = spans(a), spans(b)
        hits += len({*wanted} & {*given})
        count += len(wanted) + len(given)
    return 2 * hits / count if count else 0.0
