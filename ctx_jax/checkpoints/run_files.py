"""The small files of a run without which its arrays mean nothing: every checkpoint keeps a copy of them.

`config.json`; `vocabulary.txt`, or `tokenizer.json` and `tokenizer_config.json`; `texts.json`, digests of the texts;
after an import `import.json`. The copy is under the step's digests; the file that people and programs read lies in the
run directory, and is compared with it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ctx_jax.io.configs import newest
from ctx_jax.io.errors import InputError, MissingFileError
from ctx_jax.io.files import leftovers
from ctx_jax.tokenizers import subwords

CONFIG = "config.json"
VOCABULARY = "vocabulary.txt"
"""Keeps the words of a biLM's softmax."""
ORIGIN = "import.json"
"""Keeps the model_type of the import that a run began with."""
TEXTS = "texts.json"
"""Keeps the digests of the texts."""
METRICS = "metrics.jsonl"
"""Of no checkpoint: grows with every line that is logged."""

_WRITTEN_WHOLE = (CONFIG, VOCABULARY, subwords.FILE, subwords.CONFIG, TEXTS, ORIGIN, METRICS)

FREE = ("devices", "checkpoint", "evaluate", "log", "run_dir")
"""The settings a resumed run may change: they say where and how often, not what is computed."""


def existing(run_dir: Path, name: str) -> Path:
    """A file of a run that was saved; FileNotFoundError, saying where its copies lie, for one that is gone."""
    path = run_dir / name
    if not path.is_file():
        raise MissingFileError(
            f"{path} is not there: a run needs it. Put it back; each checkpoint has a copy, an entry of "
            f"{run_dir / 'checkpoints' / 'STEP' / 'files'}"
        )
    return path


def remove_leftovers(run_dir: Path) -> None:
    """Remove what a killed process left of a run's files; none may be at work on them now."""
    for name in _WRITTEN_WHOLE:
        for left in leftovers(run_dir, name):
            left.unlink()


def read(run_dir: Path, names: Iterable[str]) -> dict[str, str]:
    """The texts of a run's files by name; FileNotFoundError, and ValueError for one that is not UTF-8."""
    return {name: _text(run_dir / name) for name in names}


def check(run_dir: Path, kept: Mapping[str, str], step: int) -> None:
    """ValueError, naming the file, where one of the run directory is not what step `step` was saved with.

    Of `config.json` the settings of `FREE` may differ, and `steps`. A file that is gone is for its readers to miss: a
    model that reads characters is loaded without a vocabulary.
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
                f"{path} is not the one that step {step} was saved with: {'; '.join(changes)}. Put it back as it was; "
                f"the step's own copy is an entry of {run_dir / 'checkpoints' / str(step) / 'files'}"
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
        now = newest(json.loads(after))
    except ValueError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    return [
        f"{name} was {old!r}, is {new!r}"
        for name, old, new in _changes(newest(json.loads(before)), now, "")
        if name.split(".")[0] not in (*FREE, "steps")
    ]


def _changes(old: Any, new: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, old value, new value) of what differs between two values of JSON."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            yield from _changes(old.get(name), new.get(name), f"{where}.{name}" if where else name)
    elif old != new:
        yield where, old, new
