"""What a text may have in place of one label: several labels, a number, or another text that belongs to it.

Letters: N examples, K labels.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from ctx_jax.data.labelled import Example
from ctx_jax.evaluation.correlation import pearson, spearman
from ctx_jax.evaluation.label_scores import several_scores
from ctx_jax.io.errors import InputError

Target = Literal["classes", "several", "number", "ranking"]
"""What is predicted: one of several labels, several at once, a number, or which second text belongs to a first one."""

METRICS: dict[Target, tuple[str, ...]] = {
    "classes": ("accuracy", "f1", "matthews", "loss"),
    "several": ("f1", "micro_f1", "accuracy", "loss"),
    "number": ("pearson", "spearman", "loss"),
    "ranking": ("mrr", "recall_at_1", "loss"),
}
"""The metrics of each target; the first one chooses the best step where the settings name none."""

NUMBER = ("number",)
"""The names of the scores of a number."""
_CHOSEN = math.log(0.5)  # the log probability from which on a text has a label


def split_labels(example: Example, separator: str) -> Example:
    """With the list of its labels in place of the text that holds them."""
    if not isinstance(example.label, str):
        return example
    return example._replace(label=labels_in(example.label, separator))


def labels_in(text: str, separator: str) -> list[str]:
    """The labels that a text holds, sorted."""
    return sorted({label.strip() for label in text.split(separator)} - {""})


def checked_number(example: Example) -> Example:
    """The example; InputError naming its line if its label is no finite number."""
    if not is_number(str(example.label)):
        raise InputError(f"{example.location}: the label must be a number, got {str(example.label)[:80]!r}")
    return example


def is_number(text: str) -> bool:
    """Whether it is a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def value_arrays(examples: Sequence[Example], target: Target, names: Sequence[str]) -> Iterator[np.ndarray]:
    """The array of each example's label, with a leading axis of 1:

    several   float32 [1, K], 1.0 at its labels, of which those without a name are left out
    number    float32 [1]
    ranking   int32 [1, 2], the numbers of its two texts, by the order in which texts first occur
    """
    texts: dict[str, int] = {}
    for example in examples:
        match target:
            case "several":
                yield np.array([[name in example.labels for name in names]], np.float32)
            case "number":
                yield np.array([float(str(example.label))], np.float32)
            case _:
                yield np.array([[texts.setdefault(text, len(texts)) for text in example.item]], np.int32)


def value_metrics(
    target: Target,
    names: Sequence[str],
    examples: Sequence[Example],
    values: np.ndarray,
    outputs: np.ndarray,
) -> dict[str, float]:
    """The metrics of N examples with several labels or a number: `values` are their `value_arrays` [N, ...], `outputs`
    those of the network [N, K].

    Labels that training has not seen count as missed, and are left out of the loss.
    """
    if target == "several":
        loss = -np.where(values > 0, outputs, _log_of_rest(outputs)).mean(dtype=np.float64)
        found = [chosen_labels(names, row) for row in outputs]
        return {"loss": float(loss), **several_scores([example.labels for example in examples], found)}
    numbers, gold = outputs[:, 0].astype(np.float64), values.astype(np.float64)
    correlations = (pearson(numbers, gold), spearman(numbers, gold)) if len(gold) > 1 else (math.nan, math.nan)
    error = float(np.mean(np.square(numbers - gold)))
    return {"loss": error, "pearson": correlations[0], "spearman": correlations[1]}


def _log_of_rest(logs: np.ndarray) -> np.ndarray:
    """log(1 - p) of log(p)."""
    return np.log(-np.expm1(np.minimum(logs, -1e-38, dtype=np.float64)))


def chosen_labels(names: Sequence[str], logs: np.ndarray) -> list[str]:
    """The labels [K] of a probability of one half or more."""
    return [name for name, log in zip(names, logs, strict=True) if log >= _CHOSEN]


def text_answer(target: Target, names: Sequence[str], output: np.ndarray) -> dict[str, Any]:
    """The prediction of a text, or of a pair, as JSON:

    classes   {"label": ..., "probabilities": {label: p}}
    several   {"labels": [...], "probabilities": {label: p}}
    number    {"number": ...}
    """
    if target == "number":
        return {"number": float(output[0])}
    probabilities = dict(zip(names, np.exp(output, dtype=np.float64).tolist(), strict=True))
    if target == "several":
        return {"labels": chosen_labels(names, output), "probabilities": probabilities}
    return {"label": names[int(output.argmax())], "probabilities": probabilities}
