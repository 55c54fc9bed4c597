"""What a bag of words reaches in the tasks of `docs/results.md`: word and word-pair counts and a linear model.

    python benchmarks/bag_of_words.py --data ../shared/data

Regularisation is chosen where `ctx-jax probe` chooses: on the development set, or, where this is what is measured, on
every tenth training example. STS-B has the cosine of both texts' counts beside it,
which is not trained. Needs scikit-learn and scipy.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro
from scipy import sparse, stats
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, matthews_corrcoef

from ctx_jax.data.labelled import Columns, Example, read_texts
from ctx_jax.data.labelled_pairs import read_text_pairs

STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
EVERY = 10  # the training example that is held out to choose

Metric = Callable[[Any, Any], float]


@dataclass(frozen=True)
class Options:
    """What is measured."""

    data: Path
    """A folder with `cls/sst2`, `cls/cola`, `pairs/stsb` and `pairs/snli_part`."""


class Task(NamedTuple):
    """Examples that train, choose and are measured."""

    name: str
    metric: Metric
    train: list[Example]
    choose: list[Example]
    test: list[Example]


def spearman(gold: Any, found: Any) -> float:
    """Spearman's correlation."""
    return float(stats.spearmanr(gold, found).statistic)


def held_out(examples: list[Example]) -> tuple[list[Example], list[Example]]:
    """Training examples without, and only, every tenth."""
    kept = [each for number, each in enumerate(examples) if number % EVERY != EVERY - 1]
    return kept, examples[EVERY - 1 :: EVERY]


def tasks(data: Path) -> Iterator[Task]:
    """All tasks; SNLI's part has no training set, so its development set trains."""

    def texts(path: str) -> list[Example]:
        return list(read_texts(str(data / path), Columns.parse("text,label", "text")))

    def pairs(path: str, columns: str) -> list[Example]:
        found = read_text_pairs(str(data / path), Columns.parse(columns, "first", "second"))
        return [each for each in found if each.label != "-"]

    sst2 = [texts(f"cls/sst2/{name}.tsv.xz") for name in ("train", "dev", "test")]
    yield Task("SST-2, accuracy, test", accuracy_score, *sst2)
    yield Task(
        "CoLA, Matthews correlation, dev",
        matthews_corrcoef,
        *held_out(texts("cls/cola/train.tsv.xz")),
        texts("cls/cola/dev.tsv.xz"),
    )
    stsb = [pairs(f"pairs/stsb/en-{name}.csv.xz", "first,second,label") for name in ("train", "dev")]
    yield Task("STS-B, Spearman's correlation, dev", spearman, *held_out(stsb[0]), stsb[1])
    named = "first=sentence1,second=sentence2,label=gold_label"
    snli = [pairs(f"pairs/snli_part/{name}.jsonl.xz", named) for name in ("dev", "test")]
    yield Task("SNLI part, accuracy, test", accuracy_score, *held_out(snli[0]), snli[1])


def features(fitted: TfidfVectorizer, examples: Sequence[Example]) -> Any:
    """Counts of a text; of a pair those of both, of what they share and of their difference, and the cosine."""
    if isinstance(examples[0].item, str):
        return fitted.transform([each.item for each in examples])
    first, second = (fitted.transform([each.item[side] for each in examples]) for side in (0, 1))
    cosines = sparse.csr_matrix(first.multiply(second).sum(axis=1))
    return sparse.hstack([first, second, first.multiply(second), abs(first - second), cosines]).tocsr()


def measure(task: Task) -> tuple[float, float]:
    """(the strength that was chosen, the metric on the test examples)."""
    fitted = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+", lowercase=True)
    texts = [each.item for each in task.train]
    fitted.fit([text for item in texts for text in ([item] if isinstance(item, str) else item)])
    number = task.metric is spearman
    parts = [(features(fitted, part), [each.label for each in part]) for part in task[2:]]
    (x, y), choose, test = [(x, np.array(y, float) if number else np.array(y)) for x, y in parts]
    models = {
        strength: (Ridge(1 / strength) if number else LogisticRegression(C=strength, max_iter=2_000)).fit(x, y)
        for strength in STRENGTHS
    }
    best = max(STRENGTHS, key=lambda strength: task.metric(choose[1], models[strength].predict(choose[0])))
    return best, task.metric(test[1], models[best].predict(test[0]))


def main(options: Options) -> None:
    """Print one line a task."""
    for task in tasks(options.data):
        best, found = measure(task)
        print(f"{task.name}: {100 * found:.2f} (strength {best:g}; {len(task.train):,} train, {len(task.test):,} test)")
        if task.metric is spearman:
            fitted = TfidfVectorizer(token_pattern=r"\S+").fit([text for each in task.train for text in each.item])
            first, second = (fitted.transform([each.item[side] for each in task.test]) for side in (0, 1))
            cosines = np.asarray(first.multiply(second).sum(axis=1)).ravel()
            print(f"  cosine of counts alone: {100 * spearman([float(e.label) for e in task.test], cosines):.2f}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
