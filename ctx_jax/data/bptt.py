"""Batches for truncated backpropagation through time: B streams of sentences, cut into batches of T steps.

A row reads one sentence after another. A sentence that does not fit continues in the next batch; nothing is padded, and
the LSTM's state is carried over sentence ends. Two rows, T = 4, inputs:

    batch      1                       2
    row 0      <S>  the  cat   sat  |  on   the  mat  .        "the cat sat on the mat ."
    row 1      <S>  a    dog   <S>  |  one  <S>  a    cat      "a dog", "one", "a cat ."

Letters: B rows, T steps (tokens), C characters.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np

from ctx_jax.data.batch import Batch, BiLMBatch
from ctx_jax.data.permutation import mix_seed
from ctx_jax.data.sentence_streams import Assignment, Piece, SentenceSource, SentenceStreams
from ctx_jax.io.errors import ConfigError, InputError
from ctx_jax.tokenizers.characters import WordEncoder
from ctx_jax.tokenizers.vocabulary import Vocabulary


class BPTTBatches(Iterator[Batch]):
    """An endless iterator of BiLMBatch, determined by the arguments alone; each batch holds the position after it.

    A position (`batch.position`, `batches.position`, the argument of `seek`) is `epoch`, `index` and `offset`, int32
    [B] each: the sentence that a row reads (by its index in the epoch's order) and how many of its steps are used;
    with separate directions also `epoch_reverse` and so on. The concatenated positions of several processes are the
    position of all rows, from which any number of processes can resume.

    Sentences without words are skipped: they would only train `<S>` -> `</S>`.

    Args:
      sentences: the corpus.
      vocabulary: `.ids(words)`, for targets (and for `token_input="words"`).
      batch_size, unroll_steps, directions, assignment, shuffle: see `config.BiLMData`.
      seed: of the shuffles.
      max_characters: C.
      token_input: "characters": inputs are char_ids [B, T, C]; "words": ids of the vocabulary [B, T].
      rows: the rows of this process; None: all.

    Raises:
      ConfigError: `rows` selects no adjacent rows of the batch.
      InputError: there are no sentences; from `next`: all sentences are empty.
    """

    def __init__(
        self,
        sentences: SentenceSource,
        vocabulary: Vocabulary,
        *,
        batch_size: int,
        unroll_steps: int,
        seed: int = 0,
        max_characters: int = 50,
        directions: Literal["shared", "separate"] = "shared",
        assignment: Assignment = "rows",
        shuffle: bool = True,
        token_input: Literal["characters", "words"] = "characters",
        rows: slice | None = None,
    ) -> None:
        own = range(batch_size)[slice(None) if rows is None else rows]
        if not len(own) or own.step != 1:
            raise ConfigError("batch_size", f"{batch_size} gives a process no adjacent rows {rows}: set a larger one")
        if len(sentences) == 0:
            raise InputError("training needs at least one sentence, and the corpus has none")
        self._vocabulary = vocabulary
        self._encode = WordEncoder(max_characters) if token_input == "characters" else None
        self._batch_size, self._steps = batch_size, unroll_steps
        self._rows = np.arange(own.start, own.stop, dtype=np.int32)
        seeds = {"": seed} if directions == "shared" else {"": seed, "_reverse": mix_seed(seed, 1)}
        self._streams = {
            suffix: SentenceStreams(
                sentences, batch_size=batch_size, rows=own, seed=stream_seed, assignment=assignment, shuffle=shuffle
            )
            for suffix, stream_seed in seeds.items()
        }

    @property
    def position(self) -> dict[str, np.ndarray]:
        """The position after the last batch, or at the start, as in `batch.position`."""
        streams = self._streams.items()
        return {key + suffix: value for suffix, stream in streams for key, value in stream.state().items()}

    def seek(self, position: Mapping[str, np.ndarray]) -> None:
        """Continue after the batch that has this `position`, without reading the text before it.

        `position` is that of all B rows: with several processes, their positions concatenated in order. InputError for
        other keys or shapes, and for a position that does not fit the corpus.
        """
        shapes = {key: np.shape(value) for key, value in position.items()}
        if shapes != dict.fromkeys(self.position, (self._batch_size,)):
            raise InputError(
                f"a position needs {', '.join(self.position)}, each of shape ({self._batch_size},), got {shapes}: "
                "directions and batch_size must be those it was saved with, and the processes' positions concatenated"
            )
        for suffix, stream in self._streams.items():
            stream.restore({key: np.asarray(position[key + suffix]) for key in ("epoch", "index", "offset")})

    def __next__(self) -> Batch:
        pieces = {suffix: stream.read(self._steps) for suffix, stream in self._streams.items()}
        forward_inputs, forward_targets = self._arrays(pieces[""])
        # The backward direction reads each sentence reversed.
        reverse = [
            [piece._replace(tokens=piece.tokens[::-1]) for piece in row] for row in pieces.get("_reverse", pieces[""])
        ]
        backward_inputs, backward_targets = self._arrays(reverse)
        arrays = BiLMBatch(forward_inputs, backward_inputs, forward_targets, backward_targets, self._rows.copy())
        return Batch(arrays, self.position)

    def _arrays(self, rows: list[list[Piece]]) -> tuple[np.ndarray, np.ndarray]:
        """Inputs [B, T, C] or [B, T] and targets [B, T]."""
        shape = (len(rows), self._steps)
        inputs = [word for row in rows for tokens, start, stop in row for word in tokens[start:stop]]
        targets = [word for row in rows for tokens, start, stop in row for word in tokens[start + 1 : stop + 1]]
        target_ids = self._vocabulary.ids(targets).reshape(shape)
        if self._encode is None:
            return self._vocabulary.ids(inputs).reshape(shape), target_ids
        return self._encode(inputs).reshape(*shape, -1), target_ids
