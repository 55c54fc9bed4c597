"""Batches of a Transformer's sequences: rows of text in the form asked for, masked, in an order that is a function of
(seed, position) alone.

The text is cut into examples, which have numbers, when the iterator is made. An epoch is a permutation of them; row b
of batch n reads the n B + b-th place of the endless stream of epochs. So a host reads the text of its own rows only,
and any place of any epoch is found at once.

Letters: B rows, T tokens, K predicted positions of a row.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from ctx_jax.data.batch import Batch
from ctx_jax.data.corpus_shards import lay_out
from ctx_jax.data.full_sentences import CausalBlocks, FullSentences
from ctx_jax.data.masking import Masking
from ctx_jax.data.packing import Layout, PackedSentences
from ctx_jax.data.pairs import Pairs
from ctx_jax.data.permutation import permuted
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.data.tokens import SpecialIds, Tokens
from ctx_jax.io.errors import InputError


class Sequences(Iterator[Batch]):
    """An iterator of a Transformer's batches; every batch says where it ends.

    Arrays of a batch (leading axis: this host's rows), of the same shapes in every batch:

        token_ids         int32 [B, T]      masked, but for "causal"; padding is `vocabulary.pad_id`
        mask              bool [B, T]       True at real tokens
        lengths           int32 [B]         how many there are, where there are no segments: padding is at the end
        positions         int32 [B, T]      counted from `first_position`, again in each segment
        row               int32 [B]         the row's number among all hosts' rows, which seeds its dropout
        predicted_positions, predicted_ids  int32 [B, K], predicted_weights float32 [B, K]   but for "causal"
        next_token_id     int32 [B, T], weight float32 [B, T]      "causal"
        token_types       int32 [B, T]      "pairs"
        next_sentence     int32 [B], next_sentence_weight float32 [B]    "pairs" with a label; 1 is random or swapped
        segments          int32 [B, T]      "packed", and "causal" without cross_documents: 1, 2, ...; 0 at padding

    Positions (`batch.position`, `sequences.position`, for `seek`): `epoch` and `index`, int32 [B]: the place in the
    epoch's order of each row's last example. Several hosts' concatenated are the position of all rows, whatever number
    of hosts goes on from it. A source of another length or number of rows (a second phase) has positions of its own;
    it starts at its beginning, with a seed of its own (`order.mix_seed(seed, 1)`), or both phases read the same order.

    Args:
        tokens: the text; see `tokens.cache_tokens`.
        vocabulary: the tokenizer's special tokens and size.
        config: form, shape and masking; its first phase is another config (`config.first_phase`).
        seed: of order, packing, pairing and masks.
        rows: the rows of this host; None: all.
        epochs: how often the text is read; None: without end. The last batch is filled up with rows of padding, whose
            weights are 0.
        shuffle: a permutation per epoch; without it the text's order.
        first_position: what positions count from. RoBERTa's tables begin after the padding's id (pad_id + 1): padding
            then stands at first_position - 1.

    Raises:
        ValueError: an argument out of range, or text that the form cannot use.
    """

    def __init__(
        self,
        tokens: Tokens,
        vocabulary: SpecialIds,
        config: SequenceConfig,
        *,
        seed: int = 0,
        rows: slice | None = None,
        epochs: int | None = None,
        shuffle: bool = True,
        first_position: int = 0,
    ) -> None:
        own = range(config.rows)[slice(None) if rows is None else rows]
        if not len(own) or own.step != 1:
            raise InputError(f"a host needs a run of neighbouring rows out of {config.rows}, got {rows}; set rows")
        self._own, self._rows = np.arange(own.start, own.stop), config.rows
        self._layout = _layout(tokens, vocabulary, config, seed)
        self._masking = None if config.form == "causal" else Masking(config, vocabulary, seed)
        self._seed, self._shuffle, self._pad = seed, shuffle, vocabulary.pad_id
        self._first_position = first_position
        self._end = None if epochs is None else epochs * len(self._layout)
        self._next = 0  # place in the stream of row 0's next example

    @property
    def examples(self) -> int:
        """How many rows of text an epoch has."""
        return len(self._layout)

    @property
    def position(self) -> dict[str, np.ndarray]:
        """Where the data stands after the last batch given (or at the start), as in `batch.position`."""
        epoch, index = np.divmod(self._next - self._rows + self._own, len(self._layout))
        return {"epoch": epoch.astype(np.int32), "index": index.astype(np.int32)}

    def seek(self, position: Mapping[str, np.ndarray]) -> None:
        """Go on after the batch whose `position` this is; nothing in between is read.

        Takes the position of all B rows, in their order: with several hosts, theirs concatenated. Raises ValueError
        for other keys or shapes, and for a position that is not one of this text in this form.
        """
        shapes = {key: np.shape(value) for key, value in position.items()}
        if shapes != {"epoch": (self._rows,), "index": (self._rows,)}:
            raise InputError(
                f"a position needs epoch and index, each of shape ({self._rows},), got {shapes}: rows must be those "
                "it was saved with, and hosts' positions concatenated"
            )
        epoch, index = (np.asarray(position[key], np.int64) for key in ("epoch", "index"))
        last = epoch * len(self._layout) + index
        first = last[0] + self._rows
        if (index >= len(self._layout)).any() or first < 0 or (np.diff(last) != 1).any() or first % self._rows:
            raise InputError(
                f"a position names example {index.max()} of a text of {len(self._layout)}, or rows that do not follow "
                "each other: it was saved with another text, tokenizer or form; resume with the run's own"
            )
        self._next = int(first)

    def __next__(self) -> Batch:
        if self._end is not None and self._next >= self._end:
            raise StopIteration
        places = self._next + self._own
        if self._end is not None:
            places = places[places < self._end]
        epochs = places // len(self._layout)
        examples = np.array([self._example(place) for place in places.tolist()], np.int64)
        arrays = self._layout.rows(examples, epochs)
        begins = arrays.pop("begins")
        if self._masking is not None:
            arrays |= self._masking(arrays["token_ids"], begins, epochs, examples)
        if self._first_position:
            arrays["positions"] = arrays["positions"] + np.int32(self._first_position)
            arrays["positions"][~arrays["mask"]] = self._first_position - 1
        if missing := len(self._own) - len(places):
            empty = {"token_ids": self._pad, "positions": max(self._first_position - 1, 0)}
            arrays = {
                name: np.concatenate([rows, np.full((missing, *rows.shape[1:]), empty.get(name, 0), rows.dtype)])
                for name, rows in arrays.items()
            }
        arrays["row"] = self._own.astype(np.int32)
        if "segments" not in arrays:
            arrays["lengths"] = arrays["mask"].sum(axis=1, dtype=np.int32)
        self._next += self._rows
        return Batch(arrays, self.position)

    def _example(self, place: int) -> int:
        return permuted(place, len(self._layout), self._seed, shuffle=self._shuffle)


def _layout(tokens: Tokens, vocabulary: SpecialIds, config: SequenceConfig, seed: int) -> Layout:
    def lay(part: Tokens, own_seed: int) -> Layout:
        return _layout_of_chunk(part, vocabulary, config, own_seed)

    return lay_out(tokens, seed, lay, whole_documents=config.form == "pairs")


def _layout_of_chunk(tokens: Tokens, vocabulary: SpecialIds, config: SequenceConfig, seed: int) -> Layout:
    match config.form:
        case "full":
            return FullSentences(tokens, vocabulary, config.length, config.cross_documents, config.whole_sentences)
        case "pairs":
            return Pairs(tokens, vocabulary, config, seed)
        case "packed":
            return PackedSentences(tokens, vocabulary, config.length, seed)
        case "causal":
            return CausalBlocks(tokens, vocabulary, config.length, config.cross_documents)
