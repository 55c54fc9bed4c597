"""Batches of a Transformer's sequences: rows of packed text, masked, in an order that is a function of
(seed, position) alone.

The text is cut into examples, which have numbers, before the first batch. An epoch is a permutation of them; row b of
batch n reads the n B + b-th place of the endless stream of epochs (`row_streams`). So a process reads the text of its
own rows only, and any place of any epoch is found at once.

Letters: B rows, T tokens, K predicted positions of a row.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from ctx_jax.data.batch import Batch, CausalBatch, MaskedBatch, TokenRows
from ctx_jax.data.languages import LanguageTokens
from ctx_jax.data.row_streams import LanguageRows, RowStream, TextRows
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.data.tokens import Tokens
from ctx_jax.io.errors import ConfigError, InputError
from ctx_jax.tokenizers.subwords import Subwords


class Sequences(Iterator[Batch]):
    """An iterator of a Transformer's batches; every batch comes with the position after it.

    `batch.arrays` is a MaskedBatch, or a CausalBatch of packing "causal_blocks". Leading axis: this process's rows, of
    the same shapes in every batch. Of the fields that not all batches have:

        tokens.lengths        all but packed rows and causal blocks without cross_documents, which have
        tokens.segments       1, 2, ... and 0 at padding
        tokens.token_types    "pairs"
        next_sentence, next_sentence_weights      "pairs" with a label

    Positions of the data (`batch.position`, `sequences.position`, for `seek`): `epoch` and `index`, int32 [B]: the
    place in the epoch's order (several languages: the round's) of each row's last example. Several processes'
    concatenated are the position of all rows, whatever number of processes goes on from it.

    Args:
        tokens: the text, see `tokens.cache_tokens`; or the texts of several languages, each row of one of them.
        vocabulary: the tokenizer's special tokens and size.
        config: packing, shape and masking.
        seed: of order, packing, pairing and masks. Two sources of one run (a length schedule) need different ones.
        rows: the rows of this process; None: all.
        epochs: how often the text is read (several languages: rounds); None: without end. The last batch is filled up
            with rows of padding, whose weights are 0.
        shuffle: a permutation per epoch; without it the text's order.
        first_position: what positions of tokens count from, again in each segment. RoBERTa's tables begin after the
            padding's id (pad_id + 1): padding then stands at first_position - 1.

    Raises:
        ConfigError: an argument out of range. InputError: text that the packing cannot use.
    """

    def __init__(
        self,
        tokens: Tokens | LanguageTokens,
        vocabulary: Subwords,
        config: SequenceConfig,
        *,
        seed: int = 0,
        rows: slice | None = None,
        epochs: int | None = None,
        shuffle: bool = True,
        first_position: int = 0,
    ) -> None:
        own = range(config.batch_size)[slice(None) if rows is None else rows]
        if not len(own) or own.step != 1:
            raise ConfigError("rows", f"must be neighbouring rows out of {config.batch_size}, got {rows}")
        self._own, self._rows = np.arange(own.start, own.stop), config.batch_size
        self.stream: RowStream = (
            LanguageRows(tokens, vocabulary, config, seed, shuffle=shuffle)
            if isinstance(tokens, LanguageTokens)
            else TextRows(tokens, vocabulary, config, seed, shuffle=shuffle)
        )
        self._kind = CausalBatch if config.packing == "causal_blocks" else MaskedBatch
        self._pad, self._first_position = vocabulary.pad_id, first_position
        self._end = None if epochs is None else epochs * len(self.stream)
        self._next = 0  # place in the stream of row 0's next example

    @property
    def examples(self) -> int:
        """How many rows of text an epoch has."""
        return len(self.stream)

    @property
    def position(self) -> dict[str, np.ndarray]:
        """Where the data stands after the last batch given (or at the start), as in `batch.position`."""
        epoch, index = np.divmod(self._next - self._rows + self._own, len(self.stream))
        return {"epoch": epoch.astype(np.int32), "index": index.astype(np.int32)}

    def epochs(self, batches: int) -> np.ndarray:
        """How often the first `batches` batches of all processes read the text, or each language's: float64 [L]."""
        return self.stream.epochs(batches * self._rows)

    def seek(self, position: Mapping[str, np.ndarray]) -> None:
        """Go on after the batch whose `position` this is; nothing in between is read.

        Takes the position of all B rows, in their order: with several processes, theirs concatenated. Raises InputError
        for other keys or shapes, and for a position that is not one of this text in this packing.
        """
        shapes = {key: np.shape(value) for key, value in position.items()}
        if shapes != {"epoch": (self._rows,), "index": (self._rows,)}:
            raise InputError(
                f"a position needs epoch and index, each of shape ({self._rows},), got {shapes}: the batch size must "
                "be the one it was saved with, and the processes' positions concatenated"
            )
        epoch, index = (np.asarray(position[key], np.int64) for key in ("epoch", "index"))
        last = epoch * len(self.stream) + index
        first = last[0] + self._rows
        if (index >= len(self.stream)).any() or first < 0 or (np.diff(last) != 1).any() or first % self._rows:
            raise InputError(
                f"a position names example {index.max()} of a text of {len(self.stream)}, or rows that do not follow "
                "each other: it was saved with another text, tokenizer or packing; resume with the run's own"
            )
        self._next = int(first)

    def __next__(self) -> Batch:
        if self._end is not None and self._next >= self._end:
            raise StopIteration
        places = self._next + self._own
        if self._end is not None:
            places = places[places < self._end]
        arrays = self.stream.at(places)
        if missing := len(self._own) - len(places):
            for name, rows in arrays.items():
                padding = np.full((missing, *rows.shape[1:]), self._pad if name == "token_ids" else 0, rows.dtype)
                arrays[name] = np.concatenate([rows, padding])
        if self._first_position:
            arrays["positions"] = arrays["positions"] + np.int32(self._first_position)
            arrays["positions"][~arrays["mask"]] = self._first_position - 1
        arrays["rows"] = self._own.astype(np.int32)
        if "segments" not in arrays:
            arrays["lengths"] = arrays["mask"].sum(axis=1, dtype=np.int32)
        self._next += self._rows
        tokens = TokenRows(**{name: arrays[name] for name in TokenRows._fields if name in arrays})
        fields = {name: arrays[name] for name in self._kind._fields if name in arrays}
        return Batch(self._kind(tokens, **fields), self.position)
