"""The command `ctx-jax`: reads the subcommand's name, calls its `main`, and prints the library's errors as one line."""

import difflib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

from ctx_jax import __version__
from ctx_jax.io import compilation_cache
from ctx_jax.io.errors import CtxJaxError

USAGE = """usage: ctx-jax COMMAND ...

  train [NAME|TASK|CONFIG.py] [--flags]  train a model; the same command again resumes it
  evaluate RUN FILES [--flags]         measure a trained run on text: perplexity, accuracy
  predict RUN [FILE]                   labels of texts, words or pairs, by a run of `classify`, `tag` or `pairs`
  probe ENCODER TASK... -o DIR         what each layer of an encoder knows: tagging, senses, similarity ...
  export RUN DIR [--flags]             write a trained run as files other programs read
  embed ENCODER INPUT OUTPUT           vectors of a text's words or sentences, as a file
  neighbours ENCODER TEXT --word WORD  the nearest words to a word in several of its contexts
  search ENCODER TEXT --query QUERY    the lines of a text nearest to a query
  similarity ENCODER A [B]             the cosine of two texts, or of the pairs of a file
  info PATH [--json]                   what a run, a folder or a file of word vectors is
  tokenizer FOLDER [--flags]           train a subword tokenizer from text
  cache [--clear]                      size of the compiled programs that these commands keep

ctx-jax COMMAND --help lists its flags; ctx-jax --version prints the version.
CTX_JAX_TRACEBACK=1 in the environment shows where in the code an error arose."""

COMMANDS = (
    "train", "evaluate", "predict", "probe", "export", "embed", "neighbours", "search", "similarity", "info",
    "tokenizer", "cache",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (default: this process's) and return its exit status."""
    try:
        try:
            return _run(arguments)
        finally:
            print(end="", flush=True)  # here: when the interpreter exits, a closed pipe can no longer be caught
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        from ctx_jax.training.metrics import discard_stdout

        discard_stdout()
        return 128 + signal.SIGPIPE


def _run(arguments: Sequence[str] | None) -> int:
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
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # raised by the system; only one about a file can be explained in a line
        if os.environ.get("CTX_JAX_TRACEBACK") == "1" or error.filename is None or not error.strerror:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1


def _call(name: str, rest: list[str]) -> int:
    # Each command is imported when it is called, so that none waits for the imports of another (Orbax takes seconds).
    match name:
        case "train":
            from ctx_jax.commands.train import main as command
        case "evaluate":
            from ctx_jax.commands.evaluate import main as command
        case "predict":
            from ctx_jax.commands.predict import main as command
        case "probe":
            from ctx_jax.commands.probe import main as command
        case "export":
            from ctx_jax.commands.export import main as command
        case "embed":
            from ctx_jax.commands.embed import main as command
        case "neighbours":
            from ctx_jax.commands.neighbours import main as command
        case "search":
            from ctx_jax.commands.search import main as command
        case "similarity":
            from ctx_jax.commands.similarity import main as command
        case "info":
            from ctx_jax.commands.info import main as command
        case "tokenizer":
            from ctx_jax.commands.tokenizer import main as command
        case "cache":
            from ctx_jax.commands.cache import main as command
        case "-h" | "--help":
            print(USAGE)
            return 0
        case "--version":
            print(f"ctx-jax {__version__}")
            return 0
        case _:
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f": did you mean {near[0]!r}?" if near else ""
            print(f"no command {name!r}{hint}\n\n{USAGE}", file=sys.stderr)
            return 2
    if name != "cache":
        compilation_cache.enable()
    return command(rest)


@contextmanager
def _unwound_by_sigterm() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, so that partial outputs are removed. `train` has its own handler, which saves."""

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
