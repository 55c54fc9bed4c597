"""What a path holds, for `ctx-jax info`: the facts of its files, and those of the encoder that `load` makes of it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ctx_jax.checkpoints import digests
from ctx_jax.checkpoints.run_files import (
    CONFIG,
    ENCODER,
    FROZEN,
    TEXTS,
    VOCABULARY,
    WORDS,
    EncoderFile,
    folders,
    read_encoder,
)
from ctx_jax.embedding.description import describe, describe_model
from ctx_jax.embedding.encoder_digest import encoder_digest
from ctx_jax.embedding.hub import local_path
from ctx_jax.embedding.load import is_run, load
from ctx_jax.encoders import FAMILIES
from ctx_jax.encoders.base import Family
from ctx_jax.encoders.facts import Facts
from ctx_jax.heads import HEADS
from ctx_jax.io.errors import CtxJaxError
from ctx_jax.io.files import file_digest, read_json
from ctx_jax.tokenizers import subwords

_RUN_FILES = (CONFIG, ENCODER, VOCABULARY, WORDS, subwords.FILE, subwords.CONFIG, TEXTS)


def inspect(
    path: str | Path, *, families: Sequence[Family] = FAMILIES, heads: Sequence[type] = HEADS
) -> dict[str, Any]:
    """What is known of a path, as JSON: always "path" and "problems", and as much of the rest as can be found out.

    The rest are the facts of the family or of the run; "family", "parameters", "layers", "width", "vocabulary",
    "tokenizer", "heads" and "model" as `describe` has them; and "digests", SHA-256 of the files and, of a folder, of
    the encoder as `encoder_digest` has it (a single file's own stands for it). "problems" are the errors of `load` and
    of the facts: empty if all of it is read.
    """
    problems: list[str] = []

    def attempt(fact: Callable[[], Any]) -> Any:
        try:
            return fact()
        except CtxJaxError as error:
            problem = str(error)
        except OSError as error:
            if error.filename is None or not error.strerror:
                raise
            problem = f"{error.filename}: {error.strerror}"
        if problem not in problems:
            problems.append(problem)
        return None

    place = attempt(lambda: local_path(path))
    if place is None:
        return {"path": str(path), "problems": problems}
    encoder = attempt(lambda: load(place, families=families, heads=heads))
    facts: Facts = attempt(lambda: _facts(place, families, heads)) or {}
    found = {name: value for name, fact in facts.items() if (value := attempt(fact)) is not None}
    model = found.pop("model", None)
    described = describe(encoder) if encoder is not None else describe_model(model) if model is not None else {}
    if tokenizer := {**found.get("tokenizer", {}), **described.get("tokenizer", {})}:
        described["tokenizer"] = tokenizer
    settings = {"model": described.pop("model")} if "model" in described else {}
    names = found.pop("files", [])
    result = {"path": str(path), **found, **described, **settings}
    inside = place if place.is_dir() else next(folder for folder in place.parents if folder.is_dir())
    result["digests"] = {"files": {name: attempt(partial(file_digest, inside / name)) for name in names}}
    if encoder is not None and place.is_dir():
        result["digests"]["encoder"] = encoder_digest(encoder)
    return {**result, "problems": problems}


def _facts(path: Path, families: Sequence[Family], heads: Sequence[type]) -> Facts | None:
    if is_run(path):
        return _run_facts(path, families, heads)
    found = (family.facts(path) for family in families if family.facts is not None)
    return next((facts for facts in found if facts is not None), None)


def _run_facts(run_dir: Path, families: Sequence[Family], heads: Sequence[type]) -> Facts:
    def stored() -> EncoderFile:
        return read_encoder(run_dir, [family.model for family in families], heads)

    return {
        "format": lambda: "run",
        "model_type": lambda: stored().architecture or None,
        "model": lambda: stored().model,
        "task": lambda: _task(run_dir),
        "checkpoints": lambda: _checkpoints(run_dir),
        "best": lambda: _best(run_dir),
        "files": lambda: _files(run_dir),
    }


def _task(run_dir: Path) -> dict[str, Any] | None:
    """The type of the run's task and the steps it was to train, of any task, ours or not."""
    if not (run_dir / CONFIG).is_file():
        return None
    config = read_json(run_dir / CONFIG)
    task = config.get("task")
    return {"type": task.get("type") if isinstance(task, Mapping) else None, "steps": config.get("steps")}


def _steps(run_dir: Path) -> list[int]:
    folders = (path for path in (run_dir / "checkpoints").iterdir() if path.name.isdecimal())
    return sorted(int(path.name) for path in folders if digests.is_complete(path))


def _checkpoints(run_dir: Path) -> dict[str, Any]:
    """The complete steps, and the last of them."""
    steps = _steps(run_dir)
    return {"steps": steps, "latest": max(steps, default=None)}


def _best(run_dir: Path) -> dict[str, Any] | None:
    """The best step and its metrics."""
    from ctx_jax.checkpoints.runs import RunCheckpoints  # Orbax takes seconds to import

    with RunCheckpoints(run_dir / "checkpoints") as checkpoints:
        step = checkpoints.best()
        return None if step is None else {"step": step, "metrics": checkpoints.metrics(step)}


def _files(run_dir: Path) -> list[str]:
    """The small files, and the digest files of the steps, which stand for all the files of a step."""
    paths = [folder / name for folder in folders(run_dir) for name in _RUN_FILES]
    for step in (*(run_dir / "checkpoints" / str(number) for number in _steps(run_dir)), run_dir / FROZEN / "0"):
        paths += digests.all_paths(step)
    return [path.relative_to(run_dir).as_posix() for path in paths if path.is_file()]
