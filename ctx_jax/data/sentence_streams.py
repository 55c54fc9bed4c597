"""Streams of sentences: which sentence each row of a batch reads, how far it has come, and which it reads next."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np

from ctx_jax.data.permutation import permuted
from ctx_jax.io.errors import InputError
from ctx_jax.tokenizers.characters import BEGIN, END

Assignment = Literal["rows", "shared"]


class SentenceSource(Protocol):
    """Indexed sentences, each a list of words without markers: a cache on disk, or a plain list of lists."""

    def __len__(self) -> int:
        """The number of sentences."""

    def __getitem__(self, index: int, /) -> Sequence[str]:
        """The words of a sentence, by its number from 0."""


class Piece(NamedTuple):
    """Steps `start` to `stop` of a sentence: step i reads tokens[i] and has tokens[i + 1] as its target."""

    tokens: list[str]  # of n words and two markers, so that there are n + 1 steps
    start: int
    stop: int


class SentenceStreams:
    """The endless streams of sentences that the rows of a batch read in one direction.

    With the shared assignment the other rows are followed too.
    """

    def __init__(
        self,
        sentences: SentenceSource,
        *,
        batch_size: int,
        rows: range,
        seed: int,
        assignment: Assignment,
        shuffle: bool,
    ) -> None:
        self._sentences, self._count = sentences, len(sentences)
        self._rows, self._tracked = rows, rows if assignment == "rows" else range(batch_size)
        self._seed, self._shuffle = seed, shuffle
        self._stride = batch_size if assignment == "rows" else None
        # The sentence each row reads and the steps of it already used; a row starts one before its first sentence.
        self._positions = [-1] * batch_size if self._stride is None else list(range(-batch_size, 0))
        self._next = 0  # the next sentence of the shared assignment
        self._offsets = [0] * batch_size
        self._tokens = [[END]] * batch_size  # nothing is left of it

    def read(self, steps: int) -> list[list[Piece]]:
        """The next `steps` steps of every row of `rows`, in order."""
        pieces = {row: self._read_row(row, steps) for row in self._tracked}
        return [pieces[row] for row in self._rows]

    def _read_row(self, row: int, steps: int) -> list[Piece]:
        pieces = []
        while steps:
            if self._offsets[row] == len(self._tokens[row]) - 1:
                self._next_sentence(row)
            start = self._offsets[row]
            stop = min(start + steps, len(self._tokens[row]) - 1)
            pieces.append(Piece(self._tokens[row], start, stop))
            self._offsets[row] = stop
            steps -= stop - start
        return pieces

    def _next_sentence(self, row: int) -> None:
        """Move a row to its next sentence that has words."""
        position = self._positions[row]
        attempts = max(2 * self._count, 10_000)
        for _ in range(attempts):
            position = self._next if self._stride is None else position + self._stride
            self._next = position + 1
            if self._open(row, position):
                self._positions[row], self._offsets[row] = position, 0
                return
        raise InputError(
            f"row {row} of the batch found no sentence with words in {attempts} attempts: the corpus holds only empty "
            "sentences, or, without shuffling, all sentences assigned to this row are empty; remove the empty lines"
        )

    def _open(self, row: int, position: int) -> bool:
        words = self._sentences[permuted(position, self._count, self._seed, shuffle=self._shuffle)]
        self._tokens[row] = [BEGIN, *words, END] if words else [END]
        return bool(words)

    def state(self) -> dict[str, np.ndarray]:
        """The positions of `rows`, int32 [rows] each (32 bits, so that jax can gather them from all processes)."""
        own = slice(self._rows.start, self._rows.stop)
        epoch, index = np.divmod(np.array(self._positions[own], np.int64), self._count)
        state = {"epoch": epoch, "index": index, "offset": np.array(self._offsets[own])}
        return {name: array.astype(np.int32) for name, array in state.items()}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from `state`, which holds all B rows."""
        positions = state["epoch"].astype(np.int64) * self._count + state["index"]
        if (state["index"] >= self._count).any():
            raise InputError(
                f"a position names sentence {state['index'].max()} of a corpus of {self._count}: it was saved with "
                "another corpus; resume with the run's own data"
            )
        self._positions = positions.tolist()
        self._offsets = state["offset"].tolist()
        self._next = max(self._positions) + 1
        for row in self._tracked:
            if self._positions[row] < 0:  # before its first sentence
                self._tokens[row] = [END]
            else:
                self._open(row, self._positions[row])
            if self._offsets[row] >= len(self._tokens[row]):
                raise InputError(
                    f"row {row} was saved at step {self._offsets[row]} of a sentence that has "
                    f"{len(self._tokens[row]) - 1}: the corpus has changed; resume with the run's own data"
                )
