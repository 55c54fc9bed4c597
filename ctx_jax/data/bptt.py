"""Windows of T steps in B lanes: the biLM's fixed-shape batches, cut from endless streams of sentences.

A lane reads one sentence after another; a sentence longer than what is left of the window goes on in the next one, and
nothing is padded or reset between sentences (the LSTM's state is carried over them). Two lanes, T = 4, inputs:

    window     1                       2
    lane 0     <S>  the  cat   sat  |  on   the  mat  .        "the cat sat on the mat ."
    lane 1     <S>  a    dog   <S>  |  one  <S>  a    cat      "a dog", "one", "a cat ."

Letters: B lanes, T tokens (steps) of a window, C characters.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Protocol

import numpy as np

from ctx_jax.data.batch import Batch
from ctx_jax.data.permutation import mix_seed
from ctx_jax.data.sentence_streams import Lanes, SentenceSource
from ctx_jax.io.errors import InputError
from ctx_jax.tokenizers.characters import WordEncoder


class WordIds(Protocol):
    """What a vocabulary does here: words, markers included, to ids."""

    def ids(self, words: Sequence[str], /) -> np.ndarray:
        """Id of each of n words, int32 [n]; a word outside the vocabulary has that of `<UNK>`."""


class Windows(Iterator[Batch]):
    """An iterator of biLM batches: the order is a function of the arguments alone, and every batch says where it ends.

    Arrays of a batch (leading axis: this host's lanes; the order is `<S> w1..wn </S>` forward, turned around in
    reverse; inputs drop the last token, targets the first):

        tokens_characters, tokens_characters_reverse   int32 [B, T, C]   raw ids, with inputs="characters"
        token_ids, token_ids_reverse                   int32 [B, T]      with inputs="words"
        next_token_id, next_token_id_reverse           int32 [B, T]      targets
        row                                            int32 [B]         the lane's number among all hosts' lanes

    Positions (`batch.position`, `windows.position`, for `seek`): `epoch`, `index` and `offset`, int32 [B] each: the
    last sentence a lane has taken (its place in the epoch's order) and the steps of it already used; with separate
    directions also `epoch_reverse` and so on. Several hosts' positions concatenated along the first axis are the
    position of all lanes, whatever number of hosts goes on from it.

    Sentences without words are skipped: they would train nothing but `<S>` -> `</S>`.

    Args:
        sentences: the corpus.
        vocabulary: `.ids(words)`, for targets (and inputs="words").
        lanes: B of all hosts together.
        window: T.
        seed: of the shuffles.
        max_characters: C.
        directions: "shared": both directions read the same sentences. "separate": the original's two datasets, each
            with its own order and its own place.
        assignment: "lanes": lane b reads places b, b + B, b + 2 B ... of the stream, so a host reads only its own
            sentences. "shared": the original's generator: in row order, window after window, a lane whose sentence has
            ended takes the next one; every host then walks all lanes (lengths only), so it reads the whole corpus.
        shuffle: a permutation per epoch; without it the corpus' order.
        inputs: what the model reads.
        rows: the lanes of this host; None: all.

    Raises:
        ValueError: an argument out of range; (from `next`) a corpus of empty sentences only.
    """

    def __init__(
        self,
        sentences: SentenceSource,
        vocabulary: WordIds,
        *,
        lanes: int,
        window: int,
        seed: int = 0,
        max_characters: int = 50,
        directions: Literal["shared", "separate"] = "shared",
        assignment: Literal["lanes", "shared"] = "lanes",
        shuffle: bool = True,
        inputs: Literal["characters", "words"] = "characters",
        rows: slice | None = None,
    ) -> None:
        own = _checked_rows(lanes, window, rows)
        if len(sentences) == 0:
            raise InputError("training needs at least one sentence, and the corpus has none; set --data.train")
        self._vocabulary = vocabulary
        self._encode = WordEncoder(max_characters) if inputs == "characters" else None
        self._lanes, self._window, self._rows = lanes, window, own
        self._walked = own if assignment == "lanes" else range(lanes)
        seeds = {"": seed} if directions == "shared" else {"": seed, "_reverse": mix_seed(seed, 1)}
        self._orders = {
            suffix: Lanes(
                sentences,
                lanes=lanes,
                rows=own,
                walked=self._walked,
                seed=of_order,
                assignment=assignment,
                shuffle=shuffle,
            )
            for suffix, of_order in seeds.items()
        }
        self._position = self._state()

    @property
    def position(self) -> dict[str, np.ndarray]:
        """Where the data stands after the last batch given (or at the start), as in `batch.position`."""
        return self._position

    def seek(self, position: Mapping[str, np.ndarray]) -> None:
        """Go on after the batch whose `position` this is; nothing in between is read.

        Takes the position of all B lanes, in their order: with several hosts, theirs concatenated. Raises ValueError
        for other keys or shapes, and for a position that does not fit the corpus.
        """
        expected = set(self._position)
        wrong = {key: np.shape(value) for key, value in position.items() if np.shape(value) != (self._lanes,)}
        if set(position) != expected or wrong:
            raise InputError(
                f"a position needs the keys {sorted(expected)}, each of shape ({self._lanes},), got "
                f"{ {key: np.shape(value) for key, value in position.items()} }: "
                "directions and lanes must be those it was saved with, and hosts' positions concatenated"
            )
        for suffix, order in self._orders.items():
            order.restore({key: np.asarray(position[key + suffix]) for key in ("epoch", "index", "offset")})
        self._position = self._state()

    def _state(self) -> dict[str, np.ndarray]:
        return {key + suffix: value for suffix, order in self._orders.items() for key, value in order.state().items()}

    def __next__(self) -> Batch:
        pieces = {suffix: order.fill(self._window) for suffix, order in self._orders.items()}
        first = self._rows.start - self._walked.start
        own = {suffix: lanes[first : first + len(self._rows)] for suffix, lanes in pieces.items()}
        arrays = self._arrays("", [[piece.forward() for piece in lane] for lane in own[""]])
        backward = own.get("_reverse", own[""])
        arrays |= self._arrays("_reverse", [[piece.reverse() for piece in lane] for lane in backward])
        arrays["row"] = np.arange(self._rows.start, self._rows.stop, dtype=np.int32)
        self._position = self._state()
        return Batch(arrays, self._position)

    def _arrays(self, suffix: str, lanes: list[list[tuple[list[str], list[str]]]]) -> dict[str, np.ndarray]:
        shape = (len(lanes), self._window)
        inputs = [word for lane in lanes for words, _ in lane for word in words]
        targets = [word for lane in lanes for _, words in lane for word in words]
        arrays: dict[str, np.ndarray] = {"next_token_id" + suffix: self._vocabulary.ids(targets).reshape(shape)}
        if self._encode is None:
            arrays["token_ids" + suffix] = self._vocabulary.ids(inputs).reshape(shape)
        else:
            arrays["tokens_characters" + suffix] = self._encode(inputs).reshape(*shape, -1)
        return arrays


def _checked_rows(lanes: int, window: int, rows: slice | None) -> range:
    if lanes < 1 or window < 1:
        raise InputError(
            f"windows need at least 1 lane and 1 step, got {lanes=}, {window=}; set --data.lanes, --data.window"
        )
    own = range(lanes)[slice(None) if rows is None else rows]
    if not len(own) or own.step != 1:
        raise InputError(f"a host needs a run of neighbouring lanes out of {lanes}, got {rows}; set --data.lanes")
    return own
