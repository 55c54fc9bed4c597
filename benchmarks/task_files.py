"""The examples of the tasks that `tasks.py`, `task_parity.py` and `bag_of_words.py` train.

They are those of `ctx-jax probe`, and SNLI: some train, some choose, and some are measured once. Where a data set has
no third part, every tenth training example chooses.
"""

from collections.abc import Iterable
from pathlib import Path

from ctx_jax.data.labelled import Example, LabelledData
from ctx_jax.tasks.pairs import PairsConfig
from ctx_jax.tasks.probing import LabelProbe
from ctx_jax.tasks.probing.catalogue import named_probe

_CRF = ("--head.kind", "bilstm_crf", "--head.hidden", "100", "--head.char-filters", "50")
FLAGS = {
    "sst2": ("classify",),
    "cola": ("classify",),
    "stsb": ("pairs", "--style", "siamese", "--target", "number", "--compare", "cosine"),
    "snli": ("pairs", "--style", "cross"),
    "upos": ("tag",),
    "ner": ("tag", "--data.strip-prefix", "en:", "--scheme", "BIOES", *_CRF),
}
"""How `ctx-jax train` trains each task."""


def task(name: str, data: Path) -> LabelProbe:
    """A task by name."""
    if name != "snli":
        found = named_probe(name, data)
        assert isinstance(found, LabelProbe)
        return found
    # This part of SNLI has no training set: its development set trains.
    train, test = (str(data / "pairs" / "snli_part" / f"{part}.jsonl.xz") for part in ("dev", "test"))
    columns = "first=sentence1,second=sentence2,label=gold_label"
    config = PairsConfig(style="cross", data=LabelledData(train, columns=columns, no_label="-"))
    return LabelProbe(name, config, config.run_defaults()["optimizer"], test)


def read(name: str, data: Path, limit: int = 0) -> list[list[Example]]:
    """The examples that train, choose and are measured. `limit`, if not 0, is how many train, evenly spaced."""
    return [*task(name, data).read(limit, print).values()]


def paths(name: str, data: Path, folder: Path, limit: int = 0) -> tuple[list[str], str]:
    """The files of a task's three parts, and their columns. Those of texts and pairs are written below `folder`, with
    the `limit` of `read`; those of words are the data set's."""
    if FLAGS[name][0] == "tag":
        own = task(name, data)
        return [own.config.data.train, own.config.data.valid, own.measured], own.config.data.columns or "form,upos"
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for part, examples in zip(("train", "choose", "measure"), read(name, data, limit), strict=True):
        written.append(str(folder / f"{name}-{len(examples)}-{part}.tsv"))
        _write(Path(written[-1]), examples)
    return written, "first,second,label" if FLAGS[name][0] == "pairs" else "text,label"


def _write(path: Path, examples: Iterable[Example]) -> None:
    """One example a line, its label last."""
    rows = [[each.item] if isinstance(each.item, str) else [*each.item] for each in examples]
    lines = ["\t".join([*row, str(each.label)]) + "\n" for row, each in zip(rows, examples, strict=True)]
    path.write_text("".join(lines))
