"""`ctx-jax export RUN DIR [--flags]`: write a trained run as files that other programs read."""

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ctx_jax.commands.flags import naming_flags
from ctx_jax.embedding.load import CheckpointStep, load
from ctx_jax.encoders import FAMILIES
from ctx_jax.encoders.base import Imported
from ctx_jax.io.errors import ConfigError, InputError


@dataclass(frozen=True)
class Export:
    """Write a trained biLM as AllenNLP's options.json and weights.hdf5, with its softmax and vocabulary; a Transformer
    as a folder that transformers loads: config.json, model.safetensors and the tokenizer, or sentence-transformers; a
    table of word vectors as table.vec and table.bin, word2vec's text and binary."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's directory."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """A new folder for the files."""

    format: str = "model"
    """`allennlp` (biLM), `huggingface` or `sentence-transformers` (Transformer) or `word2vec` (word vectors); `model`:
    the one that fits it, `huggingface` of a Transformer."""

    step: CheckpointStep = "best"
    """Which checkpoint: `best` (by the metric that the run chose), `latest`, or a step number."""


def main(arguments: Sequence[str]) -> int:
    """Write the files the command line asks for; 0 when done."""
    options = tyro.cli(Export, args=list(arguments), prog="ctx-jax export")
    encoder = load(options.run, step=options.step)
    imported = Imported(**{name: getattr(encoder, name) for name in Imported._fields})
    family = next(family for family in FAMILIES if isinstance(encoder.model, family.model))
    name = type(encoder.model).__name__
    if not family.formats:
        raise InputError(f"{options.run} holds a {name}, which no format of other programs can hold")
    form = next(iter(family.formats)) if options.format == "model" else options.format
    if form not in family.formats:
        with naming_flags(Export):
            formats = ", ".join(form for family in FAMILIES for form in family.formats)
            raise ConfigError("format", f"{form} cannot hold a {name}: leave it out (the formats are {formats})")
    # Python's default format of a warning quotes a source line of this package; print the message alone.
    with warnings.catch_warnings(record=True, action="always", category=UserWarning) as caught:
        family.formats[form](options.folder, imported, options.run)
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)
    print(f"{options.run} written to {options.folder}")
    return 0
