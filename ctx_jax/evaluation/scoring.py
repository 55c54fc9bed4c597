"""Score rows of sentences with a biLM: the nats of every target, on one or several devices.

    row 0   the cat . </S>    a dog </S>      two sentences in succession, at steps 0 and 4
    row 1   so </S>                           the results of steps 2 to 6 are discarded
    step    0   1   2 3       4 5   6

Letters: B rows, T steps per call, C characters, n words of a sentence.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from ctx_jax.data.batch import BiLMBatch
from ctx_jax.distributed.sharding import shard_batch
from ctx_jax.encoders.elmo.model import BiLM
from ctx_jax.encoders.elmo.network import DIRECTIONS, zero_carry
from ctx_jax.io.errors import ConfigError, InputError
from ctx_jax.losses.bilm import bilm_tokens
from ctx_jax.tokenizers.characters import BEGIN, END, WordEncoder
from ctx_jax.tokenizers.vocabulary import Vocabulary
from ctx_jax.typing import Carry, Params


@dataclass
class ScoredSentence:
    """A sentence at its position in a row, and the sum of its nats so far; it has n + 1 targets in each direction."""

    index: int  # its number in the text
    start: int  # the step of its first target
    ids: np.ndarray  # [n + 2], with the markers
    char_ids: np.ndarray | None  # [n + 2, C]
    forward: float = 0.0
    backward: float = 0.0

    @property
    def end(self) -> int:
        """The step after its last target."""
        return self.start + len(self.ids) - 1


Rows = Sequence[Sequence[ScoredSentence]]
"""The sentences of each row."""


class BiLMScorer:
    """Scores T = `unroll_steps` steps of B = `rows` rows per call; the devices share the rows."""

    def __init__(
        self,
        model: BiLM,
        params: Params,
        vocabulary: Vocabulary,
        *,
        rows: int,
        unroll_steps: int,
        devices: Sequence[jax.Device] | None = None,
    ) -> None:
        for name, value in (("batch", rows), ("unroll_steps", unroll_steps)):
            if value < 1:
                raise ConfigError(name, f"must be at least 1, got {value}")
        softmax = params.get("head", {}).get("softmax")
        if softmax is None:
            raise InputError("perplexity needs params with a softmax head; these have none")
        size = softmax["decoder"]["bias"].shape[0]
        if size != len(vocabulary):
            raise InputError(
                f"the model's softmax has {size} words and the vocabulary {len(vocabulary)}: take the vocabulary the "
                "model was trained with"
            )
        self.rows, self.unroll_steps, self.unknown = rows, unroll_steps, vocabulary.unknown
        self._model, self._vocabulary = model, vocabulary
        self._encode = WordEncoder(model.max_characters) if model.token_input == "characters" else None
        self._run, place = _compiled(model, rows, tuple(devices or ()))
        self._params = place({"encoder": params["encoder"], "head": {"softmax": softmax}})

    def zero_carry(self) -> Carry:
        """The initial state of every row."""
        return zero_carry(self._model, self.rows)

    def sentence(self, index: int, words: Sequence[str], start: int = 0) -> ScoredSentence:
        """Encode sentence `index` of the text, with <S> and </S>, for step `start` of its row."""
        wrapped = [BEGIN, *words, END]
        char_ids = None if self._encode is None else self._encode(wrapped)
        return ScoredSentence(index, start, self._vocabulary.ids(wrapped), char_ids)

    def __call__(self, rows: Rows, start: int, carry: Carry) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], Carry]:
        """Score steps `start` to `start + T`: (forward nats, backward nats, forward targets) [B, T], and the state.

        Adds to each sentence the nats of its targets. The nats of steps without a sentence are undefined.
        """
        batch = self._batch(rows, start)
        nats, carry = self._run(self._params, batch, carry)
        forward, backward = (np.asarray(nats[name], np.float64) for name in DIRECTIONS)
        for row, sentence, steps, _ in _overlaps(rows, start, self.unroll_steps):
            sentence.forward += float(forward[row, steps].sum())
            sentence.backward += float(backward[row, steps].sum())
        return (forward, backward, batch.forward_targets), carry

    def _batch(self, rows: Rows, start: int) -> BiLMBatch:
        shape = (self.rows, self.unroll_steps)
        targets = [np.zeros(shape, np.int32) for _ in range(2)]
        if self._encode is None:
            inputs = [np.zeros(shape, np.int32) for _ in range(2)]
        else:
            # Steps without a sentence hold <S>, which is in the batch anyway and so adds no distinct word.
            marker = self._encode([BEGIN])[0]
            inputs = [np.broadcast_to(marker, (*shape, len(marker))).copy() for _ in range(2)]
        for row, sentence, steps, own in _overlaps(rows, start, self.unroll_steps):
            following = slice(own.start + 1, own.stop + 1)
            for direction, order in enumerate((1, -1)):
                ids = sentence.ids[::order]
                tokens = ids if sentence.char_ids is None else sentence.char_ids[::order]
                inputs[direction][row, steps] = tokens[own]
                targets[direction][row, steps] = ids[following]
        return BiLMBatch(inputs[0], inputs[1], targets[0], targets[1])


def _overlaps(rows: Rows, start: int, steps: int) -> Iterator[tuple[int, ScoredSentence, slice, slice]]:
    """(row, sentence, slice of the call's steps, slice of the sentence's targets), for sentences with targets in
    this call."""
    for row, sentences in enumerate(rows):
        for sentence in sentences:
            first, last = max(sentence.start, start), min(sentence.end, start + steps)
            if first < last:
                own = slice(first - sentence.start, last - sentence.start)
                yield row, sentence, slice(first - start, last - start), own


@lru_cache(maxsize=8)
def _compiled(
    model: BiLM, rows: int, devices: tuple[jax.Device, ...]
) -> tuple[Callable[..., Any], Callable[[Any], Any]]:
    """The compiled scoring function and the function that places parameters; cached, as a run evaluates many times."""

    def score(params: Params, batch: BiLMBatch, carry: Carry) -> tuple[dict[str, jax.Array], Carry]:
        return bilm_tokens(model, params, batch, carry)

    return shard_batch(score, rows, devices)
