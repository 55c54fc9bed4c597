"""A loaded encoder: `tokenize` text to arrays, or `encode` it to vectors in one call.

Letters: L layers, B sentences, T words or tokens, D width, N words of a list.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import jax
import numpy as np

from ctx_jax.embedding import description, sif
from ctx_jax.embedding.encode import Long, encode_sentences, encode_with_offsets, rounded_to
from ctx_jax.embedding.encode_call import Call, Dtype, EncodeLevel, all_sentences, own_sentences
from ctx_jax.embedding.encode_state import EncodeState
from ctx_jax.embedding.outputs import Choice, LayerChoice
from ctx_jax.embedding.sif import Sif
from ctx_jax.encoders.base import (
    InputProcessor,
    Level,
    Model,
    Source,
    check_several,
    checked,
    rounded,
    sentences_to_words,
)
from ctx_jax.heads import Head, Labelling, SentenceModules
from ctx_jax.heads.sentence import PoolingMode
from ctx_jax.io.errors import InputError, InputTypeError, numbering_sentences
from ctx_jax.io.progress import Progress
from ctx_jax.tokenizers.alignment import WordPieces
from ctx_jax.typing import Params

Sentence = str | Sequence[str]

_WORD_BATCH = 1024


@dataclass(frozen=True, eq=False, repr=False)
class Encoder:
    """What `load` returns. `embed` needs only `model` (a frozen config) and `params` (nested dict of arrays).

    `processor` makes the model's inputs from text. `heads` are the other modules of the file or run by name
    ("masked_lm", "pooler", "softmax" ...), each a `Head(module, params)`. `sentence` is what a sentence-transformers
    folder, or a run of `pairs` that compared vectors of texts, says of these; its dense layers and its mix are among
    the heads. `architecture` is the encoder's name in the files it came from (Hugging Face's model_type), if they have
    one, `labelling` what their head of labels predicts. `source` says what `load` read it from, `sif` what `fit_sif`
    found.

    A run trained in bf16 also computes in bf16 after loading. For full float32 (parity, a CPU without bf16
    instructions): `dataclasses.replace(encoder, model=dataclasses.replace(encoder.model, compute="float32"))`.
    """

    model: Model
    params: Params
    processor: InputProcessor
    heads: Mapping[str, Head] = field(default_factory=dict)
    sentence: SentenceModules | None = None
    architecture: str = ""
    labelling: Labelling | None = None
    source: Source = field(default_factory=Source)
    sif: Sif | None = None
    kept: EncodeState = field(default_factory=EncodeState, init=False)
    """What `encode` keeps between calls."""

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
        offsets: bool = False,
    ) -> dict[str, np.ndarray]:
        """Sentences to the `inputs` of `embed`: a dict of arrays with leading axis B.

        A string is split at white space (imported encoders) or by the run's rule; a list of words is used as it is.
        `rows` and `length` (in words) pad B and T to fixed sizes. For a Transformer `length` also fixes the tokens of
        a row at 2 x `length` + 16; set `tokens` if the words have more pieces. No sentences give B = 0, an empty
        sentence gives an all-False row.

        With `level="words"` `embed` gives one vector a word for every encoder: a Transformer's pieces are pooled. With
        `level="tokens"` it gives one a piece, including special tokens; strings are then split by the tokenizer's own
        rule, and `length` counts tokens. For an encoder without pieces, tokens are words.

        `offsets` adds "offsets", int32 [B, T, 2]: the characters of each word or token, the first and the one after the
        last, in the string or in `" ".join(words)`; 0 at padding and special tokens. `embed` does not read it.

        Raises InputError for more sentences than `rows`, for sentences longer than `length`, the tokens of a row or the
        model's positions, and for `tokens` with an encoder without pieces; InputTypeError for a bare string, for
        strings and lists in one call, and for words that are no strings.
        """
        if level not in ("words", "tokens"):
            raise InputError(f'level must be "words" or "tokens", got {level!r}')
        given = checked(sentences)
        if level == "words":
            words = sentences_to_words(given, self.processor.rule)
            inputs = self.processor.arrays(words, rows=rows, length=length, tokens=tokens)
        elif tokens is not None:
            raise InputError(f'tokens={tokens} is for words in pieces; at level="tokens" the length counts tokens')
        else:
            inputs = self.processor.token_arrays(given, rows=rows, length=length)
        if not offsets:
            return inputs
        spans = self.processor.offsets(given, level)
        longest = max(map(len, spans), default=0) if length is None else length
        found = np.zeros((len(next(iter(inputs.values()))), longest, 2), np.int32)
        for row, own in zip(found, spans, strict=False):
            row[: len(own)] = own
        return inputs | {"offsets": found}

    def encode(
        self,
        sentences: Iterable[Sentence],
        *,
        level: EncodeLevel = "words",
        layers: LayerChoice | None = None,
        mix: Mapping[str, Any] | None = None,
        pooling: PoolingMode | Sequence[PoolingMode] | Literal["sif"] | None = None,
        pieces: WordPieces | None = None,
        normalize: bool | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        length: int | None = None,
        dtype: Dtype = "float32",
        batch_tokens: int | None = None,
        long: Long | None = None,
        offsets: bool = False,
        progress: bool = False,
        share: bool = True,
    ) -> Iterator[Any]:
        """One numpy array a sentence, in the order given: [L, T, D], or [T, D] of one layer or a mix.

            for vectors in encoder.encode(open("text.txt"), layers="mix", mix=ctx_jax.load_mix("mix.json")):
                ...

        `level="words"` gives one vector a word, for every encoder; "tokens" one a piece of the tokenizer, with the
        special tokens in their places; "sentence" one a text, [D] or [L, D]. `encode_call.Call` says what each setting
        does, docs/encode.md more of it. `offsets` gives `Encoded(vectors, offsets)`, the characters of each word or
        token; `progress` writes a line to stderr every ten seconds.

        Reads some hundred thousand tokens ahead, so the input may be endless, and sorts them into batches of few shapes
        for all local devices. A sentence's vectors do not depend on the others: equal to the bit in batches of one
        shape, else within 1e-5 of the largest magnitude (in float32). In a job of n processes each encodes every n-th
        sentence, from its own number on, and the log says so; with `share=False` all of them.

        Raises InputError for settings that do not fit each other, and the errors of `tokenize` when it reaches the
        sentence at fault.
        """
        check_several(sentences)
        numbered = own_sentences(sentences) if share else all_sentences(sentences)
        of_texts = (normalize, prompt, prompt_name, length)
        if pooling == "sif":
            given = (layers, mix, pieces, *of_texts[1:], long, offsets or None)
            if level != "sentence" or any(value is not None for value in given):
                raise InputError('pooling="sif" goes with level="sentence", and of other settings with none of these')
            results: Iterator[Any] = self._encode_sif(numbered, bool(normalize), dtype, batch_tokens)
        else:
            job = Call(level, layers, mix, pooling, pieces, *of_texts, dtype, batch_tokens, long).job(self)
            results = (encode_with_offsets if offsets else encode_sentences)(numbered, job)
        return _with_progress(results, sentences) if progress else results

    def fit_sif(
        self,
        corpus: Iterable[Sentence],
        *,
        weight: float = 1e-3,
        layers: LayerChoice = "last",
        mix: Mapping[str, Any] | None = None,
    ) -> "Encoder":
        """The encoder with what `encode(..., level="sentence", pooling="sif")` needs from a corpus (Arora et al. 2017).

            encoder = ctx_jax.load("glove.6B.300d.txt").fit_sif(open("text.txt"))
            vectors = encoder.encode_array(sentences, pooling="sif")

        A sentence's vector is the mean of its words', weighted by weight / (weight + a word's share of the corpus),
        from which the common component of the corpus's sentences is removed. `layers` names one layer, or "mix" with
        `mix`. InputError for a corpus without words.
        """
        check_several(corpus)
        if not Choice.of(layers, self.model.num_layers, mix).single:
            raise InputError(f'fit_sif needs one layer, such as layers="last", or a mix, got {layers!r}')
        encode = partial(self.encode, layers=layers, mix=mix, share=False)
        return replace(self, sif=sif.fit(self._words(enumerate(corpus)), encode, weight, layers, mix))

    def encode_array(self, sentences: Iterable[Sentence], **settings: Any) -> np.ndarray:
        """The vectors of all sentences as one array [N, D] ([N, L, D] of several layers): `encode` at
        `level="sentence"` with its other arguments."""
        if "level" in settings or settings.get("offsets"):
            raise InputError('encode_array gives one vector a sentence: leave "level" and "offsets" out')
        vectors = list(self.encode(sentences, level="sentence", **settings))
        if vectors:
            return np.stack(vectors)
        return np.zeros_like(next(self.encode([""], level="sentence", **settings | {"share": False}))[None])[:0]

    @property
    def compiled_shapes(self) -> tuple[tuple[int, int], ...]:
        """(rows, length in tokens) of the batches that `encode` has made: each is compiled once for each setting."""
        return tuple(sorted(self.kept.shapes))

    def __getstate__(self) -> dict[str, Any]:
        """Without what `encode` keeps between calls, which a copy makes anew."""
        return {**vars(self), "kept": EncodeState()}

    def _words(self, numbered: Iterable[tuple[int, Sentence]]) -> Iterator[list[str]]:
        for number, sentence in numbered:
            yield sentences_to_words([sentence], self.processor.rule, numbers=[number])[0]

    def _encode_sif(
        self, numbered: Iterator[tuple[int, Sentence]], normalize: bool, dtype: Dtype, batch_tokens: int | None
    ) -> Iterator[np.ndarray]:
        if self.sif is None:
            raise InputError('pooling="sif" needs word frequencies: encoder = encoder.fit_sif(corpus), then encode')
        settings: dict[str, Any] = {"layers": self.sif.layers, "mix": self.sif.mix, "batch_tokens": batch_tokens}
        encode = partial(self.encode, **settings, share=False)
        vectors = self.sif.vectors(self._words(numbered), encode, normalize=normalize)
        return (rounded_to(dtype, vector) for vector in vectors)

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


def _with_progress(results: Iterator[Any], sentences: Iterable[Any]) -> Iterator[Any]:
    total = len(sentences) if isinstance(sentences, Sized) else None
    return Progress("encoding", "sentences", total, partial(print, file=sys.stderr)).track(results)


def _layer_0(model: Model, params: Params, inputs: Any) -> jax.Array:
    return model.token_layer(params, inputs)


_token_layer = jax.jit(_layer_0, static_argnums=0)
