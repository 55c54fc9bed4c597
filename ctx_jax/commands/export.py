"""`ctx-jax export RUN DIR [--flags]`: a trained run as the files other programs read."""

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ctx_jax.embedding.load import CheckpointStep, load
from ctx_jax.encoders import FAMILIES
from ctx_jax.io.errors import ConfigError


@dataclass(frozen=True)
class Export:
    """Write a trained biLM as AllenNLP's options.json and weights.hdf5, its softmax and vocabulary beside them; a
    Transformer as a folder that transformers loads: config.json, model.safetensors, the tokenizer."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's directory."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """A new folder for the files."""

    format: Literal["model", "allennlp", "huggingface"] = "model"
    """Whose files: `allennlp` of a biLM, `huggingface` of a Transformer; `model` takes the one that the model has."""

    step: CheckpointStep = "best"
    """Which checkpoint: of the lowest validation loss, the last one, or a step's number."""


OPTIONS = Export


def main(arguments: Sequence[str]) -> int:
    """Write the files the command line asks for; 0 when done."""
    options = tyro.cli(Export, args=list(arguments), prog="ctx-jax export")
    encoder = load(options.run, step=options.step)
    family = next(family for family in FAMILIES if isinstance(encoder.model, family.model))
    if options.format not in ("model", family.format):
        raise ConfigError("format", f"{options.format} has no place for a {type(encoder.model).__name__}: leave it out")
    assert family.write_folder is not None, "every family of the package has an export"
    # Python's own format of a warning quotes a line of this package, which does not help the user.
    with warnings.catch_warnings(record=True, action="always", category=UserWarning) as caught:
        family.write_folder(
            options.folder, encoder.model, encoder.params, encoder.heads, encoder.processor, options.run
        )
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)
    print(f"{options.run} written to {options.folder}")
    return 0
