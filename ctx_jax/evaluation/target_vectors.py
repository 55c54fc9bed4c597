"""Vectors of chosen words of many sentences, at every layer, in one pass that keeps nothing else.

Letters: L layers, K chosen words of a sentence, T words, D width.
"""

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ctx_jax.distributed.sharding import process_share
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.embedding.outputs import Choice, LayerChoice
from ctx_jax.io.errors import InputError
from ctx_jax.io.progress import Progress
from ctx_jax.typing import Log

_LOGGER = logging.getLogger("ctx_jax")
MEAN = "mean"
"""The name of the plain mean of the layers."""


class Targets(NamedTuple):
    """A sentence, and the spans of its words whose vectors are wanted: (first word, the one after the last)."""

    words: Sequence[str]
    spans: Sequence[tuple[int, int]]


class LayerVectors:
    """The vectors of an encoder at chosen layers: all, or those that `layers` names as in `Encoder.encode`.

    `names` are their numbers as strings; of several layers there is also "mean", their plain mean. `log` gets the
    progress of a long pass.
    """

    def __init__(self, encoder: Encoder, layers: LayerChoice = "all", log: Log = _LOGGER.info) -> None:
        """Raises InputError for layers that the encoder does not have, for a mix, and in a job of several processes."""
        if layers == "mix":
            raise InputError('layers="mix" has no numbers by layer: name layers, or set layers="all"')
        if process_share()[1] > 1:
            raise InputError("each process of a job encodes other sentences: run this evaluation in one process")
        numbers = Choice.of(layers, encoder.model.num_layers, None).numbers
        assert numbers is not None, "no mix"
        self._encoder, self._numbers, self._log = encoder, numbers, log
        self.names = (*map(str, numbers), *((MEAN,) if len(numbers) > 1 else ()))

    def __call__(self, sentences: Iterable[Targets], total: int | None = None) -> Iterator[np.ndarray]:
        """For each sentence the vectors of its spans, float32 [K, L, D], those of several words averaged.

        L counts `names`. Sentences are read some way ahead; the vectors of other words are not kept. `total`: how many
        sentences there are, for the time left.
        """
        progress = Progress("encoding", "sentences", total, self._log)
        waiting: deque[Sequence[tuple[int, int]]] = deque()

        def words() -> Iterator[Sequence[str]]:
            for sentence in sentences:
                if not all(0 <= start < stop <= len(sentence.words) for start, stop in sentence.spans):
                    raise InputError(f"{list(sentence.spans)} are no words of a sentence of {len(sentence.words)}")
                waiting.append(sentence.spans)
                yield sentence.words

        for values in self._encoder.encode(words(), layers=self._numbers):  # [L, T, D]
            spans = waiting.popleft()
            own = [values[:, start:stop].mean(axis=1) for start, stop in spans]
            chosen = np.stack(own) if own else values[:, :0].swapaxes(0, 1)  # [K, L, D]
            if len(self._numbers) > 1:
                chosen = np.concatenate([chosen, chosen.mean(axis=1, keepdims=True)], axis=1)
            progress.add()
            yield chosen
