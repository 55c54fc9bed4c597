"""`ctx-jax probe ENCODER TASK... -o DIR [--flags]`: what each layer of an encoder knows."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from ctx_jax.commands.flags import naming_flags
from ctx_jax.commands.train import find
from ctx_jax.commands.train import load as load_config
from ctx_jax.embedding.load import CheckpointStep, load
from ctx_jax.tasks.probing import LabelProbe, probe
from ctx_jax.tasks.tag_head import HeadKind


@dataclass(frozen=True)
class Probe:
    """Ask tasks of each single layer of an encoder, the plain mean of its layers, a learned mix, an encoder of the same
    shape with random weights, and a table of word vectors if one is given. The encoder stays as it is and reads each
    text once. Stopped and started again, the command goes on where it was; finished results are not computed again."""

    encoder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="ENCODER")]
    """A run, a folder of AllenNLP, Hugging Face or `save_stack`."""

    tasks: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="TASK...")]
    """`upos`, `ner`, `sst2`, `cola`, `stsb` (a head is trained for each layer), `coarsewsd`, `wsd`, `wic`, `blimp`
    (nothing is trained), or a configuration file (.py) of `classify`, `tag` or `pairs`, whose validation file is
    measured."""

    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder of the results: results.json, results.md and, with matplotlib, layers.png."""

    data: Path | None = None
    """Folder with the data of named tasks, such as pos/en_ewt/train.conllu.xz; an error names the files of a task."""

    table: Path | None = None
    """A file of word vectors to compare with."""

    lowercase: bool = False
    """Words are looked up in the table in lower case."""

    seeds: int = 3
    """How many heads are trained for each layer, with seeds 0, 1 ..."""

    limit: int = 0
    """Train on so many examples, evenly spaced; 0: all."""

    epochs: int = 0
    """Passes over the training examples of named tasks, of which the best counts; 0: 20."""

    head: HeadKind = "linear"
    """Of the task `ner` alone, as `--head.kind` of `ctx-jax train tag`."""

    random: bool = True
    """Compare with an encoder of the same shape with random weights."""

    step: CheckpointStep = "best"
    """Which checkpoint of a run: `best`, `latest`, or a step number."""


def main(arguments: Sequence[str]) -> int:
    """Probe the encoder that the command line names, and print what was found; 0 when done."""
    options = tyro.cli(Probe, args=list(arguments), prog="ctx-jax probe")
    with naming_flags(Probe):
        report = probe(
            load(options.encoder, step=options.step),
            [_task(name) for name in options.tasks],
            output=options.output,
            data=options.data,
            table=None if options.table is None else load(options.table, lowercase=options.lowercase),
            seeds=options.seeds,
            limit=options.limit,
            epochs=options.epochs,
            head=options.head,
            random=options.random,
            log=partial(print, file=sys.stderr, flush=True),
        )
    print(f"{report.text}\nwritten to {options.output}")
    return 0


def _task(name: str) -> str | LabelProbe:
    """A task by its name, or from a configuration file."""
    if not name.endswith(".py"):
        return name
    return LabelProbe.of_run(Path(name).stem, load_config(find(name))[0])
