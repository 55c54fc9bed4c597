"""Windows of text through the model: the nats of every target of every lane, on one device or several.

    lane 0   the cat . </S>    a dog </S>      two sentences placed one after the other, at steps 0 and 4
    lane 1   so </S>                           a lane that is done: what follows is scored and thrown away
    step     0   1   2 3       4 5   6

Letters: B lanes, T steps of a window, C characters, n words of a sentence.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from ctx_jax import losses
from ctx_jax.distributed.sharding import shard_batch
from ctx_jax.encoders.elmo.model import BiLM, zero_carry
from ctx_jax.io.errors import InputError, InputTypeError
from ctx_jax.tokenizers.characters import BEGIN, END, WordEncoder
from ctx_jax.tokenizers.vocabulary import Vocabulary


@dataclass
class Placed:
    """A sentence in a lane, and the nats found for it so far; it has n + 1 targets in either direction."""

    index: int  # its place in the text
    start: int  # the step of its first target
    ids: np.ndarray  # [n + 2], with the markers
    characters: np.ndarray | None  # [n + 2, C]
    forward: float = 0.0
    backward: float = 0.0

    @property
    def end(self) -> int:
        """The step after its last target."""
        return self.start + len(self.ids) - 1


class SentenceEncoder:
    """Sentences (lists of words) as the arrays the model reads."""

    def __init__(self, model: BiLM, vocabulary: Vocabulary) -> None:
        if model.vocabulary != len(vocabulary):
            raise InputError(
                f"the model's softmax has {model.vocabulary} words and the vocabulary {len(vocabulary)}: "
                "take the vocabulary the model was trained with"
            )
        self._vocabulary = vocabulary
        self._characters = WordEncoder(model.max_characters) if model.inputs == "characters" else None

    def __call__(self, index: int, words: Sequence[str], start: int = 0) -> Placed:
        """One sentence, wrapped in <S> and </S>, to stand at step `start` of its lane."""
        wrapped = [BEGIN, *words, END]
        ids = self._vocabulary.ids(wrapped)
        return Placed(index, start, ids, None if self._characters is None else self._characters(wrapped))

    @property
    def unknown(self) -> int:
        """The id of <UNK>."""
        return self._vocabulary.unknown


class Scorer:
    """The model with its parameters on the devices that share B lanes, run window by window."""

    def __init__(
        self, model: BiLM, params: Any, *, rows: int, window: int, devices: Sequence[jax.Device] | None = None
    ) -> None:
        if rows < 1 or window < 1:
            raise InputError(
                f"sentences at a time (--batch) and steps of a window are 1 or more, got {rows} and {window}"
            )
        if not model.vocabulary:
            raise InputError("perplexity needs a model with a softmax; this encoder was stored without one")
        self.rows, self.window, self._model = rows, window, model
        self._run, lay = _compiled(model, rows, tuple(devices or ()))
        self._params = lay(params)

    def start(self) -> Any:
        """The state every lane starts from: zeros."""
        return zero_carry(self._model, self.rows)

    def __call__(self, lanes: Sequence[Sequence[Placed]], start: int, carry: Any) -> tuple[np.ndarray, np.ndarray, Any]:
        """Scores steps `start` to `start + T`: nats forward and backward, float64 [B, T], and the state after.

        The nats of a sentence's targets are added to it; those of steps without a sentence mean nothing.
        """
        nats, carry = self._run(self._params, self._arrays(lanes, start), carry)
        forward, backward = (np.asarray(nats[name], np.float64) for name in ("forward", "backward"))
        for lane, placed, at, _ in _overlaps(lanes, start, self.window):
            placed.forward += float(forward[lane, at].sum())
            placed.backward += float(backward[lane, at].sum())
        return forward, backward, carry

    def _arrays(self, lanes: Sequence[Sequence[Placed]], start: int) -> dict[str, np.ndarray]:
        shape = (self.rows, self.window)
        arrays = {name: np.zeros(shape, np.int32) for name in ("next_token_id", "next_token_id_reverse")}
        if self._model.inputs == "words":
            arrays |= {name: np.zeros(shape, np.int32) for name in ("token_ids", "token_ids_reverse")}
        else:
            # Empty steps repeat the marker, which is in the batch anyway: no further distinct word, and a short one.
            marker = WordEncoder(self._model.max_characters, 1)([BEGIN])[0]
            arrays |= {
                name: np.broadcast_to(marker, (*shape, len(marker))).copy()
                for name in ("tokens_characters", "tokens_characters_reverse")
            }
        for lane, placed, at, of in _overlaps(lanes, start, self.window):
            following = slice(of.start + 1, of.stop + 1)
            for suffix, turn in (("", 1), ("_reverse", -1)):
                ids = placed.ids[::turn]
                arrays["next_token_id" + suffix][lane, at] = ids[following]
                if placed.characters is None:
                    arrays["token_ids" + suffix][lane, at] = ids[of]
                else:
                    arrays["tokens_characters" + suffix][lane, at] = placed.characters[::turn][of]
        return arrays


def _overlaps(lanes: Sequence[Sequence[Placed]], start: int, window: int) -> Iterator[tuple[int, Placed, slice, slice]]:
    """(lane, sentence, its steps in the window, its own steps) wherever a sentence reaches into the window."""
    for lane, sentences in enumerate(lanes):
        for placed in sentences:
            first, last = max(placed.start, start), min(placed.end, start + window)
            if first < last:
                yield lane, placed, slice(first - start, last - start), slice(first - placed.start, last - placed.start)


@lru_cache(maxsize=8)
def _compiled(
    model: BiLM, rows: int, devices: tuple[jax.Device, ...]
) -> tuple[Callable[..., Any], Callable[[Any], Any]]:
    """The compiled scoring function and its way of laying parameters, kept so that a run's evaluations share them."""

    def score(params: Any, arrays: dict[str, jax.Array], carry: Any) -> tuple[dict[str, jax.Array], Any]:
        return losses.bilm_tokens(model, params, arrays, carry)

    return shard_batch(score, rows, devices)


def numbered(sentences: Iterable[Sequence[str]]) -> Iterator[tuple[int, Sequence[str]]]:
    """Sentences with their place in the text; a string in place of a list of words is an error."""
    for index, words in enumerate(sentences):
        if isinstance(words, str):
            raise InputTypeError(f"a sentence must be a list of words, sentence {index} is the string {words[:40]!r}")
        yield index, words
