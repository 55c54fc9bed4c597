"""`ctx-jax predict RUN [FILE]`: the labels that a trained run or folder gives texts or words, as JSON lines."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated

import tyro

from ctx_jax import tasks
from ctx_jax.commands.flags import naming_flags
from ctx_jax.data.text_files import STANDARD_INPUT
from ctx_jax.embedding.load import CheckpointStep

AT_ONCE = 1024  # texts or sentences


@dataclass(frozen=True)
class Predict:
    """Label texts, words or pairs by a run of `classify`, `tag` or `pairs`, or by a Hugging Face folder whose class is
    one ForSequenceClassification or ForTokenClassification. Prints one JSON object a line, in the order
    of the input: {"label": ..., "probabilities": {label: p}} for a text or a pair ({"labels": [...], ...} where it may
    have several, {"number": ...} for a number, {"cosine": ...} for a pair that is ranked), {"words": [...], "labels":
    [...]} for a sentence."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run's directory, or the folder, or hf://organisation/name."""

    file: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FILE")] = STANDARD_INPUT
    """A file like those the run was trained on, whose labels may be missing; `-` is standard input: a text a line,
    a word a line with an empty line after each sentence (or CoNLL-U, of a run that was trained on it), or two texts a
    line with a tab between."""

    step: CheckpointStep = "best"
    """Which checkpoint of a run: `best`, `latest`, or a step number."""

    pairs: bool = False
    """The folder labels pairs of texts, which its files do not say."""

    columns: str = ""
    """Names of the file's columns, as `--data.columns` in training; empty: those of the run, or of a folder text,label,
    form,upos (whatever the labels are) or first,second,label."""


def main(arguments: Sequence[str]) -> int:
    """Print the predictions that the command line asks for; 0 when done."""
    options = tyro.cli(Predict, args=list(arguments), prog="ctx-jax predict")
    with naming_flags(Predict):
        predictor = tasks.load(options.run, step=options.step, pairs=options.pairs, columns=options.columns)
        items = predictor.read(options.file)
        while some := list(islice(items, AT_ONCE)):
            for answer in predictor.predict(some):
                print(json.dumps(answer, ensure_ascii=False))
    return 0
