"""Endless streams of a Transformer's rows, each found by its place: of one text, or of several languages.

Letters: B rows, L languages.
"""

from typing import Protocol

import numpy as np

from ctx_jax.data.corpus_shards import lay_out
from ctx_jax.data.languages import ROUND, LanguageTokens
from ctx_jax.data.masking import Masking
from ctx_jax.data.packing import Rows
from ctx_jax.data.permutation import permuted
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.data.tokens import Tokens
from ctx_jax.io.errors import ConfigError, InputError
from ctx_jax.tokenizers.subwords import Subwords


class RowStream(Protocol):
    """Rows by their places in an endless stream, a function of (seed, place) alone."""

    def __len__(self) -> int:
        """Rows of an epoch (several languages: of a round). Positions of the data are counted in these."""

    def at(self, places: np.ndarray) -> Rows:
        """The rows at places int64 [B], masked."""

    def epochs(self, rows: int) -> np.ndarray:
        """How often the first `rows` rows read each text, float64 [L]; L is 1 of one text."""


class TextRows:
    """The rows of one text; every epoch is a permutation of them."""

    def __init__(
        self, tokens: Tokens, vocabulary: Subwords, config: SequenceConfig, seed: int, *, shuffle: bool
    ) -> None:
        self._layout = lay_out(tokens, vocabulary, config, seed)
        self._masking = None if config.packing == "causal_blocks" else Masking(config, vocabulary, seed)
        self._seed, self._shuffle = seed, shuffle

    def __len__(self) -> int:
        return len(self._layout)

    def at(self, places: np.ndarray) -> Rows:
        """See `RowStream`."""
        epochs = places // len(self._layout)
        examples = np.array(
            [permuted(place, len(self._layout), self._seed, shuffle=self._shuffle) for place in places.tolist()],
            np.int64,
        )
        rows = self._layout.rows(examples, epochs)
        begins = rows.pop("begins")
        if self._masking is not None:
            rows |= self._masking(rows["token_ids"], begins, epochs, examples)
        return rows

    def epochs(self, rows: int) -> np.ndarray:
        """See `RowStream`."""
        return np.array([rows / len(self)])


class LanguageRows:
    """The rows of several languages by their shares (`languages.LanguageOrder`). Each language has an order of its own
    and begins again by itself, when its own rows are read; a row, pairs too, holds text of one language."""

    def __init__(
        self, tokens: LanguageTokens, vocabulary: Subwords, config: SequenceConfig, seed: int, *, shuffle: bool
    ) -> None:
        self._order = tokens.order(seed)
        self._streams: list[TextRows] = []
        for (name, text), own_seed in zip(tokens.texts.items(), tokens.seeds(seed), strict=True):
            try:
                self._streams.append(TextRows(text, vocabulary, config, own_seed, shuffle=shuffle))
            except ConfigError as error:
                raise ConfigError(error.field, f"{error.message} (text of {name})") from error
            except InputError as error:
                raise ConfigError("data.languages", f"{name}: {error}") from error

    def __len__(self) -> int:
        return ROUND

    def at(self, places: np.ndarray) -> Rows:
        """See `RowStream`."""
        language, before = self._order.at(places)
        rows: Rows = {}
        for number in np.unique(language).tolist() or [0]:  # a process may have no row of the last batch
            own = language == number
            for name, array in self._streams[number].at(before[own]).items():
                if name not in rows:
                    rows[name] = np.empty((len(places), *array.shape[1:]), array.dtype)
                rows[name][own] = array
        return rows

    def epochs(self, rows: int) -> np.ndarray:
        """See `RowStream`."""
        found: np.ndarray = self._order.first(rows) / np.array([len(stream) for stream in self._streams])
        return found
