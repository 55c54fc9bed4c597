"""`ctx-jax similarity ENCODER A B`: the cosine of two texts, or of the pairs of a file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from ctx_jax.commands.flags import naming_flags
from ctx_jax.data.text_pairs import read_pairs
from ctx_jax.embedding.load import CheckpointStep, load
from ctx_jax.embedding.similarity import similarity
from ctx_jax.evaluation.correlation import pearson, spearman
from ctx_jax.io.errors import ConfigError


@dataclass(frozen=True)
class Similarity:
    """Print the cosine of the sentence vectors of two texts, or of each pair of a file. If the file has gold scores,
    print Pearson's and Spearman's correlation with them instead."""

    encoder: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENCODER")]
    """A run, a folder of AllenNLP, Hugging Face or `save_stack`, a file of word vectors, or hf://organisation/name."""

    first: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="A")]
    """A text; without B, a file of pairs: .tsv, .csv, or columns between tabs; plain, .gz, .xz or .zst; `-` is standard
    input."""

    second: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="B")] = None
    """The other text."""

    columns: str = ""
    """Of a file: the columns in their order, between commas: first, second and gold; `_` skips one. Default: two
    columns, or three with the gold score last."""

    retrieval: bool = False
    """A is a query and B a document: each gets the prompt that the folder has for these."""

    json: bool = False
    """Print one JSON object."""

    step: CheckpointStep = "best"
    """Which checkpoint of a run: `best`, `latest`, or a step number."""


def main(arguments: Sequence[str]) -> int:
    """Print the similarities that the command line asks for; 0 when done."""
    options = tyro.cli(Similarity, args=list(arguments), prog="ctx-jax similarity")
    gold = None
    with naming_flags(Similarity):
        if options.second is None:
            first, second, gold = read_pairs(options.first, options.columns)
            if gold is not None and len(gold) < 2:
                raise ConfigError("columns", "names a gold score: a correlation needs two pairs or more, got one")
        elif options.columns:
            raise ConfigError("columns", "is for a file of pairs: leave it out, or leave B out")
        else:
            first, second = [options.first], [options.second]
    cosines = similarity(load(options.encoder, step=options.step), first, second, retrieval=options.retrieval)
    if gold is not None:
        found = {"pearson": pearson(cosines, gold), "spearman": spearman(cosines, gold), "pairs": len(gold)}
        lines = [f"{name}  {value:.4f}" if name != "pairs" else f"{name}  {value}" for name, value in found.items()]
    else:
        found = {"cosine": [round(float(cosine), 6) for cosine in cosines]}  # type: ignore[dict-item]
        lines = [f"{cosine:.4f}" for cosine in cosines]
    print(json.dumps(found) if options.json else "\n".join(lines))
    return 0
