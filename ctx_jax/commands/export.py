"""`ctx-jax export RUN DIR [--flags]`: a trained run as the files other programs read."""

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ctx_jax.checkpoints.run_files import VOCABULARY, existing
from ctx_jax.embedding.load import CheckpointStep, load
from ctx_jax.encoders.elmo import allennlp_files
from ctx_jax.encoders.elmo.model import BiLM
from ctx_jax.encoders.transformer import huggingface
from ctx_jax.encoders.transformer.inputs import SubwordReader
from ctx_jax.encoders.transformer.model import Transformer
from ctx_jax.io.errors import InputError
from ctx_jax.tokenizers.vocabulary import Vocabulary


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


def main(arguments: Sequence[str]) -> int:
    """Write the files the command line asks for; 0 when done."""
    options = tyro.cli(Export, args=list(arguments), prog="ctx-jax export")
    encoder = load(options.run, step=options.step)
    match encoder.model, options.format:
        case BiLM() as model, "model" | "allennlp":
            words = Vocabulary.read(existing(options.run, VOCABULARY)).words
            allennlp_files.write(options.folder, model, encoder.params, words)
        case Transformer() as model, "model" | "huggingface":
            assert isinstance(encoder.reader, SubwordReader), "a Transformer's run reads subwords"
            subwords, architecture = encoder.reader.subwords, huggingface.kept_architecture(options.run)
            # As Python shows a warning, it quotes a line of this package, which says nothing to who exports.
            with warnings.catch_warnings(record=True, action="always", category=UserWarning) as said:
                huggingface.write(options.folder, model, encoder.params, architecture=architecture, subwords=subwords)
            for one in said:
                print(f"warning: {one.message}", file=sys.stderr)
        case model, name:
            raise InputError(f"--format {name} has no place for a {type(model).__name__}: leave the flag out")
    print(f"{options.run} written to {options.folder}")
    return 0
