"""A loaded encoder: text to arrays, and the convenience that does the rest.

Letters: L layers, B sentences, T words, D width, N words of a list.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import jax
import numpy as np

from ctx_jax.distributed.sharding import pipelined
from ctx_jax.embedding import mixing
from ctx_jax.embedding.batching import plan
from ctx_jax.embedding.embed import embed
from ctx_jax.encoders.base import InputProcessor, Model, checked, rounded, sentences_to_words
from ctx_jax.heads import Head
from ctx_jax.io.errors import InputError, InputTypeError
from ctx_jax.typing import Params

Sentence = str | Sequence[str]
Level = Literal["words", "tokens"]

_BATCHES_AHEAD = 8  # batches of sentences read before the first comes back, sorted by length among themselves
_WORD_BATCH = 1024


@dataclass(frozen=True, eq=False)
class Encoder:
    """What `load` gives. `model` (a frozen config) and `params` (nested dict of arrays) are all that `embed` needs.

    `processor` makes the model's inputs of text. `heads` are what the file or run holds besides the encoder, by name:
    "masked_lm", "pooler", "softmax" ..., each a `Head(module, params)`.

    A run trained in bf16 computes in bf16 when it is loaded, too. To have it in full float32 (parity, a CPU without
    bf16 instructions): `dataclasses.replace(encoder, model=dataclasses.replace(encoder.model, compute="float32"))`.
    """

    model: Model
    params: Params
    processor: InputProcessor
    heads: Mapping[str, Head] = field(default_factory=dict)

    @property
    def run_params(self) -> dict[str, Any]:
        """The parameters as losses and tasks take them: {"encoder": ..., "head": {name: ...}}."""
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

        A string is split by the encoder's rule: white space for imported encoders, the run's own rule for ours. A list
        of words is taken as it is. `rows` and `length` (in words) pad B and T to fixed sizes; of a Transformer `length`
        fixes the tokens of a row as well, with room for two a word and 16 more, and `tokens` sets them where words
        have more. No sentences give B = 0, an empty sentence an all-False row.

        `level="words"` makes `embed` give one vector a word whatever the encoder: a Transformer's pieces are pooled.
        `level="tokens"` asks for the pieces instead, special tokens in their places; strings are then split by the
        tokenizer's own rule, and `length` counts tokens. The tokens of an encoder without pieces are its words.

        Raises InputError for more sentences than `rows`, longer ones than `length`, than the tokens of a row or than
        the model's positions hold, for `tokens` where there are no pieces of words; InputTypeError for a bare string,
        for strings and lists in one call, and for words that are no strings.
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

        Reads at most 8 x `batch` sentences ahead, so the input may be an endless generator, and batches those by
        length, `batch` sentences at a time, in few compiled shapes. Every sentence starts from a zero state.

        Raises InputError where `layers="mix"` comes without `mix` (as `init_mix` gives it) or the other way round;
        otherwise as `tokenize`, when the sentence at fault is reached.
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
        """Static vectors of single words, float32 [N, D]: layer 0 alone, which knows no context.

        For a whole vocabulary, `batch` words at a time; the rows equal `embed(...).values[0]` of the same words.
        A biLM's layer 0 is the token vector twice, [token, token]; a Transformer's is the embedding output of the word
        as a sentence of its own, position included, the mean over its pieces.
        """
        if isinstance(words, str | bytes):
            raise InputTypeError("words must be a list of words, got one string: wrap it in a list")
        words = sentences_to_words([list(words)], self.processor.rule)[0]
        row = self.processor.words_per_row
        height = max(1, -(-min(batch, len(words)) // row))
        vectors = [np.zeros((0, self.model.width), np.float32)]
        for start in range(0, len(words), height * row):
            part = words[start : start + height * row]
            split = self.processor.split([part[i : i + row] for i in range(0, len(part), row)])
            inputs = self.processor.pad(split, height, rounded(max(self.processor.sizes(split)), least=row))
            layer = np.asarray(_token_layer(self.model, self.params, inputs))[:, :row]  # [B, T, D]
            vectors.append(layer.reshape(height * row, -1)[: len(part)])
        return np.concatenate(vectors)

    def _encode(
        self, sentences: Iterator[Sentence], mixing: Mapping[str, Any] | None, batch: int
    ) -> Iterator[np.ndarray]:
        processor = self.processor
        while chunk := list(islice(sentences, _BATCHES_AHEAD * batch)):
            words = sentences_to_words(chunk, processor.rule)
            split = processor.split(words)
            by_sentence: dict[int, np.ndarray] = {}
            running = (
                (chosen, _vectors(self.model, self.params, mixing, processor.pad([split[i] for i in chosen], *shape)))
                for chosen, *shape in plan(processor.sizes(split), batch)
            )
            for chosen, vectors in pipelined(running):
                by_sentence |= _split_batch(chosen, vectors, words)
            for number in range(len(words)):
                yield by_sentence.pop(number)


def _split_batch(numbers: tuple[int, ...], vectors: jax.Array, words: list[list[str]]) -> dict[int, np.ndarray]:
    """Vectors [..., B, T, D] to one array a sentence, copied, so that no result keeps its whole batch in memory."""
    batch = np.asarray(vectors)
    return {number: batch[..., row, : len(words[number]), :].copy() for row, number in enumerate(numbers)}


def _all_or_mixed(model: Model, params: Params, mix: mixing.Mixing | None, inputs: Any) -> jax.Array:
    values = embed(model, params, inputs).values
    return values if mix is None else mixing.mix(values, mix)


def _layer_0(model: Model, params: Params, inputs: Any) -> jax.Array:
    return model.token_layer(params, inputs)


_vectors = jax.jit(_all_or_mixed, static_argnums=0)
_token_layer = jax.jit(_layer_0, static_argnums=0)
