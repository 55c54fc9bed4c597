"""How likely a Transformer's language model finds sentences: log probabilities and pseudo-log-likelihoods.

Letters: B rows, T tokens, S pieces of a sentence.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctx_jax import losses
from ctx_jax.data.batch import CausalBatch, MaskedBatch, TokenRows
from ctx_jax.distributed.sharding import RowFunction, pipelined
from ctx_jax.encoders.base import rounded
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.heads import VocabularyHead
from ctx_jax.io.errors import InputError, SentenceError, numbering_sentences
from ctx_jax.tokenizers.alignment import Pieces
from ctx_jax.tokenizers.subwords import Subwords
from ctx_jax.typing import Params

READ_AHEAD = 1024
"""Sentences that are sorted by length together."""

_Static = tuple[Transformer, VocabularyHead | None]


class PseudoLogLikelihood(NamedTuple):
    """Sums of log p of the pieces of a sentence, in nats."""

    original: float
    """Each piece with itself alone masked (Salazar et al. 2020)."""
    within_word_l2r: float
    """Each piece with the later pieces of its word masked too (Kauf and Ivanova 2023), so that the end of a rare word
    does not give away its beginning."""


class _Row(NamedTuple):
    """A row of a batch, and what is predicted of it."""

    inputs: np.ndarray  # int32 [T]
    positions: np.ndarray  # of the hidden states that predict
    labels: np.ndarray  # int32, as many


def pseudo_log_likelihoods(
    model: Transformer,
    params: Params,
    subwords: Subwords,
    sentences: Iterable[Sequence[str]],
    *,
    head: VocabularyHead | None = None,
    batch_size: int = 64,
    devices: Sequence[jax.Device] | None = None,
) -> Iterator[PseudoLogLikelihood]:
    """Both pseudo-log-likelihoods of each sentence, a list of words, in the order given.

    A word ends where it does in the list, and where the tokenizer's own pre-tokenizer ends one. All masked variants
    of a sentence are rows of one batch, of `batch_size` rows or the next multiple. `params` is {"encoder", "head"} as
    in `losses.masked_lm`, `head` its vocabulary head. Special tokens are not predicted.

    Raises InputError for a causal model, SentenceError for a sentence without a piece or longer than the positions.
    """
    if model.causal:
        raise InputError("a pseudo-log-likelihood masks tokens; a causal model has log probabilities of its own")
    run = RowFunction(_masked_nats, (model, head), params, devices)
    for block in _tokenized(model, subwords, sentences, overhead=len(subwords.before) + len(subwords.after)):
        variants = [_variants(pieces.words) for pieces in block]
        rows = [
            [_masked_row(subwords, pieces.ids, masked) for masked in own]
            for pieces, own in zip(block, variants, strict=True)
        ]
        batch = _MakeBatch(subwords.pad_id, causal=False)
        for own, pieces, nats in zip(variants, block, _nats(run, rows, batch, batch_size, model.longest), strict=True):
            logs = dict(zip(own, (-nats).tolist(), strict=True))
            yield PseudoLogLikelihood(
                sum(logs[piece, piece + 1] for piece in range(len(pieces.words))),
                sum(logs[piece, end] for piece, end in enumerate(_word_ends(pieces.words))),
            )


def log_probabilities(
    model: Transformer,
    params: Params,
    subwords: Subwords,
    sentences: Iterable[Sequence[str]],
    *,
    head: VocabularyHead | None = None,
    batch_size: int = 64,
    devices: Sequence[jax.Device] | None = None,
) -> Iterator[float]:
    """log p in nats of each sentence, a list of words, by a causal model: of its pieces, after the token that its
    tokenizer puts before a text, or else the end token that stands before a document in training. Arguments and errors
    as in `pseudo_log_likelihoods`, with `losses.causal_lm`.
    """
    if not model.causal:
        raise InputError("log probabilities need a causal model; a masked one has pseudo-log-likelihoods")
    before = np.array(subwords.before or [subwords.end_id], np.int32)
    subwords = subwords.without_special_tokens()
    run = RowFunction(_causal_nats, (model, head), params, devices)
    for block in _tokenized(model, subwords, sentences, overhead=len(before) - 1):
        inputs = [np.concatenate([before, pieces.ids])[:-1] for pieces in block]
        places = [np.arange(len(before) - 1, len(own)) for own in inputs]
        rows = [[_Row(own, at, pieces.ids)] for own, at, pieces in zip(inputs, places, block, strict=True)]
        batch = _MakeBatch(subwords.pad_id, causal=True)
        yield from (-float(nats[0]) for nats in _nats(run, rows, batch, batch_size, model.longest))


def _masked_nats(static: _Static, params: Params, batch: MaskedBatch) -> jax.Array:
    model, head = static
    return losses.masked_lm_tokens(model, params, batch, head=head)[:, 0]


def _causal_nats(static: _Static, params: Params, batch: CausalBatch) -> jax.Array:
    model, head = static
    nats = losses.causal_lm_tokens(model, params, batch, head=head)
    return jnp.sum(jnp.where(batch.weights > 0, nats, 0.0), axis=1)


def _tokenized(
    model: Transformer, subwords: Subwords, sentences: Iterable[Sequence[str]], overhead: int
) -> Iterator[list[Pieces]]:
    """The pieces of `READ_AHEAD` sentences at a time."""
    remaining = iter(sentences)
    for start in count(0, READ_AHEAD):
        if not (block := list(islice(remaining, READ_AHEAD))):
            return
        with numbering_sentences(range(start, start + len(block))):
            found = subwords.tokenize_pretokens(block)
            for number, pieces in enumerate(found):
                size = len(pieces.ids) + overhead
                if size == overhead:
                    raise SentenceError(number, "has no token to predict: leave it out")
                if size > model.longest:
                    raise SentenceError(
                        number, f"has {size} tokens, the model's positions hold {model.longest}: leave it out"
                    )
        yield found


def _word_ends(words: np.ndarray) -> list[int]:
    """For each piece the first one after its word; `words` [S] are the words of the pieces."""
    return np.searchsorted(words, words, side="right").tolist()


def _variants(words: np.ndarray) -> list[tuple[int, int]]:
    """The rows of a sentence, each as (the piece to predict, the end of the pieces from it on that are masked): one a
    piece, and one more a piece that is not the last of its word."""
    return [(piece, stop) for piece, end in enumerate(_word_ends(words)) for stop in sorted({piece + 1, end})]


def _masked_row(subwords: Subwords, ids: np.ndarray, masked: tuple[int, int]) -> _Row:
    hidden = ids.copy()
    hidden[slice(*masked)] = subwords.mask_id
    position = masked[0] + len(subwords.before)
    return _Row(subwords.add_special_tokens(hidden), np.array([position]), ids[masked[0] : masked[0] + 1])


class _MakeBatch(NamedTuple):
    """Rows to a batch."""

    pad_id: int
    causal: bool

    def __call__(self, rows: Sequence[_Row], height: int, length: int) -> MaskedBatch | CausalBatch:
        """The batch of these rows and empty ones, B = `height`, T = `length`."""
        tokens = np.full((height, length), self.pad_id, np.int32)
        mask = np.zeros((height, length), bool)
        mask[:, 0] = True  # an empty row attends to something
        width = length if self.causal else 1
        positions, labels = np.zeros((2, height, width), np.int32)
        weights = np.zeros((height, width), np.float32)
        for number, row in enumerate(rows):
            size, predicted = len(row.inputs), len(row.labels)
            tokens[number, :size], mask[number, :size] = row.inputs, True
            positions[number, :predicted], labels[number, :predicted] = row.positions, row.labels
            weights[number, :predicted] = 1.0
        if self.causal:
            return CausalBatch(TokenRows(tokens, mask=mask), labels, weights)
        return MaskedBatch(TokenRows(tokens, mask=mask), positions, labels, weights)


def _nats(
    run: RowFunction,
    sentences: Sequence[Sequence[_Row]],
    make: _MakeBatch,
    batch_size: int,
    longest: int,
) -> Iterator[np.ndarray]:
    """The nats of the rows of each sentence, in their order."""
    found: dict[int, np.ndarray] = {}
    running = (
        (numbers, run(make(rows, height, length), height))
        for numbers, rows, height, length in _batches(sentences, batch_size, longest)
    )
    for numbers, result in pipelined(running):
        nats, start = np.asarray(result, np.float64), 0
        for number in numbers:
            found[number] = nats[start : start + len(sentences[number])]
            start += len(sentences[number])
    return (found[number] for number in range(len(sentences)))


def _batches(
    sentences: Sequence[Sequence[_Row]], batch_size: int, longest: int
) -> Iterator[tuple[list[int], list[_Row], int, int]]:
    """(numbers of sentences, all rows of these, B, T): sentences of one rounded length, none of them divided."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, rows in enumerate(sentences):
        by_length[min(rounded(len(rows[0].inputs)), longest)].append(number)
    for length, numbers in sorted(by_length.items()):
        for group in _groups(numbers, [len(rows) for rows in sentences], batch_size):
            rows = [row for number in group for row in sentences[number]]
            yield group, rows, -(-len(rows) // batch_size) * batch_size, length


def _groups(numbers: Sequence[int], sizes: Sequence[int], most: int) -> Iterator[list[int]]:
    """The numbers in groups whose sizes sum to at most `most`; a larger one is alone."""
    group: list[int] = []
    total = 0
    for number in numbers:
        if group and total + sizes[number] > most:
            yield group
            group, total = [], 0
        group.append(number)
        total += sizes[number]
    yield group
