"""What needs no encoder in the tasks of `docs/results.md`.

    python benchmarks/bag_of_words.py --data ../shared/data

Word and word-pair counts and a linear model for texts and pairs, whose regularisation is chosen by the examples that
choose (`task_files.py`). STS-B has the cosine of both texts' counts beside it, which is not trained. For UPOS the most
frequent tag of each word, and of all for words that training has not seen. Needs scikit-learn and scipy.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import task_files
import tyro
from scipy import sparse, stats
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, matthews_corrcoef

from ctx_jax.data.columns import Columns
from ctx_jax.data.labelled import Example, read_sentences

STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


@dataclass(frozen=True)
class Options:
    """What is measured."""

    data: Path
    """The folder of the data sets."""


def spearman(gold: Any, found: Any) -> float:
    """Spearman's correlation."""
    return float(stats.spearmanr(gold, found).statistic)


METRICS: dict[str, Callable[[Any, Any], float]] = {
    "accuracy": accuracy_score,
    "matthews": matthews_corrcoef,
    "spearman": spearman,
}


def features(fitted: TfidfVectorizer, examples: Sequence[Example]) -> Any:
    """Counts of a text; of a pair those of both, of what they share and of their difference, and the cosine."""
    if isinstance(examples[0].item, str):
        return fitted.transform([each.item for each in examples])
    first, second = (fitted.transform([each.item[side] for each in examples]) for side in (0, 1))
    cosines = sparse.csr_matrix(first.multiply(second).sum(axis=1))
    return sparse.hstack([first, second, first.multiply(second), abs(first - second), cosines]).tocsr()


def measure(metric: str, parts: Sequence[list[Example]]) -> tuple[float, float]:
    """(the strength that was chosen, the metric on the examples that are measured)."""
    fitted = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+", lowercase=True)
    texts = [each.item for each in parts[0]]
    fitted.fit([text for item in texts for text in ([item] if isinstance(item, str) else item)])
    number, score = metric == "spearman", METRICS[metric]
    known = [(features(fitted, part), [each.label for each in part]) for part in parts]
    (x, y), choose, test = [(x, np.array(y, float) if number else np.array(y)) for x, y in known]
    models = {
        strength: (Ridge(1 / strength) if number else LogisticRegression(C=strength, max_iter=2_000)).fit(x, y)
        for strength in STRENGTHS
    }
    best = max(STRENGTHS, key=lambda strength: score(choose[1], models[strength].predict(choose[0])))
    return best, score(test[1], models[best].predict(test[0]))


def most_frequent_tags(data: Path) -> float:
    """The accuracy of each word's most frequent tag."""
    (train, _, test), columns = task_files.paths("upos", data, Path())
    tags: dict[str, Counter] = defaultdict(Counter)
    for sentence in read_sentences(train, Columns.parse(columns, "form")):
        for word, tag in zip(sentence.item, sentence.label or (), strict=True):
            tags[word][tag] += 1
    most = sum(tags.values(), Counter()).most_common(1)[0][0]
    right = [
        (tags[word].most_common(1)[0][0] if word in tags else most) == tag
        for sentence in read_sentences(test, Columns.parse(columns, "form"))
        for word, tag in zip(sentence.item, sentence.label or (), strict=True)
    ]
    return sum(right) / len(right)


def main(options: Options) -> None:
    """Print one line a task."""
    for name in ("sst2", "cola", "stsb", "snli"):
        parts, metric = task_files.read(name, options.data), task_files.task(name, options.data).metric
        best, found = measure(metric, parts)
        print(
            f"{name}, {metric}: {100 * found:.2f} (strength {best:g}; {len(parts[0]):,} train, {len(parts[2]):,} test)"
        )
        if metric == "spearman":
            fitted = TfidfVectorizer(token_pattern=r"\S+").fit([text for each in parts[0] for text in each.item])
            first, second = (fitted.transform([each.item[side] for each in parts[2]]) for side in (0, 1))
            cosines = np.asarray(first.multiply(second).sum(axis=1)).ravel()
            print(f"  cosine of counts alone: {100 * spearman([float(e.label) for e in parts[2]], cosines):.2f}")
    print(f"upos, accuracy: {100 * most_frequent_tags(options.data):.2f} by each word's most frequent tag")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
