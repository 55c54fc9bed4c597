"""The command `ctx-jax`: reads the subcommand's name, calls one function, turns our errors into one line."""

import difflib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

from ctx_jax import __version__
from ctx_jax.io.errors import ConfigError, CtxJaxError

USAGE = """usage: ctx-jax COMMAND ...

  train [NAME|CONFIG.py] [--flags]     train a model; the same command again resumes it
  evaluate RUN FILES [--flags]         measure a trained run on text: perplexity, accuracy
  export RUN DIR [--flags]             write a trained run as files other programs read
  tokenizer FOLDER [--flags]           train a subword tokenizer from text

ctx-jax COMMAND --help lists its flags; ctx-jax --version prints the version.
CTX_JAX_TRACEBACK=1 in the environment shows where in the code an error arose."""

COMMANDS = ("train", "evaluate", "export", "tokenizer")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (default: this process's) and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    name, *rest = given or ["--help"]
    try:
        with nullcontext() if name == "train" else _unwound_by_sigterm():
            return _call(name, rest)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except CtxJaxError as error:
        if os.environ.get("CTX_JAX_TRACEBACK") == "1":
            raise
        print(f"error: {_with_flag(error, name)}", file=sys.stderr)
        return 1
    except OSError as error:  # of the system, about a path
        if os.environ.get("CTX_JAX_TRACEBACK") == "1" or error.filename is None or not error.strerror:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1


def _with_flag(error: CtxJaxError, name: str) -> str:
    """The error's message; of a setting, with its flag in place of its name."""
    if not isinstance(error, ConfigError) or name not in COMMANDS:
        return str(error)
    from ctx_jax.commands import evaluate, export, tokenizer, train
    from ctx_jax.commands.flags import with_flag

    command = {"train": train, "evaluate": evaluate, "export": export, "tokenizer": tokenizer}[name]
    return f"{with_flag(error.field, command.OPTIONS)} {error.message}"


def _call(name: str, rest: list[str]) -> int:
    # Imported where needed, so that no command waits for the imports of another (Orbax, grain).
    match name:
        case "train":
            from ctx_jax.commands import train

            return train.main(rest)
        case "evaluate":
            from ctx_jax.commands import evaluate

            return evaluate.main(rest)
        case "export":
            from ctx_jax.commands import export

            return export.main(rest)
        case "tokenizer":
            from ctx_jax.commands import tokenizer

            return tokenizer.main(rest)
        case "-h" | "--help":
            print(USAGE)
            return 0
        case "--version":
            print(f"ctx-jax {__version__}")
            return 0
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    print(f"no command {name!r}" + (f": did you mean {near[0]!r}?" if near else "") + f"\n\n{USAGE}", file=sys.stderr)
    return 2


@contextmanager
def _unwound_by_sigterm() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, so that partial outputs are removed. Training handles it itself: it saves."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # Python allows no handlers there
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
