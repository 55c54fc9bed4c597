"""The small files of a run directory that its arrays need: every checkpoint keeps a copy of them.

`config.json`; `encoder.json`, the configs of the encoder and its heads; `vocabulary.txt`, or `tokenizer.json` and
`tokenizer_config.json`; `texts.json`, digests of the texts; after an import `import.json`; the digest files of
`frozen/`. The copies are covered by the step's digests. People and programs read the files of the run directory,
which are compared with the copies.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ctx_jax.io.errors import InputError, MissingFileError
from ctx_jax.io.files import leftovers
from ctx_jax.tokenizers import subwords

CONFIG = "config.json"
ENCODER = "encoder.json"
"""The config of the encoder and those of its heads, so that loading needs no task."""
VOCABULARY = "vocabulary.txt"
"""The words of a biLM's softmax."""
ORIGIN = "import.json"
"""The model_type of the import that a run began with."""
TEXTS = "texts.json"
"""The digests of the texts."""
METRICS = "metrics.jsonl"
"""In no checkpoint: it grows with every logged line."""
FROZEN = "frozen"
"""The folder of the frozen parameters, saved once (`checkpoints.frozen`)."""

_ATOMIC = (CONFIG, ENCODER, VOCABULARY, subwords.FILE, subwords.CONFIG, TEXTS, ORIGIN, METRICS)

FREE = ("devices", "checkpoint", "log", "run_dir", "task.evaluate")
"""The settings that a resumed run may change: they say where and how often, not what is computed."""


def is_free(field: str) -> bool:
    """Whether a dotted field, "devices.count" say, is one of `FREE` or below it."""
    return any(f"{field}.".startswith(f"{free}.") for free in FREE)


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
    for name in _ATOMIC:
        for left in leftovers(run_dir, name):
            left.unlink()


def read(run_dir: Path, names: Iterable[str]) -> dict[str, str]:
    """The texts of a run's files by name. FileNotFoundError; InputError for a file that is not UTF-8."""
    return {name: _text(run_dir / name) for name in names}


def check(run_dir: Path, kept: Mapping[str, str], step: int) -> None:
    """InputError, naming the file, if a file of the run directory differs from the copy that step `step` keeps.

    Of `config.json` the settings of `FREE` may differ, and `steps`. A file that is gone is reported by whoever reads
    it: a model that reads characters is loaded without a vocabulary.
    """
    for name, before in kept.items():
        path = run_dir / name
        if not path.is_file():
            continue
        after = path.read_bytes()
        if after == before.encode():
            continue
        changes = _settings(path, before, after) if name == CONFIG else [_first_line(before.encode(), after)]
        if changes:
            raise InputError(
                f"{path} is not the one that step {step} was saved with: {'; '.join(changes)}. Restore it; the "
                f"step's own copy is an entry of {run_dir / 'checkpoints' / str(step) / 'files'}"
            )


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: {error}") from error


def _first_line(before: bytes, after: bytes) -> str:
    old, new = before.split(b"\n"), after.split(b"\n")
    same = next((number for number, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), None)
    return f"line {(min(len(old), len(new)) if same is None else same) + 1} differs"


def _settings(path: Path, before: str, after: bytes) -> list[str]:
    try:
        now = json.loads(after)
    except ValueError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    return [
        f"{name} was {old!r}, is {new!r}"
        for name, old, new in _changes(json.loads(before), now, "")
        if name != "steps" and not is_free(name)
    ]


def _changes(old: Any, new: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, old value, new value) of what differs between two values of JSON."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            yield from _changes(old.get(name), new.get(name), f"{where}.{name}" if where else name)
    elif old != new:
        yield where, old, new
