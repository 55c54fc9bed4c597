"""Scores of predicted labels: accuracy, macro F1, Matthews correlation, and the F1 of spans in BIO labels."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

Span = tuple[str, int, int]  # type, first word, word after the last


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


def is_bio(labels: Iterable[str]) -> bool:
    """Whether labels mark spans: each is "O", "B-type" or "I-type", and not all are "O"."""
    marks = {*labels} - {"O"}
    return bool(marks) and all(label[:2] in ("B-", "I-") and len(label) > 2 for label in marks)


def spans(labels: Sequence[str]) -> list[Span]:
    """The spans of one sentence's labels, as conlleval counts: I- begins one too, after O or another type.

    >>> spans(["B-LOC", "I-LOC", "O", "I-PER", "B-PER"])
    [('LOC', 0, 2), ('PER', 3, 4), ('PER', 4, 5)]
    """
    found: list[Span] = []
    start, kind = 0, ""
    for place, label in enumerate([*labels, "O"]):
        mark, _, own = label.partition("-")
        if kind and (mark != "I" or own != kind):
            found.append((kind, start, place))
            kind = ""
        if mark in ("B", "I") and not kind:
            start, kind = place, own
    return found


def span_f1(true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> float:
    """F1 of the spans of sentences (Tjong Kim Sang and Buchholz 2000): a span is right if its type, its first and its
    last word are; 0 if no span is right."""
    hits = count = 0
    for a, b in zip(true, predicted, strict=True):
        wanted, given = spans(a), spans(b)
        hits += len({*wanted} & {*given})
        count += len(wanted) + len(given)
    return 2 * hits / count if count else 0.0
