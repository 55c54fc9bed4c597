"""Evaluate a text and return the metrics as aligned lines of text."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from ctx_jax.data.cache import build_cache
from ctx_jax.data.corpora import Source
from ctx_jax.data.tokens import Tokens, cache_tokens
from ctx_jax.encoders.elmo import BiLM
from ctx_jax.evaluation.perplexity import Perplexity, ProtocolName, perplexity, sentence_scores, summarize
from ctx_jax.evaluation.protocols import SentenceScore
from ctx_jax.evaluation.pseudo_perplexity import pseudo_perplexity
from ctx_jax.heads import VocabularyHead
from ctx_jax.io.files import atomic_file, temporary_folder
from ctx_jax.io.progress import Progress
from ctx_jax.tokenizers.vocabulary import Vocabulary
from ctx_jax.typing import Log, Params


class Report(NamedTuple):
    """What was measured: as a table of lines, and as numbers."""

    text: str
    metrics: dict[str, float]


def bilm(
    model: BiLM,
    params: Params,
    vocabulary: Vocabulary,
    sources: Sequence[Source],
    *,
    protocol: ProtocolName,
    batch: int,
    log: Log,
    per_sentence: Path | None = None,
) -> Report:
    """Perplexities of a text in both directions. Sentences are counted first, so that `log` shows the time left.

    `batch` is that of `perplexity`; `per_sentence` is a new file for the log probabilities of each sentence.
    """
    texts = (words for source in sources for words in source.documents())
    count = sum(1 for words in Progress("counting", "sentences", log=log).track(texts) if words)
    progress = Progress("evaluating", "sentences", count, log).add
    sentences = (words for source in sources for words in source.documents() if words)
    if protocol == "bilm-tf":
        return _perplexities(
            perplexity(model, params, vocabulary, sentences, protocol=protocol, batch=batch, progress=progress)
        )
    scores = sentence_scores(model, params, vocabulary, sentences, protocol=protocol, batch=batch, progress=progress)
    if per_sentence is None:
        return _perplexities(summarize(scores, protocol))
    with atomic_file(per_sentence) as file:
        return _perplexities(summarize(_written(scores, file), protocol))


def transformer_lm(
    encoder: Any,
    measure: Callable[[Tokens, Progress], dict[str, float]],
    text: Source,
    *,
    pseudo_perplexity_head: VocabularyHead | None = None,
    log: Log,
) -> Report:
    """The metrics that `measure` gives of a text and, with a head, the pseudo-perplexity.

    `encoder` is a loaded Transformer. The text and its tokens are cached in the
    system's temporary folder (TMPDIR), so that memory does not grow with the text unless that folder is in memory.
    Raises InputError for text without words, and what `Sequences` raises.
    """
    model, params, subwords = encoder.model, encoder.run_params, encoder.processor.subwords
    with temporary_folder("evaluate") as folder:
        sentences = build_cache(text, folder, log=log)
        tokens = cache_tokens(sentences, subwords, folder, log=log)
        progress = Progress("evaluating", "tokens", len(tokens.ids), log)
        metrics = measure(tokens, progress)
        rows = [(name.replace("_", " "), f"{value:,.4f}") for name, value in metrics.items()]
        if pseudo_perplexity_head is not None:
            progress = Progress("pseudo-perplexity", "sentences", len(sentences), log)
            result = pseudo_perplexity(
                model, params, subwords, sentences, head=pseudo_perplexity_head, progress=progress
            )
            rows += [("pseudo-perplexity", f"{result.perplexity:,.4f}"), ("of tokens", f"{result.tokens:,}")]
            metrics = metrics | {"pseudo_perplexity": result.perplexity}
    return Report(aligned(rows), metrics)


def _perplexities(found: Perplexity) -> Report:
    names = ("loss", "perplexity", "forward_perplexity", "backward_perplexity", "tokens", "unknown")
    table = aligned(
        [
            ("protocol", found.protocol),
            ("targets in either direction", f"{found.tokens:,}"),
            ("of them <UNK>", f"{found.unknown:.2%}"),
            ("loss, nats a target", f"{found.loss:.4f}"),
            ("perplexity", f"{found.perplexity:,.2f}"),
            ("forward perplexity", f"{found.forward_perplexity:,.2f}"),
            ("backward perplexity", f"{found.backward_perplexity:,.2f}"),
        ]
    )
    return Report(table, {name: getattr(found, name) for name in names})


def aligned(rows: Iterable[tuple[str, str]], *, texts: bool = False) -> str:
    """A table of names and values; the values stand to the left if they are `texts`, else to the right."""
    rows = list(rows)
    width = max(28, *(len(name) + 2 for name, _ in rows))
    ends = "\n" + " " * (width + 2)
    return "\n".join(
        f"  {name:<{width}}{value.replace(chr(10), ends) if texts else value.rjust(14)}" for name, value in rows
    )


def _written(scores: Iterable[SentenceScore], file: TextIO) -> Iterator[SentenceScore]:
    """Yield the scores and write each to `file`, as natural logarithms of probabilities."""
    for score in scores:
        line = {
            "sentence": score.sentence,
            "targets": score.tokens,
            "unknown": score.unknown,
            "forward_log_probability": -score.forward,
            "backward_log_probability": -score.backward,
        }
        file.write(json.dumps(line) + "\n")
        yield score
