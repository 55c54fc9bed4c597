"""The small files of a run directory that its arrays need: every checkpoint keeps a copy of them.

The copies are covered by the step's digests. People and programs read the files of the run directory, which are
compared with the copies.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, make_dataclass
from functools import reduce
from itertools import zip_longest
from operator import or_
from pathlib import Path
from typing import Any, NamedTuple

from ctx_jax.heads import SentenceModules
from ctx_jax.io import configs
from ctx_jax.io.errors import InputError, MissingFileError, listed
from ctx_jax.io.files import leftovers, read_json, read_text
from ctx_jax.tokenizers import subwords
from ctx_jax.tokenizers.alignment import WordPieces
from ctx_jax.tokenizers.words import Rule

CONFIG = "config.json"
ENCODER = "encoder.json"
"""An `EncoderFile`."""
VOCABULARY = "vocabulary.txt"
"""The words of a biLM's softmax."""
WORDS = "words.txt"
"""The words of a table of word vectors. In no checkpoint: `encoder.json` holds its digest."""
TEXTS = "texts.json"
"""The digests of the texts."""
METRICS = "metrics.jsonl"
"""In no checkpoint: it grows with every logged line."""
RESULTS = "results.json"
"""In a directory of several runs, which is no run itself: their metrics."""
RESULTS_TABLE = "results.md"
"""The same as a table."""
SELECTION = "selection"
"""The metric of a checkpoint that the best step has the least of."""
FROZEN = "frozen"
"""The folder of the frozen parameters; checkpoints keep its digest files (`checkpoints.frozen`)."""

_ATOMIC = (CONFIG, ENCODER, VOCABULARY, WORDS, subwords.FILE, subwords.CONFIG, TEXTS, METRICS, RESULTS, RESULTS_TABLE)

FREE = (
    *("devices", "checkpoint", "log", "run_dir", "task.evaluate"),
    *("task.data.cache", "task.data.cache_vectors", "task.data.prefetch"),
)
"""The settings that a resumed run may change: they say where and how often, not what is computed."""

FIXED = ("task.evaluate.metric",)
"""Those below `FREE` that it may not: the best step is chosen by comparing checkpoints, all by one metric."""

_MEMBER = re.compile(r"member_\d+")

_TOKENS = ("special_tokens_map.json", "added_tokens.json")
"""Read beside a tokenizer (`tokenizers.special_files`), and in no run."""


class Origin(NamedTuple):
    """What a run keeps of the encoder that it started from, beside its parameters and its text's rules."""

    architecture: str = ""
    """Its name in the files it came from (Hugging Face's model_type), which a model does not tell where two are equal
    in shape (XLM-R and RoBERTa); "": none."""
    sentence: SentenceModules | None = None
    """What makes one vector a text."""


@dataclass(frozen=True)
class EncoderFile:
    """What `encoder.json` holds, as a config of `io.configs`: an encoder is loaded without knowing its task."""

    model: Any
    heads: dict[str, Any]
    rule: Rule
    """How strings are split into words."""
    pieces: WordPieces = "mean"
    """Which of its pieces give a word its vector."""
    architecture: str = ""
    """`Origin.architecture`."""
    sentence: SentenceModules | None = None
    """`Origin.sentence`."""


def read_encoder(run_dir: Path, models: Sequence[type], heads: Sequence[type]) -> EncoderFile:
    """Read a run's `encoder.json`; `models` and `heads` are the types it may name. A model may hold others in fields
    typed `Any`.

    Raises MissingFileError; InputError, naming the file and the field, for what does not fit.
    """
    head: Any = reduce(or_, heads)
    types = [("model", reduce(or_, models)), ("heads", dict[str, head])]  # the other fields are typed
    typed = make_dataclass(EncoderFile.__name__, types, bases=(EncoderFile,), frozen=True)
    stored: EncoderFile = configs.read(existing(run_dir, ENCODER), typed, any_of=models)
    return stored


def member_name(number: int) -> str:
    """The name of a member of an encoder that holds several: of its parameters and inputs, and of the folder, in the
    run's, of its files."""
    return f"member_{number}"


def folders(run_dir: Path) -> list[Path]:
    """The run directory and the folders of its encoder's members, and of theirs, which hold files of the same names."""
    inside = sorted(path for path in run_dir.iterdir() if _MEMBER.fullmatch(path.name) and path.is_dir())
    return [run_dir, *(folder for path in inside for folder in folders(path))]


def is_free(field: str) -> bool:
    """Whether a dotted field, "devices.count" say, is one of `FREE` or below it."""
    return field not in FIXED and any(f"{field}.".startswith(f"{free}.") for free in FREE)


def runs_below(folder: Path) -> list[str]:
    """The names of the runs in a directory of several (`RESULTS`); [] for any other path."""
    if not (folder / RESULTS).is_file() or (folder / "checkpoints").is_dir():
        return []
    found = [path for pattern in ("seed_*", "size_*/seed_*") for path in folder.glob(pattern) if path.is_dir()]
    return sorted(str(path.relative_to(folder)) for path in found)


def refuse_several(folder: Path) -> None:
    """MissingFileError, which names the runs, for a directory of several."""
    if names := runs_below(folder):
        raise MissingFileError(f"{folder} holds several runs, {listed(names)}: name one, as {folder / names[0]}")


def existing(run_dir: Path, name: str) -> Path:
    """The path of a run's file; MissingFileError, which says where its copies are, if it is gone."""
    path = run_dir / name
    if not path.is_file():
        raise MissingFileError(
            f"{path} is missing: a run needs it. Put it back; each checkpoint has a copy, an entry of "
            f"{run_dir / 'checkpoints' / 'STEP' / 'files'}"
        )
    return path


def remove_leftovers(run_dir: Path) -> None:
    """Remove partial files that a killed process left. Call it while no other process writes to the run."""
    for folder in folders(run_dir):
        for name in _ATOMIC:
            for left in leftovers(folder, name):
                left.unlink()


def read(run_dir: Path, names: Iterable[str]) -> dict[str, str]:
    """The texts of a run's files by name; raises as `read_text`."""
    return {name: read_text(run_dir / name) for name in names}


def check(run_dir: Path, kept: Mapping[str, str], step: int) -> None:
    """InputError, naming the file, if a file of the run directory differs from the copy that step `step` keeps.

    Of `config.json` the settings of `FREE` may differ, and `steps`. A file that is gone is reported by whoever reads
    it: a model that reads characters is loaded without a vocabulary. MissingFileError for those without which another
    tokenizer or run would be read; InputError for one that the step does not keep, and that would be read as well.
    """
    for kept_name in map(Path, kept):
        if kept_name.name in (subwords.FILE, subwords.CONFIG):
            existing(run_dir, str(kept_name))
        if kept_name.name != subwords.FILE:
            continue
        for beside in (kept_name.with_name(token) for token in _TOKENS):
            if beside.as_posix() not in kept and (run_dir / beside).is_file():
                raise InputError(f"{run_dir / beside} is none of the files that step {step} was saved with: remove it")
    present = read(run_dir, [name for name in kept if (run_dir / name).is_file()])
    for name, after in present.items():
        path, before = run_dir / name, kept[name]
        if name == CONFIG:
            changes = [
                f"{field} was {old!r}, is {new!r}"
                for field, old, new in configs.differences(_kept_config(run_dir, before, step), read_json(path))
                if field != "steps" and not is_free(field)
            ]
        else:
            lines = enumerate(zip_longest(before.split("\n"), after.split("\n")), start=1)
            changes = [f"line {number} differs" for number, (old, new) in lines if old != new][:1]
        if changes:
            raise InputError(
                f"{path} is not the one that step {step} was saved with: {'; '.join(changes)}. Restore it; the "
                f"step's own copy is an entry of {run_dir / 'checkpoints' / str(step) / 'files'}"
            )


def _kept_config(run_dir: Path, text: str, step: int) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        path = run_dir / "checkpoints" / str(step) / "files" / "files"
        raise InputError(f"{path} does not hold the {CONFIG} of the run ({error}): use another step") from error
