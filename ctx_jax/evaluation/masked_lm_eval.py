"""A Transformer's loss on held-out text, read once and in order, with the same masks in every run.

Letters: B rows, T tokens.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np

from ctx_jax import losses
from ctx_jax.data.batch import Batch
from ctx_jax.data.prefetch import prefetch
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.data.sequences import Sequences
from ctx_jax.data.tokens import Tokens
from ctx_jax.distributed.sharding import pipelined, shard_batch
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.evaluation.perplexity import exp_or_inf
from ctx_jax.heads import VocabularyHead
from ctx_jax.io.progress import Progress
from ctx_jax.losses.language_model import COEFFICIENTS
from ctx_jax.tokenizers.subwords import Subwords
from ctx_jax.typing import Params

TOKENS_PER_DEVICE = 16_384
"""At most so many tokens of a batch on each device: this bounds memory whatever the batch size of training."""

SEED = 0
"""Seed of the masks and sentence pairs of held-out text."""

PREFETCHED = 2
"""Batches that a background thread prepares ahead of the devices."""


@lru_cache(maxsize=8)
def compile_loss(
    model: Transformer, head: VocabularyHead | None, batch_size: int, devices: tuple[jax.Device, ...]
) -> tuple[Callable[..., Any], Callable[[Any], Any]]:
    """`loss(params, batch, ()) -> terms`, each sum and weight with one entry per device, and a function that replicates
    the parameters on the devices."""
    loss = losses.causal_lm if model.causal else losses.masked_lm

    def terms(params: Params, batch: Any, carry: tuple[()]) -> Any:
        return jax.tree.map(lambda value: value[None], loss(model, params, batch, carry, head=head)[0])

    return shard_batch(terms, batch_size, devices)


def first_sentences(tokens: Tokens, count: int) -> Tokens:
    """The first `count` sentences of a text; 0: all."""
    if not count or count >= len(tokens):
        return tokens
    stop = int(tokens.offsets[count])
    documents = tokens.documents[: int(np.searchsorted(tokens.documents, count))]
    return Tokens(tokens.ids[:stop], tokens.begins[:stop], tokens.offsets[: count + 1], documents)


def evaluation_sequences(
    tokens: Tokens, subwords: Subwords, model: Transformer, sequences: SequenceConfig
) -> Sequences:
    """The batches of one pass over a text, in order, with the same masks and pairs every time."""
    return Sequences(
        tokens,
        subwords,
        replace(sequences, short_steps=0),
        seed=SEED,
        epochs=1,
        shuffle=False,
        first_position=model.first_position,
    )


def evaluation_batch_size(sequences: SequenceConfig, devices: int) -> int:
    """Rows in a batch of held-out text, a multiple of the number of `devices`."""
    return devices * max(1, min(TOKENS_PER_DEVICE // sequences.length, -(-sequences.batch_size // devices)))


def masked_lm_metrics(
    model: Transformer,
    params: Params,
    tokens: Tokens,
    subwords: Subwords,
    sequences: SequenceConfig,
    *,
    head: VocabularyHead | None = None,
    devices: Sequence[jax.Device] | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """`metrics_of_means` of a text without dropout: of masked tokens or, for a causal model, of next tokens.

    `params` is {"encoder", "head"} as in `losses.masked_lm`, `head` its vocabulary head. Masks depend on the example
    alone, so the batch size and the number of `devices` (default: all of this machine) change only rounding. The mean
    of a term without a target is NaN. `progress` counts tokens.
    """
    means = text_means(
        partial(compile_loss, model, head), model, params, tokens, subwords, sequences, devices, progress
    )
    return metrics_of_means(means)


def text_means(
    compiled: Callable[[int, tuple[jax.Device, ...]], tuple[Callable[..., Any], Callable[[Any], Any]]],
    model: Transformer,
    params: Params,
    tokens: Tokens,
    subwords: Subwords,
    sequences: SequenceConfig,
    devices: Sequence[jax.Device] | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """The mean of each term of a loss over a text; `compiled(batch_size, devices)` gives what `compile_loss` does.

    A row's number is that of its example, so that what a loss draws by rows (`losses.replaced_token`) does not depend
    on the batch size."""
    devices = devices or jax.local_devices()
    config = replace(sequences, batch_size=evaluation_batch_size(sequences, len(devices)))
    progress = progress or Progress("evaluating", "tokens", len(tokens.ids))
    loss, replicate = compiled(config.batch_size, tuple(devices))
    params = replicate(params)
    sums: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(2))
    with prefetch(evaluation_sequences(tokens, subwords, model, config), PREFETCHED) as ready:
        batches = progress.track(ready, lambda batch: float(np.count_nonzero(batch.arrays.tokens.mask)))
        for terms in pipelined(loss(params, _by_example(batch), ()) for batch in batches):
            for name, pair in jax.device_get(terms).items():
                sums[name] += [part.sum(dtype=np.float64) for part in pair]
    return {name: total / weight if weight else math.nan for name, (total, weight) in sums.items()}


def _by_example(batch: Batch) -> Any:
    return batch.arrays._replace(tokens=batch.arrays.tokens._replace(rows=batch.position["index"]))


def metrics_of_means(means: dict[str, float]) -> dict[str, float]:
    """Metrics of the terms' means: loss, perplexity and accuracy of the tokens; those of the next-sentence label if
    there is one."""
    name = "masked" if "masked" in means else "next_token"
    loss = sum(share * means[term] for term, share in COEFFICIENTS.items() if share and term in means)
    metrics = {"loss": loss, "perplexity": exp_or_inf(means[name]), "accuracy": means["accuracy"]}
    if "next_sentence" in means:
        metrics |= {f"{name}_loss": means[name], "next_sentence_loss": means["next_sentence"]}
        metrics["next_sentence_accuracy"] = means["next_sentence_accuracy"]
    return metrics
