"""The tasks that a probe knows by name, and the files of each below the data folder."""

import difflib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ctx_jax.data.labelled import LabelledData
from ctx_jax.data.sense_files import FRAMEWORK_DATA, FRAMEWORK_GOLD
from ctx_jax.evaluation.all_words_senses import TEST_SETS
from ctx_jax.io.errors import ConfigError, MissingSettingFileError
from ctx_jax.tasks.classify import ClassifyConfig
from ctx_jax.tasks.label_config import LabelConfig
from ctx_jax.tasks.label_options import LabelEvaluate
from ctx_jax.tasks.pairs import PairsConfig
from ctx_jax.tasks.probing.label_probes import LabelProbe
from ctx_jax.tasks.probing.results import Kind
from ctx_jax.tasks.probing.untrained import (
    UntrainedProbe,
    all_words_senses,
    coarse_senses,
    minimal_pairs,
    pairs_in_context,
)
from ctx_jax.tasks.tag import TagConfig
from ctx_jax.tasks.tag_head import HeadKind, TagHead

_WSD = tuple(f"wsd/{name}{part}" for name in TEST_SETS for part in (FRAMEWORK_DATA, FRAMEWORK_GOLD))
FILES: dict[str, tuple[tuple[str, ...], ...]] = {
    "upos": (("pos/en_ewt/train.conllu", "pos/en_ewt/dev.conllu", "pos/en_ewt/test.conllu"),),
    "ner": (("ner/wikiann/en/train", "ner/wikiann/en/dev", "ner/wikiann/en/test"),),
    "sst2": (("cls/sst2/train.tsv", "cls/sst2/dev.tsv", "cls/sst2/test.tsv"),),
    "cola": (("cls/cola/train.tsv", "cls/cola/dev.tsv"),),
    "stsb": (("pairs/stsb/en-train.csv", "pairs/stsb/en-dev.csv"),),
    "coarsewsd": (("wsd/coarsewsd20.tar",), ("wsd/coarsewsd20_part.tar",)),
    "wsd": (
        ("wsd/semcor3.0.tar", *_WSD),
        (f"wsd/semcor{FRAMEWORK_DATA}", f"wsd/semcor{FRAMEWORK_GOLD}", *_WSD),
    ),
    "wic": (("wsd/wic.jsonl",), ("wsd/wic.tar",), ("wsd/wic_part_5228.jsonl",)),
    "blimp": (("blimp/blimp.tar",), ("blimp/blimp_part.tar",)),
}
"""Below the data folder, each plain or with .xz or .gz behind its name; of several choices the first one whose files
are all there. Of tasks with labels the training file comes first, then what chooses, if there is one, then what the
scores are of."""
NAMES = tuple(FILES)
_SUFFIXES = (".xz", "", ".gz")

Probe = LabelProbe | UntrainedProbe
_LABELS: dict[str, tuple[Kind, Callable[[], LabelConfig]]] = {
    "upos": ("syntax", TagConfig),
    "ner": (
        "other",
        lambda: TagConfig(
            data=LabelledData(columns="form,ner", strip_prefix="en:"),
            scheme="BIO",  # a CRF needs legal labels
            evaluate=LabelEvaluate(metric="f1"),
        ),
    ),
    "sst2": ("other", ClassifyConfig),
    "cola": ("other", lambda: ClassifyConfig(evaluate=LabelEvaluate(metric="matthews"))),
    "stsb": (
        "other",
        lambda: PairsConfig(
            style="siamese", target="number", compare="cosine", evaluate=LabelEvaluate(metric="spearman")
        ),
    ),
}
_UNTRAINED: dict[str, dict[str, Any]] = {
    "coarsewsd": {
        "kind": "senses",
        "metric": "centroid_macro_recall",
        "chosen_on": "every second word",
        "measured_on": "the other words",
        "measure": coarse_senses,
    },
    "wsd": {
        "kind": "senses",
        "metric": "f1",
        "chosen_on": "SemEval-2007",
        "measured_on": "Senseval-2 and -3",
        "measure": all_words_senses,
    },
    "wic": {
        "kind": "senses",
        "metric": "accuracy",
        "chosen_on": "half of the pairs",
        "measured_on": "the other half",
        "measure": pairs_in_context,
    },
    "blimp": {
        "kind": "syntax",
        "metric": "accuracy",
        "chosen_on": "nothing",
        "measured_on": "all pairs",
        "measure": minimal_pairs,
        "has_layers": False,
    },
}


def named_probe(name: str, data: str | Path | None, *, head: HeadKind = "linear", epochs: int = 0) -> Probe:
    """The task of a name, with its files below `data`.

    `head` is that of ner (`TagHead.kind`); `epochs`: 0 for 20. ConfigError for an unknown name, with the nearest one,
    and without `data`; MissingSettingFileError for a file that is not there.
    """
    if name not in FILES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(
            "task",
            f"{name!r} is unknown: {hint}There are {', '.join(NAMES)}, and your own as a configuration file (.py) of "
            "classify, tag or pairs",
        )
    if data is None:
        raise ConfigError("data", f"is needed for {name}: the folder that holds {FILES[name][0][0]}")
    paths = _found(name, Path(data))
    if name not in _LABELS:
        return UntrainedProbe(name, files=tuple(paths), **_UNTRAINED[name])
    kind, make = _LABELS[name]
    config: Any = make()
    train, *valid, test = map(str, paths)
    settings: dict[str, Any] = {"data": replace(config.data, train=train, valid=valid[0] if valid else "")}
    if name == "ner":
        settings["head"] = TagHead(head)
    # Every head takes all its epochs: Matthews correlation may be 0 for the first ones.
    settings["evaluate"] = replace(config.evaluate, patience=0)
    config = replace(config, frozen=True, epochs=epochs, **settings)
    measured_on = "test" if valid else "dev"
    return LabelProbe(name, config, config.run_defaults()["optimizer"], test, measured_on, kind=kind)


def _found(name: str, data: Path) -> list[Path]:
    """The files of a task, by the first choice whose files are all there."""
    missing = []
    for choice in FILES[name]:
        paths = [next(filter(Path.is_file, (data / f"{path}{end}" for end in _SUFFIXES)), None) for path in choice]
        if None not in paths:
            return [path for path in paths if path is not None]
        missing.append(choice[paths.index(None)])
    layout = "; or ".join(", ".join(choice) for choice in FILES[name])
    raise MissingSettingFileError(
        "data",
        f"{data} has no {' and no '.join(missing)} (plain, .xz or .gz), which {name} needs. Its files there: {layout}",
    )
