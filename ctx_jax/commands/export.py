"""`ctx-jax export RUN DIR [--flags]`: a trained run as the files other programs read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from ctx_jax.checkpoints import allennlp_files
from ctx_jax.embedding.load import load
from ctx_jax.text.vocabulary import Vocabulary
from ctx_jax.training.task import saved_vocabulary


@dataclass(frozen=True)
class Export:
    """Write a trained biLM as AllenNLP's options.json and weights.hdf5, its softmax and vocabulary beside them."""

    run: tyro.conf.Positional[Path]
    """The run's directory."""

    folder: tyro.conf.Positional[Path]
    """A new folder for the files."""

    step: Literal["best", "latest"] | int = "best"
    """Which checkpoint: of the lowest validation loss, the last one, or a step's number."""


def main(arguments: Sequence[str]) -> int:
    """Write the files the command line asks for; 0 when done."""
    options = tyro.cli(Export, args=list(arguments), prog="ctx-jax export")
    encoder = load(options.run, step=options.step)
    words = Vocabulary.read(saved_vocabulary(options.run)).words
    allennlp_files.write(options.folder, encoder.model, encoder.params, words)
    print(f"{options.run} written to {options.folder}")
    return 0
