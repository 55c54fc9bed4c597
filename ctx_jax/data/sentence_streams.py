"""Lanes of sentences: where each lane stands in the endless stream, and how it takes its next sentence."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np

from ctx_jax.data.permutation import permuted
from ctx_jax.io.errors import InputError
from ctx_jax.tokenizers.characters import BEGIN, END


class SentenceSource(Protocol):
    """Indexed sentences, each a list of words without markers: a cache on disk, or a plain list of lists."""

    def __len__(self) -> int:
        """How many."""

    def __getitem__(self, index: int, /) -> Sequence[str]:
        """The words of one, by its number from 0."""


class Piece(NamedTuple):
    """Steps `start` to `stop` of a sentence of n words with its markers, n + 2 tokens; it has n + 1 steps."""

    tokens: list[str]
    start: int
    stop: int

    def forward(self) -> tuple[list[str], list[str]]:
        """Inputs and targets read forward: `<S> the cat`, `the cat </S>`."""
        return self.tokens[self.start : self.stop], self.tokens[self.start + 1 : self.stop + 1]

    def reverse(self) -> tuple[list[str], list[str]]:
        """Inputs and targets read backward: `</S> cat the`, `cat the <S>`."""
        last = len(self.tokens)  # step i reads tokens[last - 1 - i]
        inputs = self.tokens[last - self.stop : last - self.start]
        targets = self.tokens[last - 1 - self.stop : last - 1 - self.start]
        return inputs[::-1], targets[::-1]


class Lanes:
    """One order of reading: where each lane stands in the stream of sentences, and how it takes the next one.

    Only the lanes `walked` are kept up to date, and only those of `rows` are read for their words; of the others the
    length is enough.
    """

    def __init__(
        self,
        sentences: SentenceSource,
        *,
        lanes: int,
        rows: range,
        walked: range,
        seed: int,
        assignment: Literal["lanes", "shared"],
        shuffle: bool,
    ) -> None:
        self._sentences, self._count = sentences, len(sentences)
        self._rows, self._walked = rows, walked
        self._seed, self._shuffle = seed, shuffle
        self._stride = lanes if assignment == "lanes" else None
        # The last sentence a lane has taken and its steps already used; "one before the first" is no sentence yet.
        self._positions = [-1] * lanes if self._stride is None else [lane - lanes for lane in range(lanes)]
        self._next = 0  # of the shared generator
        self._offsets = [0] * lanes
        self._lengths = [0] * lanes
        self._tokens: list[list[str]] = [[]] * lanes

    def fill(self, window: int) -> list[list[Piece]]:
        """The next `window` steps of every walked lane, in row order."""
        return [self._fill_lane(lane, window) for lane in self._walked]

    def _fill_lane(self, lane: int, window: int) -> list[Piece]:
        pieces, room = [], window
        while room:
            if self._offsets[lane] == self._lengths[lane]:
                self._take(lane)
            start = self._offsets[lane]
            stop = min(start + room, self._lengths[lane])
            pieces.append(Piece(self._tokens[lane], start, stop))
            self._offsets[lane] = stop
            room -= stop - start
        return pieces

    def _take(self, lane: int) -> None:
        """Move a lane to its next sentence with words."""
        position = self._positions[lane]
        patience = max(2 * self._count, 10_000)
        for _ in range(patience):
            position = self._next if self._stride is None else position + self._stride
            self._next = position + 1
            if self._read(lane, position):
                self._positions[lane], self._offsets[lane] = position, 0
                return
        raise InputError(
            f"lane {lane} needs sentences with words, and met {patience} empty ones in a row: the corpus holds only "
            "empty sentences, or, without shuffling, this lane meets no others; remove the empty lines, or set "
            "--data.train"
        )

    def _read(self, lane: int, position: int) -> bool:
        words = self._sentences[permuted(position, self._count, self._seed, shuffle=self._shuffle)]
        if not words:
            return False
        self._lengths[lane] = len(words) + 1
        if lane in self._rows:
            self._tokens[lane] = [BEGIN, *words, END]
        return True

    def state(self) -> dict[str, np.ndarray]:
        """Where the lanes of `rows` stand, int32 [rows] each (32 bits, so that jax may carry them between hosts)."""
        own = slice(self._rows.start, self._rows.stop)
        epoch, index = np.divmod(np.asarray(self._positions[own], np.int64), self._count)
        offset = np.asarray(self._offsets[own])
        return {"epoch": epoch.astype(np.int32), "index": index.astype(np.int32), "offset": offset.astype(np.int32)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Stand where `state` (of all lanes, [B] each) says."""
        positions = state["epoch"].astype(np.int64) * self._count + state["index"]
        if (state["index"] >= self._count).any():
            raise InputError(
                f"a position names sentence {state['index'].max()} of a corpus of {self._count}: it was saved with "
                "another corpus; resume with the run's own data"
            )
        self._positions = positions.tolist()
        self._offsets = state["offset"].tolist()
        self._next = max(self._positions) + 1
        for lane in self._walked:
            position = self._positions[lane]
            read = position >= 0 and self._read(lane, position)
            if not read:
                self._lengths[lane] = 0
            if self._offsets[lane] > self._lengths[lane]:
                raise InputError(
                    f"lane {lane} was saved at step {self._offsets[lane]} of a sentence that has "
                    f"{self._lengths[lane]}: the corpus has changed; resume with the run's own data"
                )
