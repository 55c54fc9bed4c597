"""A cache of token vectors, so that a frozen biLM encodes each distinct word of many batches once.

Letters: B sentences, T words, C characters, N words, P projection.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from threading import Lock
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ctx_jax.encoders.base import padded_shape
from ctx_jax.encoders.elmo.token_encoder import encode_distinct
from ctx_jax.encoders.whole_words import WholeWordInputs
from ctx_jax.tokenizers.characters import BEGIN, END, PAD, encode_word, raw_ids
from ctx_jax.tokenizers.words import Rule
from ctx_jax.typing import Params

if TYPE_CHECKING:
    from ctx_jax.encoders.elmo.inputs import CharacterInputs
    from ctx_jax.encoders.elmo.model import BiLM

_ROWS = 256
"""Words of a chunk: always so many, so that a word's vector does not depend on those before it, not even in rounding.
The convolution of 256 words of 50 positions takes 105 MB at the published widths."""

_encode = jax.jit(encode_distinct, static_argnums=(0, 3))


class WordVectors:
    """Token vectors of words, computed once while they stay in a table of `capacity` words.

    A full table is cleared. The vector of a word does not depend on earlier calls. Calls from several threads run one
    after another.

    Memory, all in the host's: at most 4 x `capacity` x P bytes (134 MB for 65,536 words of the original's 512, of which
    the operating system gives only the rows in use) and about 100 bytes a word for its name. The parameters of the
    character network stay on the device.
    """

    def __init__(self, model: BiLM, params: Params, capacity: int = 65_536) -> None:
        self.model, self.capacity = model, capacity
        own = {name: value for name, value in params.items() if model.depth_of(f"{name}/") == 0}
        self._params = jax.tree.map(jnp.asarray, own)
        self._rows: dict[str, int] = {}  # of `_table`, where words are
        self._table = np.empty((capacity, model.projection), np.float32)
        self._lock = Lock()

    def __len__(self) -> int:
        """Words in the table."""
        return len(self._rows)

    def __call__(self, words: Sequence[str]) -> np.ndarray:
        """The vectors of n words, float32 [n, P]; `"<S>"` and `"</S>"` are the sentence markers."""
        with self._lock:
            pieces = range(0, len(words), self.capacity)
            found = [self._look_up(words[start : start + self.capacity]) for start in pieces]
        return found[0] if len(found) == 1 else np.concatenate([self._table[:0], *found])

    def add(self, words: Iterable[str]) -> None:
        """Encode words that are not in the table, at most as many as it has room for."""
        with self._lock:
            new = [word for word in dict.fromkeys(words) if word not in self._rows]
            self._encode(new[: self.capacity - len(self._rows)])

    def _look_up(self, words: Sequence[str]) -> np.ndarray:
        distinct = dict.fromkeys(words)
        new = [word for word in distinct if word not in self._rows]
        if len(self._rows) + len(new) > self.capacity:
            self._rows.clear()
            new = list(distinct)
        self._encode(new)
        return self._table[np.fromiter(map(self._rows.__getitem__, words), np.intp, len(words))]

    def _encode(self, new: list[str]) -> None:
        """Add words that are not in the table, which has room for them."""
        if new:
            first = len(self._rows)
            self._fill(new, self._table[first : first + len(new)])
            self._rows |= zip(new, range(first, first + len(new)), strict=True)

    def _fill(self, words: list[str], vectors: np.ndarray) -> None:
        """Encode words into the rows of `vectors`. Only then do they count as known, whatever goes wrong here."""
        ids = np.stack([encode_word(word, self.model.max_characters) for word in words])
        occupied = np.sum(raw_ids(ids) != PAD, axis=1)
        running = []
        for chunk, positions in _chunks(occupied, [bucket for bucket, _ in self.model.word_buckets]):
            padded = np.zeros((_ROWS, ids.shape[1]), np.int32)
            padded[: len(chunk)] = ids[chunk]
            running.append((chunk, _encode(self.model, self._params, padded, positions)))
        for chunk, encoded in running:
            vectors[chunk] = np.asarray(encoded)[: len(chunk)]


def _chunks(occupied: np.ndarray, buckets: list[int]) -> Iterator[tuple[np.ndarray, int]]:
    """(indices of words, positions computed) of every chunk. A word's positions depend on its own length alone."""
    for shorter, positions in zip([-1, *buckets], buckets, strict=False):
        members = np.flatnonzero((occupied > shorter) & (occupied <= positions))
        for start in range(0, len(members), _ROWS):
            yield members[start : start + _ROWS], positions


@dataclass(frozen=True, eq=False)
class CachedWordInputs(WholeWordInputs):
    """Words to {"token_vectors": float32 [B, T + 2, P], "token_mask": bool [B, T + 2]}, sentence markers included.

    It stands in for the processor `words` in front of frozen parameters; see `BiLM.with_word_cache`.
    """

    words: CharacterInputs
    vectors: WordVectors

    @property
    def rule(self) -> Rule:  # type: ignore[override]
        return self.words.rule

    @property
    def digest(self) -> str:
        """That of `words`."""
        return self.words.digest

    def describe(self) -> dict[str, Any]:
        """As `words`."""
        return self.words.describe()

    def prepare(self, sentences: Sequence[Sequence[str]]) -> None:
        """Encodes the new words of all sentences, as far as the table holds them, in full chunks."""
        self.vectors.add(chain.from_iterable(sentences))

    def pad(self, sentences: Sequence[Sequence[str]], rows: int | None, length: int | None) -> dict[str, np.ndarray]:
        height, width = padded_shape(self.sizes(sentences), rows, length, "words")
        lengths = np.zeros(height, np.intp)
        lengths[: len(sentences)] = [len(sentence) + 2 for sentence in sentences]
        mask = np.arange(width + 2)[None, :] < lengths[:, None]
        vectors = np.zeros((height, width + 2, self.vectors.model.projection), np.float32)
        vectors[mask] = self.vectors(list(chain.from_iterable((BEGIN, *sentence, END) for sentence in sentences)))
        return {"token_vectors": vectors, "token_mask": mask}
