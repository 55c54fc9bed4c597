"""A Transformer on held-out text: once, in its order, under one mask that is the same in every run.

Letters: B rows, T tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from ctx_jax.data.batch import Batch
from ctx_jax.data.prefetch import prefetch
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.data.sequences import Sequences
from ctx_jax.data.tokens import Tokens
from ctx_jax.encoders.transformer.model import Transformer
from ctx_jax.evaluation.perplexity import exp_or_inf
from ctx_jax.evaluation.pseudo_perplexity import AHEAD, term_means
from ctx_jax.io.progress import Progress
from ctx_jax.losses.language_model import COEFFICIENTS
from ctx_jax.tokenizers.subwords import Subwords

AT_ONCE = 16_384
"""Tokens of held-out text that each device reads at a time: validation asks for little memory whatever the batch."""

FIXED = 0
"""The seed of the masks and pairs of held-out text, the same in every run."""


def first_sentences(tokens: Tokens, count: int) -> Tokens:
    """The first `count` sentences of a text; 0: all."""
    if not count or count >= len(tokens):
        return tokens
    stop = int(tokens.offsets[count])
    documents = tokens.documents[: int(np.searchsorted(tokens.documents, count))]
    return Tokens(tokens.ids[:stop], tokens.begins[:stop], tokens.offsets[: count + 1], documents)


def held_out(tokens: Tokens, subwords: Subwords, model: Transformer, sequences: SequenceConfig) -> Sequences:
    """A text once, in its order, with the same masks and pairs every time."""
    return Sequences(
        tokens,
        subwords,
        replace(sequences, first_steps=0),
        seed=FIXED,
        epochs=1,
        shuffle=False,
        first_position=model.first_position,
    )


def rows_at_once(sequences: SequenceConfig, devices: int) -> int:
    """Rows of held-out text that `devices` read at a time, a multiple of their number."""
    return devices * max(1, min(AT_ONCE // sequences.length, -(-sequences.rows // devices)))


def held_out_metrics(
    model: Transformer,
    params: Any,
    tokens: Tokens,
    subwords: Subwords,
    sequences: SequenceConfig,
    report: Callable[[str], None],
    devices: Sequence[jax.Device] | None = None,
) -> dict[str, float]:
    """`metrics_of` of a text with one fixed mask and without dropout, by the devices given (default: this machine's).

    Masks belong to examples, so that the rows read at a time change nothing but rounding. `report` hears how far it is.
    """
    devices = devices or jax.local_devices()
    few = replace(sequences, rows=rows_at_once(sequences, len(devices)))
    progress = Progress("evaluating", "tokens", len(tokens.ids), report)
    with prefetch(held_out(tokens, subwords, model, few), AHEAD) as ready:
        batches = progress.track(ready, _real_tokens)
        return metrics_of(term_means(model, params, batches, few.rows, devices=devices))


def _real_tokens(batch: Batch) -> int:
    return int(np.count_nonzero(batch.arrays["mask"]))


def metrics_of(means: dict[str, float]) -> dict[str, float]:
    """Metrics of the terms' means: loss, perplexity of the tokens, accuracy, and the pair's where there is one."""
    name = "masked" if "masked" in means else "next_token"
    loss = sum(share * means[term] for term, share in COEFFICIENTS.items() if share and term in means)
    found = {"loss": loss, "perplexity": exp_or_inf(means[name]), "accuracy": means["accuracy"]}
    if "next_sentence" in means:
        found |= {f"{name}_loss": means[name], "next_sentence_loss": means["next_sentence"]}
        found["next_sentence_accuracy"] = means["next_sentence_accuracy"]
    return found
