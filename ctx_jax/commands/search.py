"""`ctx-jax search ENCODER CORPUS --query TEXT`: the lines of a text that are nearest to a query."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from ctx_jax.data.text_files import Errors
from ctx_jax.embedding.load import CheckpointStep, load
from ctx_jax.embedding.similarity import query_prompt
from ctx_jax.embedding.text_index import open_index
from ctx_jax.io.errors import InputError


@dataclass(frozen=True)
class Search:
    """Find the lines of a text that are nearest to each query by the cosine of their sentence vectors. The lines'
    vectors are computed once and kept on disk. Prompts for queries and documents are the folder's, if it has them."""

    encoder: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENCODER")]
    """A run, a folder of AllenNLP, Hugging Face or `save_stack`, a file of word vectors, or hf://organisation/name."""

    corpus: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CORPUS")]
    """Text, a sentence a line; plain, .gz, .xz or .zst."""

    query: tuple[str, ...]
    """One or several texts."""

    count: int = 5
    """Lines to show for each query."""

    index: Path | None = None
    """The folder of the index; default: CORPUS.index."""

    json: bool = False
    """Print one JSON object a query: {"query": ..., "hits": [{"score": ..., "line": ..., "text": ...}, ...]}."""

    step: CheckpointStep = "best"
    """Which checkpoint of a run: `best`, `latest`, or a step number."""

    errors: Errors = "strict"
    """What to do with bytes that are not UTF-8."""


def main(arguments: Sequence[str]) -> int:
    """Print the lines that the command line asks for; 0 when done."""
    options = tyro.cli(Search, args=list(arguments), prog="ctx-jax search")
    if not options.query or options.count < 1:
        raise InputError("search needs a query and a count of at least 1: ctx-jax search ENCODER CORPUS --query TEXT")
    encoder = load(options.encoder, step=options.step)
    log = partial(print, file=sys.stderr, flush=True)
    index = open_index(encoder, options.corpus, options.index, errors=options.errors, log=log)
    queries = encoder.encode_array(options.query, prompt_name=query_prompt(encoder))
    for query, hits in zip(options.query, index.search(queries, options.count), strict=True):
        if options.json:
            print(json.dumps({"query": query, "hits": [hit._asdict() for hit in hits]}, ensure_ascii=False))
            continue
        print(query)
        for hit in hits:
            print(f"  {hit.score:5.3f}  line {hit.line}  {hit.text}")
    return 0
