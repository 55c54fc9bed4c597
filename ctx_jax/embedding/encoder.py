"""A loaded encoder: text to arrays, and the convenience that does the rest.

Letters: L layers, B sentences, T words, D width, N words of a list.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import jax
import numpy as np

from ctx_jax.distributed.sharding import pipelined
from ctx_jax.embedding import mixing
from ctx_jax.embedding.batching import plan
from ctx_jax.embedding.embed import Model, embed, token_layer
from ctx_jax.encoders.base import checked, rounded, sentences_to_words
from ctx_jax.encoders.elmo.inputs import CharacterReader, VocabularyReader
from ctx_jax.encoders.elmo.model import BiLM
from ctx_jax.encoders.transformer.inputs import SubwordReader
from ctx_jax.io.errors import InputError, InputTypeError
from ctx_jax.tokenizers.subwords import Pieces

Reader = CharacterReader | VocabularyReader | SubwordReader
Sentence = str | Sequence[str]
Level = Literal["words", "tokens"]

_LOOK_AHEAD = 8  # batches of sentences read before the first comes back, sorted by length among themselves
_ROW = 32  # words of a row when words are encoded without context


@dataclass(frozen=True, eq=False)
class Encoder:
    """What `load` gives. `model` (a frozen config) and `params` (nested dict of arrays) are all that `embed` needs.

    A run trained in bf16 computes in bf16 when it is loaded, too. To have it in full float32 (parity, a CPU without
    bf16 instructions): `dataclasses.replace(encoder, model=dataclasses.replace(encoder.model, compute="float32"))`.
    """

    model: Model
    params: dict[str, Any]
    reader: Reader

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
        fixes the tokens of a row as well, with room for two a word and 16 more (`reader.room`), and `tokens` sets them
        where words have more. No sentences give B = 0, an empty sentence an all-False row.

        `level="words"` makes `embed` give one vector a word whatever the encoder: a Transformer's pieces are pooled.
        `level="tokens"` asks for the pieces instead, special tokens in their places; strings are then split by the
        tokenizer's own rule, and `length` counts tokens. The tokens of a biLM are its words.

        Raises ValueError for more sentences than `rows`, longer ones than `length`, than the tokens of a row or than a
        Transformer's positions hold, for `tokens` where there are no pieces of words; TypeError for a bare string, for
        strings and lists in one call, and for words that are no strings.
        """
        if level not in ("words", "tokens"):
            raise InputError(f'level must be "words" or "tokens", got {level!r}')
        if isinstance(self.reader, SubwordReader):
            if level == "words":
                return self.reader.arrays(_words(sentences, self.reader), rows, length, tokens)
            if tokens is None:
                return self.reader.token_arrays(checked(sentences), rows, length)
        if tokens is not None:
            raise InputError(
                f"tokens={tokens} is for the pieces of a Transformer's words: leave it out "
                '(at level="tokens" the length counts them)'
            )
        return self.reader.arrays(_words(sentences, self.reader), rows, length)

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

        Raises ValueError where `layers="mix"` comes without `mix` (as `init_mix` gives it) or the other way round;
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

    def word_vectors(self, words: Iterable[str], *, batch: int = 1024) -> np.ndarray:
        """Static vectors of single words, float32 [N, D]: layer 0 alone, which knows no context.

        For a whole vocabulary, `batch` words at a time; the rows equal `embed(...).values[0]` of the same words.
        A biLM's layer 0 is the token vector twice, [token, token]; a Transformer's is the embedding output of the word
        as a sentence of its own, position included, the mean over its pieces.
        """
        if isinstance(words, str | bytes):
            raise InputTypeError("words must be a list of words, got one string: wrap it in a list")
        words = _words([list(words)], self.reader)[0]
        # A Transformer's vectors depend on their place: each word stands in a row of its own.
        row = 1 if isinstance(self.reader, SubwordReader) else _ROW
        height = max(1, -(-min(batch, len(words)) // row))
        found = []
        for start in range(0, len(words), height * row):
            part = words[start : start + height * row]
            sentences = [part[i : i + row] for i in range(0, len(part), row)]
            layer = np.asarray(_token_layer(self.model, self.params, _padded(sentences, self.reader, height, row)))
            found.append(layer.reshape(height * row, -1)[: len(part)])
        width = 2 * self.model.projection if isinstance(self.model, BiLM) else self.model.dim
        return np.concatenate(found) if found else np.zeros((0, width), np.float32)

    def _encode(
        self, sentences: Iterator[Sentence], mixing: Mapping[str, Any] | None, batch: int
    ) -> Iterator[np.ndarray]:
        while chunk := list(islice(sentences, _LOOK_AHEAD * batch)):
            words = _words(chunk, self.reader)
            found: dict[int, np.ndarray] = {}
            running = (
                (chosen, _vectors(self.model, self.params, mixing, inputs))
                for chosen, inputs in _batches(words, self.reader, batch)
            )
            for chosen, vectors in pipelined(running):
                found |= _apart(chosen, vectors, words)
            for number in range(len(words)):
                yield found.pop(number)


def _words(sentences: Iterable[Sentence], reader: Reader) -> list[list[str]]:
    return sentences_to_words(sentences, reader.rule)


def _batches(
    words: list[list[str]], reader: Reader, batch: int
) -> Iterator[tuple[tuple[int, ...], dict[str, np.ndarray]]]:
    """(sentences' numbers, inputs): batches of sentences of like length, counted in what the model reads."""
    if not isinstance(reader, SubwordReader):
        for chosen, rows, length in plan(list(map(len, words)), batch):
            yield chosen, reader.arrays([words[number] for number in chosen], rows, length)
        return
    pieces: list[Pieces] = reader.subwords.tokenize_words(words)
    for chosen, rows, length in plan(reader.sizes(pieces), batch):
        # There are no more words than tokens: one size for both keeps the shapes few.
        yield chosen, reader.word_arrays([pieces[number] for number in chosen], rows, length, length)


def _padded(sentences: list[list[str]], reader: Reader, rows: int, length: int) -> dict[str, np.ndarray]:
    """Inputs of these sizes; a Transformer's tokens as many as these sentences need, rounded up."""
    if not isinstance(reader, SubwordReader):
        return reader.arrays(sentences, rows, length)
    pieces = reader.subwords.tokenize_words(sentences)
    return reader.word_arrays(pieces, rows, length, rounded(max(reader.sizes(pieces))))


def _apart(numbers: tuple[int, ...], vectors: jax.Array, words: list[list[str]]) -> dict[int, np.ndarray]:
    """Vectors [..., B, T, D] to one array a sentence, copied, so that no result holds on to its whole batch."""
    batch = np.asarray(vectors)
    return {number: batch[..., row, : len(words[number]), :].copy() for row, number in enumerate(numbers)}


def _all_or_mixed(model: Model, params: Any, mix: mixing.Mixing | None, inputs: Any) -> jax.Array:
    values = embed(model, params, inputs).values
    return values if mix is None else mixing.mix(values, mix)


_vectors = jax.jit(_all_or_mixed, static_argnums=0)
_token_layer = jax.jit(token_layer, static_argnums=0)
