"""`ctx-jax export RUN DIR [--flags]`: write a trained run as files that other programs read."""

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from ctx_jax.commands.flags import naming_flags
from ctx_jax.embedding.hub import check_upload, upload
from ctx_jax.embedding.load import CheckpointStep
from ctx_jax.tasks.exporting import Part, export
from ctx_jax.tasks.model_card import CardOptions


@dataclass(frozen=True)
class Export:
    """Write a trained biLM as AllenNLP's options.json and weights.hdf5, with its softmax and vocabulary; a Transformer
    as a folder that transformers loads: config.json, model.safetensors and the tokenizer, or sentence-transformers; a
    table of word vectors as table.vec and table.bin, word2vec's text and binary. README.md, the model card, says what
    was written and how to load it."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run's directory, or anything else that `load` takes."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """A new folder for the files."""

    format: str = "model"
    """`allennlp` (biLM), `huggingface` or `sentence-transformers` (Transformer) or `word2vec` (word vectors); `model`:
    the one that fits it, `huggingface` of a Transformer."""

    step: CheckpointStep = "best"
    """Which checkpoint: `best` (by the metric that the run chose), `latest`, or a step number."""

    part: Part = "encoder"
    """`generator`: the generator of a run of `replaced_token` as a masked language model; its `encoder` is the
    discriminator."""

    encoder_only: bool = False
    """Leave all heads out. Without it the head of a run of `classify`, `tag` or `pairs` is written to a Hugging Face
    folder with the names of its labels, if a class of transformers computes the same."""

    card: Annotated[CardOptions, tyro.conf.arg(name="")] = field(default_factory=CardOptions)

    push: str = ""
    """A name on the Hugging Face Hub, organisation/name, under which DIR is uploaded too (`ctx-jax[hub]`), with the
    token of `hf auth login`. A repository that does not exist is made, as a private one."""


def main(arguments: Sequence[str]) -> int:
    """Write the files the command line asks for; 0 when done."""
    options = tyro.cli(Export, args=list(arguments), prog="ctx-jax export")
    if options.push:
        check_upload(options.push)
    # Python's default format of a warning quotes a source line of this package; print the message alone.
    with warnings.catch_warnings(record=True, action="always", category=UserWarning) as caught, naming_flags(Export):
        export(
            options.run,
            options.folder,
            form=options.format,
            step=options.step,
            part=options.part,
            encoder_only=options.encoder_only,
            card=options.card,
            name=options.push,
        )
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)
    print(f"{options.run} written to {options.folder}")
    if options.push:
        print(f"uploaded to {upload(options.folder, options.push)}")
    return 0
