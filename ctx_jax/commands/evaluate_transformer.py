"""What `ctx-jax evaluate` says of a Transformer's run."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ctx_jax.data.progress import Pace, paced
from ctx_jax.data.tokens import tokens_of
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.embedding.reading import SubwordReader
from ctx_jax.evaluation.held_out import held_out_metrics
from ctx_jax.evaluation.masked import pseudo_perplexity
from ctx_jax.models.transformer import Transformer
from ctx_jax.training.config import TrainConfig


def table(
    config: TrainConfig,
    encoder: Encoder,
    documents: Iterable[Sequence[str]],
    title: str,
    pseudo: bool,
    report: Callable[[str], None],
) -> str:
    """The means over the fixed mask of the run's own sequences as aligned lines, and the pseudo-perplexity.

    documents: sentences (lists of words), an empty one where a document begins. `report` hears how far it is. Raises
    ValueError for text without words, and what cutting it into sequences raises.
    """
    model, reader = encoder.model, encoder.reader
    assert isinstance(model, Transformer) and isinstance(reader, SubwordReader) and config.sequences is not None
    sentences, first = list[Sequence[str]](), [0]
    for words in paced(documents, "reading", "sentences", report):
        if words:
            sentences.append(words)
        elif first[-1] < len(sentences):
            first.append(len(sentences))
    if not sentences:
        raise ValueError("the text holds no word: give text with words in it")
    starts = np.array([start for start in first if start < len(sentences)], np.int64)
    cut = paced(sentences, "cutting into tokens", "sentences", report, len(sentences))
    tokens = tokens_of(cut, starts, reader.subwords)
    found = held_out_metrics(model, encoder.params, tokens, reader.subwords, config.sequences, report)
    rows = [(name.replace("_", " "), f"{value:,.4f}") for name, value in found.items()]
    if pseudo:
        pace = Pace("pseudo-perplexity", "sentences", report, len(sentences))
        result = pseudo_perplexity(model, encoder.params, reader.subwords, sentences, advance=pace.add)
        rows += [("pseudo-perplexity", f"{result.perplexity:,.4f}"), ("of tokens", f"{result.tokens:,}")]
    return "\n".join([title, *(f"  {name:<28}{value:>14}" for name, value in rows)])
