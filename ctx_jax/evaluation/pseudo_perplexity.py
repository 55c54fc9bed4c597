"""Pseudo-perplexity of a masked language model: each token is predicted from all others (Salazar et al. 2020).

Letters: B rows, T tokens, S pieces of a sentence.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import jax
import numpy as np

from ctx_jax.data.batch import MaskedBatch, TokenRows
from ctx_jax.data.prefetch import prefetch
from ctx_jax.data.tokens import BLOCK
from ctx_jax.distributed.sharding import pipelined
from ctx_jax.encoders.base import rounded
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.evaluation.masked_lm_eval import PREFETCHED, compile_loss
from ctx_jax.evaluation.perplexity import exp_or_inf
from ctx_jax.heads import VocabularyHead
from ctx_jax.io.errors import InputError
from ctx_jax.io.progress import Progress
from ctx_jax.tokenizers.subwords import Subwords
from ctx_jax.typing import Params


@dataclass(frozen=True)
class PseudoPerplexity:
    """The pseudo-perplexity of a text."""

    loss: float
    """Nats a token, special tokens left out."""
    tokens: int

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return exp_or_inf(self.loss)


def pseudo_perplexity(
    model: Transformer,
    params: Params,
    subwords: Subwords,
    sentences: Iterable[Sequence[str]],
    *,
    head: VocabularyHead | None = None,
    batch_size: int = 64,
    devices: Sequence[jax.Device] | None = None,
    progress: Progress | None = None,
) -> PseudoPerplexity:
    """Mask each piece of each sentence (a list of words) in turn; a sentence of S pieces takes S rows.

    A sentence longer than the model's positions is cut into parts, all of full length but the last, which are scored
    independently, as in training. `params` is {"encoder", "head"} as in `losses.masked_lm`, `head` its vocabulary head.
    `batch_size` and `devices` affect speed alone; `progress` counts sentences.

    Raises InputError for a causal model, for a model whose positions have no room for a piece, and if no sentence has
    a piece.
    """
    if model.causal:
        raise InputError("pseudo-perplexity masks tokens; a causal model has a perplexity of its own")
    room = model.longest - len(subwords.before) - len(subwords.after)
    if room < 1:
        raise InputError(
            f"pseudo-perplexity needs room for a token between the special ones, the model's positions hold "
            f"{model.longest}: use a model with more"
        )
    progress = progress or Progress("pseudo-perplexity", "sentences")
    loss, replicate = compile_loss(model, head, batch_size, tuple(devices or ()))
    params = replicate(params)
    nats = tokens = 0.0
    masked = _masked_batches(model, subwords, _parts(subwords, sentences, room), batch_size)
    with prefetch(masked, PREFETCHED) as ready:
        batches = progress.track(ready, lambda item: item[1])
        terms = (loss(params, batch, ())["masked"] for batch, _ in batches)
        for total, weight in map(jax.device_get, pipelined(terms)):
            nats += float(total.sum(dtype=np.float64))
            tokens += float(weight.sum())
    if not tokens:
        raise InputError("pseudo-perplexity needs a token to predict: no sentence has one")
    return PseudoPerplexity(nats / tokens, round(tokens))


def _parts(subwords: Subwords, sentences: Iterable[Sequence[str]], room: int) -> Iterator[list[np.ndarray]]:
    """The parts of each sentence, special tokens added; `BLOCK` sentences are tokenized at a time."""
    remaining = iter(sentences)
    while block := list(islice(remaining, BLOCK)):
        for pieces in subwords.tokenize_words(block):
            starts = range(0, len(pieces.ids), room)
            yield [subwords.add_special_tokens(pieces.ids[start : start + room]) for start in starts]


def _masked_batches(
    model: Transformer, subwords: Subwords, sentences: Iterable[Sequence[np.ndarray]], batch_size: int
) -> Iterator[tuple[MaskedBatch, int]]:
    """(batch of rows with one masked piece each, the number of sentences whose last row it holds); the rows of a batch
    round to one length. `sentences`: the parts of each."""
    waiting: dict[int, list[tuple[np.ndarray, int]]] = defaultdict(list)  # by length
    finished: dict[int, int] = defaultdict(int)
    for parts in sentences:
        for number, ids in enumerate(parts, 1):
            length = min(rounded(len(ids)), model.longest)
            stop = len(ids) - len(subwords.after)
            for position in range(len(subwords.before), stop):
                waiting[length].append((ids, position))
                finished[length] += number == len(parts) and position == stop - 1
                if len(waiting[length]) == batch_size:
                    yield _masked_batch(waiting.pop(length), length, batch_size, subwords), finished.pop(length)
    for length, rows in waiting.items():
        yield _masked_batch(rows, length, batch_size, subwords), finished[length]


def _masked_batch(
    masked: Sequence[tuple[np.ndarray, int]], length: int, batch_size: int, subwords: Subwords
) -> MaskedBatch:
    """A batch of the rows `masked`, (ids, position to mask) each; the remaining rows have weight 0."""
    tokens = np.full((batch_size, length), subwords.pad_id, np.int32)
    mask = np.zeros((batch_size, length), bool)
    mask[:, 0] = True
    positions, ids = np.zeros((2, batch_size, 1), np.int32)
    weights = np.zeros((batch_size, 1), np.float32)
    for row, (text, position) in enumerate(masked):
        tokens[row, : len(text)], mask[row, : len(text)] = text, True
        tokens[row, position] = subwords.mask_id
        positions[row], ids[row], weights[row] = position, text[position], 1.0
    return MaskedBatch(TokenRows(tokens, mask=mask), positions, ids, weights)
