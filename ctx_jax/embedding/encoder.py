"""A loaded encoder: `tokenize` text to arrays, or `encode` it to vectors in one call.

Letters: L layers, B sentences, T words, D width, N words of a list.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from ctx_jax.distributed.sharding import pipelined
from ctx_jax.embedding import description, mixing
from ctx_jax.embedding.embed import embed
from ctx_jax.encoders.base import InputProcessor, Level, Model, checked, rounded, sentences_to_words
from ctx_jax.heads import Head
from ctx_jax.io.errors import InputError, InputTypeError, numbering_sentences
from ctx_jax.typing import Params

Sentence = str | Sequence[str]

_BATCHES_AHEAD = 8  # so many batches of sentences are read at once and sorted by length
_WORD_BATCH = 1024
_WORDS = 64  # batches of longer sentences have fewer rows, to bound memory


@dataclass(frozen=True, eq=False, repr=False)
class Encoder:
    """What `load` returns. `embed` needs only `model` (a frozen config) and `params` (nested dict of arrays).

    `processor` makes the model's inputs from text. `heads` are the other modules of the file or run by name
    ("masked_lm", "pooler", "softmax" ...), each a `Head(module, params)`.

    A run trained in bf16 also computes in bf16 after loading. For full float32 (parity, a CPU without bf16
    instructions): `dataclasses.replace(encoder, model=dataclasses.replace(encoder.model, compute="float32"))`.
    """

    model: Model
    params: Params
    processor: InputProcessor
    heads: Mapping[str, Head] = field(default_factory=dict)

    def __repr__(self) -> str:
        return description.summary(self)

    @property
    def run_params(self) -> dict[str, Any]:
        """The parameters in the form that losses and tasks take: {"encoder": ..., "head": {name: ...}}."""
        return {"encoder": self.params, "head": {name: head.params for name, head in self.heads.items()}}

    def tokenize(
        self,
        sentences: Iterable[Sentence],
        *,
        level: Level = "words",
        rows: int | None = None,
        length: int | None = None,
        tokens: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Sentences to the `inputs` of `embed`: a dict of arrays with leading axis B.

        A string is split at white space (imported encoders) or by the run's rule; a list of words is used as it is.
        `rows` and `length` (in words) pad B and T to fixed sizes. For a Transformer `length` also fixes the tokens of
        a row at 2 x `length` + 16; set `tokens` if the words have more pieces. No sentences give B = 0, an empty
        sentence gives an all-False row.

        With `level="words"` `embed` gives one vector a word for every encoder: a Transformer's pieces are pooled. With
        `level="tokens"` it gives one a piece, including special tokens; strings are then split by the tokenizer's own
        rule, and `length` counts tokens. For an encoder without pieces, tokens are words.

        Raises InputError for more sentences than `rows`, for sentences longer than `length`, the tokens of a row or the
        model's positions, and for `tokens` with an encoder without pieces; InputTypeError for a bare string, for
        strings and lists in one call, and for words that are no strings.
        """
        if level == "words":
            words = sentences_to_words(sentences, self.processor.rule)
            return self.processor.arrays(words, rows=rows, length=length, tokens=tokens)
        if level != "tokens":
            raise InputError(f'level must be "words" or "tokens", got {level!r}')
        if tokens is not None:
            raise InputError(f'tokens={tokens} is for words in pieces; at level="tokens" the length counts tokens')
        return self.processor.token_arrays(checked(sentences), rows=rows, length=length)

    def encode(
        self,
        sentences: Iterable[Sentence],
        *,
        layers: Literal["all", "mix"] = "all",
        mix: Mapping[str, Any] | None = None,
        batch: int = 32,
    ) -> Iterator[np.ndarray]:
        """One float32 array a sentence, in the order given: [L, T, D], or [T, D] with `layers="mix"`.

            for vectors in encoder.encode(open("text.txt"), layers="mix", mix=ctx_jax.init_mix(3)):
                ...

        Reads at most 8 x `batch` sentences ahead, so the input may be an endless generator. It sorts them by length
        into batches of at most `batch` sentences, in few compiled shapes. Every sentence starts from a zero state.

        Raises InputError if only one of `layers="mix"` and `mix` (from `init_mix`) is given, and the errors of
        `tokenize` when it reaches the sentence at fault.
        """
        if layers not in ("all", "mix"):
            raise InputError(f'layers must be "all" or "mix", got {layers!r}')
        if (layers == "mix") != (mix is not None):
            raise InputError(f'layers="mix" and mix= go together, got layers={layers!r} and mix={mix!r}: see init_mix')
        if batch < 1:
            raise InputError(f"batch must be at least 1 sentence, got {batch}")
        if isinstance(sentences, str | bytes):
            raise InputTypeError("sentences must be a list of sentences, got one string: wrap it in a list")
        return self._encode(iter(sentences), mix, batch)

    def word_vectors(self, words: Iterable[str], *, batch: int = _WORD_BATCH) -> np.ndarray:
        """Static vectors of single words, float32 [N, D]: layer 0 alone, which does not depend on context.

        Works on a whole vocabulary, `batch` words at a time; rows equal `embed(...).values[0]` of the same words. A
        biLM's layer 0 is the token vector twice, [token, token]; a Transformer's is the embedding output of the word as
        a one-word sentence, including its position, averaged over its pieces.
        """
        if isinstance(words, str | bytes):
            raise InputTypeError("words must be a list of words, got one string: wrap it in a list")
        words = sentences_to_words([list(words)], self.processor.rule)[0]
        row = self.processor.words_per_row
        height = max(1, -(-min(batch, len(words)) // row))
        vectors = [np.zeros((0, self.model.width), np.float32)]
        for start in range(0, len(words), height * row):
            part = words[start : start + height * row]
            with numbering_sentences(range(start, start + len(part), row)):  # the first word of each row
                split = self.processor.split([part[i : i + row] for i in range(0, len(part), row)])
                inputs = self.processor.pad(split, height, rounded(max(self.processor.sizes(split)), least=row))
            layer = np.asarray(_token_layer(self.model, self.params, inputs))[:, :row]  # [B, T, D]
            vectors.append(layer.reshape(height * row, -1)[: len(part)])
        return np.concatenate(vectors)

    def _encode(
        self, sentences: Iterator[Sentence], mixing: Mapping[str, Any] | None, batch: int
    ) -> Iterator[np.ndarray]:
        processor, first = self.processor, 0  # `first`: the number of the chunk's first sentence
        while chunk := list(islice(sentences, _BATCHES_AHEAD * batch)):
            with numbering_sentences(range(first, first + len(chunk))):
                words = sentences_to_words(chunk, processor.rule, first=first)
                split = processor.split(words)
            by_sentence: dict[int, np.ndarray] = {}

            def inputs(plan: Plan, split: Sequence[Any] = split, first: int = first) -> dict[str, np.ndarray]:
                with numbering_sentences([first + number for number in plan.sentences]):
                    return processor.pad([split[number] for number in plan.sentences], plan.rows, plan.length)

            running = (
                (batch_plan.sentences, _vectors(self.model, self.params, mixing, inputs(batch_plan)))
                for batch_plan in plan(processor.sizes(split), batch)
            )
            for chosen, vectors in pipelined(running):
                by_sentence |= _split_batch(chosen, vectors, words)
            for number in range(len(words)):
                yield by_sentence.pop(number)
            first += len(chunk)


class Plan(NamedTuple):
    """One batch: the indices of its sentences, and the shape that they are padded to."""

    sentences: tuple[int, ...]
    rows: int
    length: int


def plan(lengths: Sequence[int], batch: int) -> list[Plan]:
    """Batches of sentences of similar length, longest first; every sentence is in exactly one.

    `plan([3, 40, 5], batch=2)` is `[((1, 2), rows 2, length 48), ((0,), rows 1, length 8)]`. If the last batch is not
    full, it has the next power of two of rows, so that there are few shapes.
    """
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    plans = []
    while order:
        length = rounded(lengths[order[0]])
        most = max(1, min(batch, batch * _WORDS // length))
        taken, order = tuple(order[:most]), order[most:]
        plans.append(Plan(taken, min(most, 1 << (len(taken) - 1).bit_length()), length))
    return plans


def _split_batch(numbers: tuple[int, ...], vectors: jax.Array, words: list[list[str]]) -> dict[int, np.ndarray]:
    """{sentence: its part of vectors [..., B, T, D]}; copies, so that no result keeps its whole batch in memory."""
    batch = np.asarray(vectors)
    return {number: batch[..., row, : len(words[number]), :].copy() for row, number in enumerate(numbers)}


def _all_or_mixed(model: Model, params: Params, mix: mixing.Mixing | None, inputs: Any) -> jax.Array:
    values = embed(model, params, inputs).values
    return values if mix is None else mixing.mix(values, mix)


def _layer_0(model: Model, params: Params, inputs: Any) -> jax.Array:
    return model.token_layer(params, inputs)


_vectors = jax.jit(_all_or_mixed, static_argnums=0)
_token_layer = jax.jit(_layer_0, static_argnums=0)
