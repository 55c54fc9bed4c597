"""Scores of predicted labels: accuracy, macro F1, and the F1 of spans in labels of BIO or BIOES."""

from collections import Counter
from collections.abc import Sequence

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


def span_f1(true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> float:
    """F1 of the spans of sentences (Tjong Kim Sang and Buchholz 2000): a span is right if its type, its first and its
    last word are; 0 if no span is right."""
    hits = count = 0
    for a, b in zip(true, predicted, strict=True):
        wanted, given = spans(a), spans(b)
        hits += len({*wanted} & {*given})
        count += len(wanted) + len(given)
    return 2 * hits / count if count else 0.0
