"""`ctx-jax evaluate RUN FILES... [--flags]`: the metrics of a trained run on a text."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from ctx_jax.checkpoints.run_files import runs_below
from ctx_jax.commands.flags import naming_flags
from ctx_jax.data.text_files import Errors
from ctx_jax.embedding.load import CheckpointStep
from ctx_jax.encoders import FAMILIES
from ctx_jax.encoders.base import Family
from ctx_jax.evaluation.perplexity import ProtocolName
from ctx_jax.evaluation.reports import Report
from ctx_jax.evaluation.results import finite_metrics
from ctx_jax.heads import HEADS
from ctx_jax.io.errors import ConfigError, ExistingFileError, InputError, MissingFileError
from ctx_jax.tasks import TrainConfig, load_trained, repeats
from ctx_jax.tasks.options import EvaluateOptions
from ctx_jax.training.config import RunConfig
from ctx_jax.typing import Log


@dataclass(frozen=True)
class Evaluate:
    """Measure a trained run. A run with labels gives accuracy, F1 (of spans for labels of BIO or BIOES, else the mean
    over labels) and loss on labelled files, of numbers Pearson's and Spearman's correlation, of ranked pairs the mean
    reciprocal rank and recall among the file's second texts, and a directory of several runs (--seeds, --sizes) the
    mean and standard deviation of each. A biLM's perplexity counts every token: words, <UNK> and
    sentence markers. A masked Transformer is measured on a fixed choice of masked tokens, a causal one on every token,
    in sequences as in the run; their tokens are cached in the system's temporary folder (set TMPDIR for another)."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """The directory of a run or of several, or a Hugging Face folder with a head of labels."""

    files: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="FILES...")]
    """Labelled files with the run's columns. Of a language model, text, split into words as in the run: files or globs
    (plain, .gz, .xz or .zst), or a corpus by name as in --data.valid.
    A corpus gives its validation split; `python-docs:test` gives the test split, which no training uses."""

    protocol: ProtocolName = "sentence"
    """biLM only. `sentence`: each sentence starts from a zero state. `stream`: the text is one stream and the state is
    carried (the convention for WikiText-2). `bilm-tf`: as bilm-tf's test, which omits the end of the text."""

    step: CheckpointStep = "best"
    """Which checkpoint: `best` (by the metric that the run chose), `latest`, or a step number."""

    batch: int = 0
    """biLM only: sentences per batch; 0: 64. With protocol bilm-tf, the rows of its batch, which change the result; 0:
    256, as in bilm-tf."""

    per_sentence: Path | None = None
    """biLM only: a new file for the log probabilities of each sentence, one JSON object a line (not with bilm-tf)."""

    pseudo_perplexity: bool = False
    """Masked Transformer only: also mask each token of each sentence in turn, which takes one pass a token."""

    pairs: bool = False
    """The Hugging Face folder labels pairs of texts, which its files do not say."""

    columns: str = ""
    """Names of the columns of labelled files, as `--data.columns` in training; empty: those of the run, or of a folder
    text,label, form,upos or first,second,label."""

    json: bool = False
    """Print the metrics as one JSON object, and nothing else; of several runs "runs" and "table", as in the
    results.json of their directory."""

    errors: Errors | None = None
    """What to do with bytes that are not UTF-8: `strict` or `replace`; default: the run's setting."""


def main(arguments: Sequence[str]) -> int:
    """Print the metrics of the text that the command line names; 0 when done."""
    options = tyro.cli(Evaluate, args=list(arguments), prog="ctx-jax evaluate")
    with naming_flags(Evaluate):
        print(evaluate(options))
    return 0


def evaluate(
    options: Evaluate,
    config_type: type[RunConfig] = TrainConfig,
    families: Sequence[Family] = FAMILIES,
    heads: Sequence[type] = HEADS,
) -> str:
    """What `main` prints. For a run of your own task, `config_type` is the type of its configuration, and
    `families` and `heads` are as in `load`. Errors: those of loading the run and of reading the text."""
    if not options.files:
        raise InputError("evaluate needs the text to measure: ctx-jax evaluate RUN FILES...")
    if options.per_sentence and options.protocol == "bilm-tf":
        raise ConfigError("per_sentence", "needs --protocol sentence or stream: bilm-tf cuts the last sentences off")
    if path := options.per_sentence:
        if path.exists():
            raise ExistingFileError(f"--per-sentence {path} exists: name a new file, or remove this one")
        if not path.parent.is_dir():
            raise MissingFileError(f"--per-sentence {path}: there is no folder {path.parent}, make it first")
    log = partial(print, file=sys.stderr, flush=True)
    asked = EvaluateOptions(
        options.files,
        protocol=options.protocol,
        batch=options.batch,
        per_sentence=options.per_sentence,
        pseudo_perplexity=options.pseudo_perplexity,
        errors=options.errors,
        log=log,
    )

    def report(run: str) -> Report:
        task, encoder = load_trained(
            run,
            step=options.step,
            pairs=options.pairs,
            columns=options.columns,
            config_type=config_type,
            families=families,
            heads=heads,
        )
        return task.report(encoder, Path(run), asked)

    if runs_below(Path(options.run)):
        return _of_several(options, report, log)
    found = report(options.run)
    if options.json:
        return json.dumps(finite_metrics(found.metrics))
    return f"{options.run}, step {options.step}\n{found.text}"


def _of_several(options: Evaluate, report: Callable[[str], Report], log: Log) -> str:
    """What `main` prints of a directory of several runs."""

    def measure(run_dir: Path) -> dict[str, float]:
        log(f"measuring {run_dir}")
        metrics = report(str(run_dir)).metrics
        return {name: metrics[name] for name in metrics if name != "examples"}  # the files', the same for all

    runs, rows = repeats.measured(Path(options.run), measure, log)
    if options.json:
        return json.dumps({"runs": runs, "table": rows})
    return f"{options.run}, step {options.step}\n{repeats.markdown(rows, list(runs[0]['metrics']))}".rstrip("\n")
