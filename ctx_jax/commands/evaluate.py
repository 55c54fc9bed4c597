"""`ctx-jax evaluate RUN FILES... [--flags]`: the metrics of a trained run on a text."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ctx_jax.checkpoints.run_files import CONFIG, existing
from ctx_jax.data.text_files import Errors
from ctx_jax.embedding.load import CheckpointStep, load
from ctx_jax.evaluation.perplexity import ProtocolName
from ctx_jax.io import configs
from ctx_jax.io.errors import ConfigError, ExistingFileError, InputError, MissingFileError
from ctx_jax.tasks import TrainConfig
from ctx_jax.tasks.options import EvaluateOptions


@dataclass(frozen=True)
class Evaluate:
    """The metrics of a trained run on a text. A biLM's perplexity counts every token: words, <UNK> and the sentence
    markers. A Transformer is measured on masked tokens, always the same ones (causal: on every token), in the run's
    sequences; its text is indexed among the system's temporary files, for which TMPDIR names another folder."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's directory."""

    files: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="FILES...")]
    """Text, read as the run's own was: files or globs (plain, .gz or .xz), or a corpus by name as in --data.valid,
    of which the validation split is taken (`python-docs:test` takes the one that no training ever looked at)."""

    protocol: ProtocolName = "sentence"
    """Of a biLM. `sentence`: each sentence from a zero state. `stream`: the text in its order as one stream, state
    carried (WikiText-2). `bilm-tf`: the original's test, which leaves the end of the text out."""

    step: CheckpointStep = "best"
    """Which checkpoint: of the lowest validation loss, the last one, or a step's number."""

    batch: int = 0
    """Of a biLM: sentences at a time, 0 for 64; with protocol bilm-tf its rows, whose number changes the result, 0 for
    the original's 256."""

    per_sentence: Path | None = None
    """Of a biLM: a new file for the log probabilities of each sentence, one JSON object a line (not with bilm-tf)."""

    pseudo_perplexity: bool = False
    """Of a masked Transformer, besides: each token of each sentence masked in turn, which takes as many passes."""

    errors: Errors | None = None
    """What to do with bytes that are not UTF-8: `strict` or `replace`; the run's own setting where it is left out."""


OPTIONS = Evaluate


def main(arguments: Sequence[str]) -> int:
    """Print the metrics of the text that the command line names; 0 when done."""
    print(evaluate(tyro.cli(Evaluate, args=list(arguments), prog="ctx-jax evaluate")))
    return 0


def evaluate(options: Evaluate) -> str:
    """The table `main` prints. Raises what loading the run and reading the text raise, with what to change."""
    if not options.files:
        raise InputError("evaluate needs the text to measure: ctx-jax evaluate RUN FILES...")
    if options.per_sentence and options.protocol == "bilm-tf":
        raise ConfigError("per_sentence", "needs --protocol sentence or stream: bilm-tf cuts sentences off at its end")
    if options.per_sentence:
        _check_new(options.per_sentence)
    if not (options.run / "checkpoints").is_dir():
        raise MissingFileError(
            f"{options.run} is no run directory: it has no checkpoints/. A Transformer's import is measured once a run "
            "has started from it: ctx-jax train ... --init FOLDER. AllenNLP's files hold no vocabulary to measure with"
        )
    config = configs.read(existing(options.run, CONFIG), TrainConfig)
    encoder = load(options.run, step=options.step)
    report = config.task.report(
        encoder,
        options.run,
        EvaluateOptions(
            options.files,
            protocol=options.protocol,
            batch=options.batch,
            per_sentence=options.per_sentence,
            pseudo_perplexity=options.pseudo_perplexity,
            errors=options.errors,
            log=_to_stderr,
        ),
    )
    return f"{options.run}, step {options.step}{report}"


def _check_new(path: Path) -> None:
    if path.exists():
        raise ExistingFileError(f"--per-sentence {path} exists: name a new file, or remove this one")
    if not path.parent.is_dir():
        raise MissingFileError(f"--per-sentence {path}: there is no folder {path.parent}, make it first")


def _to_stderr(line: str) -> None:
    """Progress, which is not part of what the command prints."""
    print(line, file=sys.stderr, flush=True)
