"""The examples of the tasks that `tasks.py`, `task_parity.py` and `bag_of_words.py` train.

Each task has examples that train, that choose, and that are measured once. Where a data set has no third part, every
tenth training example chooses, as in `ctx-jax probe`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ctx_jax.data.labelled import Columns, Example, read_texts
from ctx_jax.data.labelled_pairs import read_text_pairs

PARTS = ("train", "choose", "measure")
EVERY = 10  # the training example that chooses
_CRF = ("--head.kind", "bilstm_crf", "--head.hidden", "100", "--head.char-filters", "50")
_COSINE = ("--style", "siamese", "--target", "number", "--compare", "cosine")


@dataclass(frozen=True)
class Task:
    """Where a task's examples are, and how `ctx-jax train` trains it."""

    command: str  # classify, pairs or tag
    metric: str
    files: tuple[str, ...]
    columns: str = "text,label"
    flags: tuple[str, ...] = ()


TASKS = {
    "sst2": Task("classify", "accuracy", tuple(f"cls/sst2/{part}.tsv.xz" for part in ("train", "dev", "test"))),
    "cola": Task("classify", "matthews", tuple(f"cls/cola/{part}.tsv.xz" for part in ("train", "dev"))),
    "stsb": Task(
        "pairs",
        "spearman",
        tuple(f"pairs/stsb/en-{part}.csv.xz" for part in ("train", "dev")),
        "first,second,label",
        _COSINE,
    ),
    # This part of SNLI has no training set: its development set trains.
    "snli": Task(
        "pairs",
        "accuracy",
        tuple(f"pairs/snli_part/{part}.jsonl.xz" for part in ("dev", "test")),
        "first=sentence1,second=sentence2,label=gold_label",
        ("--style", "cross"),
    ),
    "upos": Task(
        "tag", "accuracy", tuple(f"pos/en_ewt/{part}.conllu.xz" for part in ("train", "dev", "test")), "form,upos"
    ),
    "ner": Task(
        "tag",
        "f1",
        tuple(f"ner/wikiann/en/{part}.xz" for part in ("train", "dev", "test")),
        "form,ner",
        ("--data.strip-prefix", "en:", "--scheme", "BIOES", *_CRF),
    ),
}


def read(name: str, data: Path) -> tuple[list[Example], list[Example], list[Example]]:
    """The examples of a task of texts or pairs: those that train, choose and are measured."""
    task, found = TASKS[name], []
    for file in task.files:
        if task.command == "pairs":
            pairs = read_text_pairs(str(data / file), Columns.parse(task.columns, "first", "second"))
            found.append([each for each in pairs if each.label != "-"])  # SNLI's pairs without an agreed label
        else:
            found.append(list(read_texts(str(data / file), Columns.parse(task.columns, "text"))))
    if len(found) == 2:
        train, measured = found
        kept = [each for number, each in enumerate(train) if number % EVERY != EVERY - 1]
        found = [kept, train[EVERY - 1 :: EVERY], measured]
    return found[0], found[1], found[2]


def paths(name: str, data: Path, folder: Path, limit: int = 0) -> tuple[list[str], str]:
    """The files of a task's three parts, and their columns. Those of texts and pairs are written below `folder`;
    `limit`, if not 0, is how many of their training examples are kept, evenly spaced."""
    task = TASKS[name]
    if task.command == "tag":
        return [str(data / file) for file in task.files], task.columns
    train, choose, measured = read(name, data)
    if limit and limit < len(train):
        train = [train[number * len(train) // limit] for number in range(limit)]
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for part, examples in zip(PARTS, (train, choose, measured), strict=True):
        written.append(str(folder / f"{name}-{len(examples)}-{part}.tsv"))
        _write(Path(written[-1]), examples)
    return written, "first,second,label" if task.command == "pairs" else task.columns


def _write(path: Path, examples: Iterable[Example]) -> None:
    """One example a line, its label last."""
    rows = [[each.item] if isinstance(each.item, str) else [*each.item] for each in examples]
    lines = ["\t".join([*row, str(each.label)]) + "\n" for row, each in zip(rows, examples, strict=True)]
    path.write_text("".join(lines))
