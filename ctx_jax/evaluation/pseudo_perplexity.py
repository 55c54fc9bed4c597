"""What text costs a Transformer that was not trained on it: means over a fixed mask, and pseudo-perplexity.

Letters: B rows, T tokens, K predicted positions of a row, S pieces of a sentence, V vocabulary.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import jax
import numpy as np

from ctx_jax import losses
from ctx_jax.data.batch import Batch
from ctx_jax.data.prefetch import prefetch
from ctx_jax.data.tokens import BLOCK
from ctx_jax.distributed.sharding import pipelined, shard_batch
from ctx_jax.encoders.base import rounded
from ctx_jax.encoders.transformer.model import Transformer
from ctx_jax.evaluation.perplexity import exp_or_inf
from ctx_jax.io.errors import InputError
from ctx_jax.tokenizers.subwords import Subwords

Arrays = dict[str, np.ndarray]
AHEAD = 2
"""Batches made ready on a thread while the devices work on the one before."""


def term_means(
    model: Transformer,
    params: Any,
    batches: Iterable[Batch],
    rows: int,
    *,
    devices: Sequence[jax.Device] | None = None,
) -> dict[str, float]:
    """The mean of every term of the model's loss over all batches of `rows` rows, without dropout: "masked" (causal:
    "next_token") in nats, "accuracy", and those of the pair's label where the batches have one.

    The same batches give the same numbers on any number of `devices` (default: all of this machine), up to rounding.
    A term without a target is NaN.
    """
    run, lay = _compiled(model, rows, tuple(devices or ()))
    params = lay(params)
    sums: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(2))
    for terms in pipelined(run(params, batch.arrays, ()) for batch in batches):
        for name, pair in jax.device_get(terms).items():
            sums[name] += [part.sum(dtype=np.float64) for part in pair]
    return {name: total / weight if weight else math.nan for name, (total, weight) in sums.items()}


@dataclass(frozen=True)
class PseudoPerplexity:
    """What sentences cost a masked model whose every token was predicted from all others (Salazar et al. 2020)."""

    loss: float
    """Nats a token, special tokens left out."""
    tokens: int

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return exp_or_inf(self.loss)


def pseudo_perplexity(
    model: Transformer,
    params: Any,
    subwords: Subwords,
    sentences: Iterable[Sequence[str]],
    *,
    batch: int = 64,
    devices: Sequence[jax.Device] | None = None,
    advance: Callable[[int], object] = lambda count: None,
) -> PseudoPerplexity:
    """Mask each piece of each sentence (a list of words) in turn; a sentence of S pieces is read S times.

    A sentence longer than the model's positions is cut as training's rows are: into parts that fill them, the rest
    last, each read by itself. `batch` and `devices` change the speed alone; `advance` is called with the number of
    sentences just done. Raises ValueError for a causal model, for one without room for a piece, and where no sentence
    has a piece.
    """
    if model.causal:
        raise InputError("pseudo-perplexity masks tokens; a causal model has a perplexity of its own")
    room = model.longest - len(subwords.before) - len(subwords.after)
    if room < 1:
        raise InputError(
            f"pseudo-perplexity needs room for a token between the special ones, the model's positions hold "
            f"{model.longest}: take a model with more"
        )
    run, lay = _compiled(model, batch, tuple(devices or ()))
    params = lay(params)
    nats = tokens = 0.0
    with prefetch(_gaps(model, subwords, _parts(subwords, sentences, room), batch), AHEAD) as ready:
        running = (run(params, arrays, ())["masked"] for arrays in _told(ready, advance))
        for total, weight in map(jax.device_get, pipelined(running)):
            nats += float(total.sum(dtype=np.float64))
            tokens += float(weight.sum())
    if not tokens:
        raise InputError("pseudo-perplexity needs a token to predict: no sentence has one")
    return PseudoPerplexity(nats / tokens, round(tokens))


def _told(gaps: Iterable[tuple[Arrays, int]], advance: Callable[[int], object]) -> Iterator[Arrays]:
    """The arrays of `_gaps`; `advance` hears of the sentences that end in them, once they have been dealt with."""
    for arrays, ended in gaps:
        yield arrays
        if ended:
            advance(ended)


def _parts(subwords: Subwords, sentences: Iterable[Sequence[str]], room: int) -> Iterator[list[np.ndarray]]:
    """The parts of each sentence, with their special tokens; sentences are cut into pieces a block at a time."""
    waiting = iter(sentences)
    while block := list(islice(waiting, BLOCK)):
        for pieces in subwords.tokenize_words(block):
            starts = range(0, len(pieces.ids), room)
            yield [subwords.add_special_tokens(pieces.ids[start : start + room]) for start in starts]


def _gaps(
    model: Transformer, subwords: Subwords, sentences: Iterable[Sequence[np.ndarray]], batch: int
) -> Iterator[tuple[Arrays, int]]:
    """Batches of rows with one masked piece each, all rows of a batch rounded to the same length, and of how many
    sentences the last row is among them.

    sentences: the parts of each.
    """
    waiting: dict[int, list[tuple[np.ndarray, int]]] = defaultdict(list)
    ended: dict[int, int] = defaultdict(int)
    for parts in sentences:
        for number, ids in enumerate(parts, 1):
            length = min(rounded(len(ids)), model.longest)
            stop = len(ids) - len(subwords.after)
            for place in range(len(subwords.before), stop):
                waiting[length].append((ids, place))
                ended[length] += number == len(parts) and place == stop - 1
                if len(waiting[length]) == batch:
                    yield gap_rows(waiting.pop(length), length, batch, subwords), ended.pop(length)
    for length, rows in waiting.items():
        yield gap_rows(rows, length, batch, subwords), ended[length]


def gap_rows(gaps: Sequence[tuple[np.ndarray, int]], length: int, rows: int, subwords: Subwords) -> Arrays:
    """Rows of one sentence with one gap each; rows that are left over have weight 0."""
    arrays: Arrays = {
        "token_ids": np.full((rows, length), subwords.pad_id, np.int32),
        "mask": np.zeros((rows, length), bool),
        "predicted_positions": np.zeros((rows, 1), np.int32),
        "predicted_ids": np.zeros((rows, 1), np.int32),
        "predicted_weights": np.zeros((rows, 1), np.float32),
    }
    arrays["mask"][:, 0] = True
    for row, (ids, place) in enumerate(gaps):
        arrays["token_ids"][row, : len(ids)] = ids
        arrays["token_ids"][row, place] = subwords.mask_id
        arrays["mask"][row, : len(ids)] = True
        arrays["predicted_positions"][row], arrays["predicted_ids"][row] = place, ids[place]
        arrays["predicted_weights"][row] = 1.0
    return arrays


@lru_cache(maxsize=8)
def _compiled(
    model: Transformer, rows: int, devices: tuple[jax.Device, ...]
) -> tuple[Callable[..., Any], Callable[[Any], Any]]:
    """What runs the loss over `rows` rows, and what lays the parameters for it."""
    loss = losses.causal_lm if model.causal else losses.masked_lm

    def run(params: Any, batch: Any, carry: tuple[()]) -> Any:
        return jax.tree.map(lambda value: value[None], loss(model, params, batch, carry)[0])  # one a device

    return shard_batch(run, rows, devices)
