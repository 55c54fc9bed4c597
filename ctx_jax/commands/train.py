"""`ctx-jax train [NAME|TASK|CONFIG.py] [--flags]`: read a configuration, override it by flags, train."""

import difflib
import inspect
import itertools
import re
import runpy
import signal
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ctx_jax import tasks
from ctx_jax.commands.flags import naming_flags, parse
from ctx_jax.configs import __file__ as SHIPPED_PACKAGE
from ctx_jax.io import configs
from ctx_jax.io.errors import InputError, InputTypeError, MissingFileError
from ctx_jax.tasks.repeats import run
from ctx_jax.training.config import RunConfig

SHIPPED = Path(SHIPPED_PACKAGE).parent


def main(arguments: Sequence[str]) -> int:
    """Train or resume the run that the command line describes; 0 when all steps are done, 143 (as a shell names
    SIGTERM) when it was stopped and saved, so that no script and no cluster takes it for finished."""
    config = read(arguments)
    with naming_flags(config):
        return 0 if run(config) else 128 + signal.SIGTERM


def read(arguments: Sequence[str]) -> RunConfig:
    """The configuration that a command line names (default: quickstart) with its flags applied; errors as `parse`."""
    named = bool(arguments) and not arguments[0].startswith("-")
    for before, word in itertools.pairwise(() if named else arguments):
        if not before.startswith("-") and (word.endswith(".py") or word in (*names(), *tasks.named())):
            raise InputError(f"the configuration goes before the flags: ctx-jax train {word} --flags ...")
    name = arguments[0] if named else "quickstart"
    if name in tasks.named():
        config: RunConfig = tasks.named()[name]
        about = inspect.cleandoc(type(config.task).__doc__ or "")
    else:
        path = find(name)
        name = path.stem
        config, about = load(path)
    about = re.sub(r"(?<!\n)\n(?=[A-Z][a-z]+:)", "\n\n", about)  # the help starts a new line at "Time: ..."
    with naming_flags(config):
        config = parse(
            type(config),
            default=config,
            args=list(arguments[1:] if named else arguments),
            prog=f"ctx-jax train {name}",
            description=f"{about}\n\nConfigurations: {', '.join(names())}, or a file with `config() -> TrainConfig`. "
            f"Tasks with their defaults: {', '.join(tasks.named())}.",
        )
    return config if config.run_dir else replace(config, run_dir=f"runs/{name}")


def names() -> list[str]:
    """The shipped configurations."""
    return sorted(path.stem for path in SHIPPED.glob("*.py") if not path.stem.startswith("_"))


def find(name: str) -> Path:
    """The file of a shipped configuration, or of a path ending in .py; MissingFileError suggests the nearest name."""
    path = Path(name)
    if path.suffix == ".py":
        if not path.is_file():
            raise MissingFileError(f"no configuration file {path}")
        return path
    if name not in names():
        known = [*names(), *tasks.named()]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise MissingFileError(
            f"no configuration or task {name!r}: {hint}There are {', '.join(known)}; a file of your own ends in .py"
        )
    return SHIPPED / f"{name}.py"


def load(path: Path) -> tuple[RunConfig, str]:
    """(configuration, docstring) of a file that defines `config() -> TrainConfig`."""
    # Run, not imported: the package imports nothing by string, and sys.modules keeps nothing of the file.
    try:
        module = runpy.run_path(str(path))
        make = module.get("config")
        config = make() if callable(make) else None
    except Exception as error:
        # A syntax error has no frame in the file.
        lines = [error.lineno] if isinstance(error, SyntaxError) else []
        lines += [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = f", line {lines[-1]}" if lines else ""
        raise InputError(f"{path}{line}: {type(error).__name__}: {error}") from error
    if not isinstance(config, RunConfig):
        raise InputTypeError(f"{path} must define config() -> ctx_jax.tasks.TrainConfig, gave {config!r}")
    with naming_flags(config):
        configs.from_json(type(config), configs.to_json(config))  # checks every field's type
    return config, inspect.cleandoc(module.get("__doc__") or "")
