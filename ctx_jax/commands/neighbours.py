"""`ctx-jax neighbours ENCODER CORPUS --word WORD`: the nearest words to a word in several of its contexts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from ctx_jax.commands.flags import naming_flags
from ctx_jax.data.text_files import Errors, LineReader
from ctx_jax.embedding.load import CheckpointStep, load
from ctx_jax.evaluation.neighbours import word_neighbours
from ctx_jax.io.errors import ConfigError
from ctx_jax.tokenizers.words import split_words


@dataclass(frozen=True)
class Neighbours:
    """Show a word in several sentences of a text, and the words in context whose vectors are nearest to each."""

    encoder: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENCODER")]
    """A run, a folder of AllenNLP, Hugging Face or `save_stack`, a file of word vectors, or hf://organisation/name."""

    corpus: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CORPUS")]
    """Text, a sentence a line; plain, .gz, .xz or .zst. `-` is standard input."""

    word: str
    """The word, spelled as in the text."""

    occurrences: int = 4
    """How many of its contexts to show."""

    count: int = 5
    """Neighbours to show for each."""

    sentences: int = 1000
    """How many sentences of the text are compared; those with the word come first."""

    layer: int = -1
    """Which layer, 0 first; -1: the top one."""

    step: CheckpointStep = "best"
    """Which checkpoint of a run: `best`, `latest`, or a step number."""

    errors: Errors = "strict"
    """What to do with bytes that are not UTF-8."""


def main(arguments: Sequence[str]) -> int:
    """Print the neighbours that the command line asks for; 0 when done."""
    options = tyro.cli(Neighbours, args=list(arguments), prog="ctx-jax neighbours")
    with naming_flags(Neighbours):
        for name in ("occurrences", "count", "sentences"):
            if getattr(options, name) < 1:
                raise ConfigError(name, f"must be at least 1, got {getattr(options, name)}")
        reader = LineReader(options.corpus, options.errors)
        encoder = load(options.encoder, step=options.step)
        layers = encoder.model.num_layers
        if not -layers <= options.layer < layers:
            raise ConfigError("layer", f"must be below {layers}, the layers of this encoder, got {options.layer}")

        def sentences() -> Iterator[list[str]]:
            return (split_words(line, encoder.processor.rule) for line in reader)

        counts = {"occurrences": options.occurrences, "count": options.count, "most": options.sentences}
        print(word_neighbours(encoder, sentences(), options.word, layer=options.layer, **counts))
    return 0
