"""Word similarity of encoders: single words, and averages over a word's contexts in a text.

    python benchmarks/similarity.py minilm=path/to/minilm elmo=runs/elmo --data ../shared/data --text train.txt

Spearman's correlation with the ratings x 100, by layer, and the share of pairs whose words are both known or both occur
in the first sentences of the text. The text is prose, one paragraph a line.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import tyro

import ctx_jax
from ctx_jax.evaluation.results import Result
from ctx_jax.evaluation.word_similarity import context_similarity, word_similarity
from ctx_jax.tokenizers.words import split_sentences

LISTS = ("EN-MEN-TR-3k", "EN-SIMLEX-999", "EN-WS-353-ALL", "EN-MTurk-287", "EN-RG-65")


@dataclass(frozen=True)
class Options:
    """What is measured."""

    encoders: tyro.conf.Positional[tuple[str, ...]]
    """NAME=PATH each."""
    data: Path
    """A folder with `wordsim`."""
    text: Path | None = None
    sentences: int = 10_000
    occurrences: int = 20


def sentences(options: Options) -> Iterator[str]:
    """The first sentences of the text."""
    assert options.text is not None
    with options.text.open() as lines:
        found = (sentence for line in lines for sentence in split_sentences(line))
        yield from islice(found, options.sentences)


def show(name: str, way: str, result: Result) -> None:
    """One row a layer: the mean over all lists, and the lists that are named."""
    for layer in result.scores:
        own = [result.scores[layer], *(result.parts[each].scores[layer] for each in LISTS)]
        cells = [f"{100 * scores['spearman']:.1f} ({100 * scores['coverage']:.0f} %)" for scores in own]
        print(f"| {name}, {way} | {layer} | {' | '.join(cells)} |", flush=True)


def main(options: Options) -> None:
    """Print the table."""
    print(f"| | layer | mean of all lists | {' | '.join(LISTS)} |\n|---|---|---|{'---|' * len(LISTS)}")
    for encoder in options.encoders:
        name, _, path = encoder.partition("=")
        loaded = ctx_jax.load(path)
        folder = options.data / "wordsim"
        show(name, "single words", word_similarity(loaded, folder))
        if options.text and loaded.model.num_layers > 1:
            found = context_similarity(loaded, folder, sentences(options), occurrences=options.occurrences)
            show(name, "contexts", found)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
