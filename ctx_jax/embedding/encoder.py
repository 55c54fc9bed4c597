"""A loaded encoder: `tokenize` text to arrays, or `encode` it to vectors in one call.

Letters: L layers, B sentences, T words, D width, N words of a list.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import numpy as np

from ctx_jax.embedding import description, mixing
from ctx_jax.embedding.embed import Layers, embed
from ctx_jax.embedding.encode_batches import Split, encode_batches
from ctx_jax.embedding.sentences import TextSettings, sentence_vectors, text_settings, with_prompt
from ctx_jax.encoders.base import InputProcessor, Level, Model, Source, checked, rounded, sentences_to_words
from ctx_jax.heads import Head, SentenceModules
from ctx_jax.heads.sentence import PoolingMode
from ctx_jax.io.errors import InputError, InputTypeError, numbering_sentences
from ctx_jax.ops.linear import Compute
from ctx_jax.typing import Params

Sentence = str | Sequence[str]
LayerChoice = Literal["all", "last", "mix"]

_LOGGER = logging.getLogger("ctx_jax")
_WORD_BATCH = 1024


@dataclass(frozen=True, eq=False, repr=False)
class Encoder:
    """What `load` returns. `embed` needs only `model` (a frozen config) and `params` (nested dict of arrays).

    `processor` makes the model's inputs from text. `heads` are the other modules of the file or run by name
    ("masked_lm", "pooler", "softmax" ...), each a `Head(module, params)`. `sentence` is what a sentence-transformers
    folder says of vectors of whole texts; its dense layers are among the heads. `architecture` is the encoder's name in
    the files it came from (Hugging Face's model_type), if they have one. `source` says what `load` read it from.

    A run trained in bf16 also computes in bf16 after loading. For full float32 (parity, a CPU without bf16
    instructions): `dataclasses.replace(encoder, model=dataclasses.replace(encoder.model, compute="float32"))`.
    """

    model: Model
    params: Params
    processor: InputProcessor
    heads: Mapping[str, Head] = field(default_factory=dict)
    sentence: SentenceModules | None = None
    architecture: str = ""
    source: Source = field(default_factory=Source)

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
        level: Literal["words", "sentence"] = "words",
        layers: LayerChoice | None = None,
        mix: Mapping[str, Any] | None = None,
        batch: int = 32,
        pooling: PoolingMode | Sequence[PoolingMode] | None = None,
        normalize: bool | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        length: int | None = None,
    ) -> Iterator[np.ndarray]:
        """One float32 array a sentence, in the order given: [L, T, D], or [T, D] of the "last" layer or a "mix".

            for vectors in encoder.encode(open("text.txt"), layers="mix", mix=ctx_jax.init_mix(3)):
                ...

        With `level="sentence"` it is one vector [D] of the last layer, made as a sentence-transformers folder says
        (`encoder.sentence`); other encoders pool the mean. `layers="all"` gives [L, D]. A text is a string, cut by the
        tokenizer's own rule, or a list of words.

            for vector in encoder.encode(texts, level="sentence", prompt="query: "):
                ...

        Reads at most 8 x `batch` sentences ahead, so the input may be an endless generator. It sorts them by length
        into batches of at most `batch` sentences, in few compiled shapes. Every sentence starts from a zero state.

        Args:
          layers: "all", "last" or "mix"; None: all for words, the last for sentences. `mix` is from `init_mix`.
          pooling, normalize, prompt, length: of the level "sentence"; None: the encoder's own. `pooling` is a mode or
            several, as `sentences.pool_texts` lists them. `normalize` True divides the vectors by their length, False
            leaves out the division at the end. `prompt` is put in front of each text; "" for none. `length` is the
            longest text in tokens, special ones included: the rest is cut off, which the log says once a call.
          prompt_name: one of `encoder.sentence.prompts` in place of `prompt`.

        Raises InputError for settings that do not fit each other, and the errors of `tokenize` when it reaches the
        sentence at fault.
        """
        if level not in ("words", "sentence"):
            raise InputError(f'level must be "words" or "sentence", got {level!r}')
        layers = layers or ("all" if level == "words" else "last")
        if layers not in ("all", "last", "mix"):
            raise InputError(f'layers must be "all", "last" or "mix", got {layers!r}')
        if (layers == "mix") != (mix is not None):
            raise InputError(f'layers="mix" and mix= go together, got layers={layers!r} and mix={mix!r}: see init_mix')
        if batch < 1:
            raise InputError(f"batch must be at least 1 sentence, got {batch}")
        if isinstance(sentences, str | bytes):
            raise InputTypeError("sentences must be a list of sentences, got one string: wrap it in a list")
        of_texts: dict[str, Any] = {"pooling": pooling, "normalize": normalize, "prompt": prompt}
        of_texts |= {"prompt_name": prompt_name, "length": length}
        if level == "sentence":
            settings = text_settings(self.sentence, self.processor, **of_texts)
            return self._encode_texts(iter(sentences), layers, mix, batch, settings)
        if given := [name for name, value in of_texts.items() if value is not None]:
            raise InputError(f'{", ".join(given)} make one vector a sentence: set level="sentence", or leave them out')
        return self._encode_words(iter(sentences), layers, mix, batch)

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

    def _encode_words(
        self, sentences: Iterator[Sentence], layers: LayerChoice, mix: Mapping[str, Any] | None, batch: int
    ) -> Iterator[np.ndarray]:
        def split(chunk: list[Sentence], first: int) -> Split:
            words = sentences_to_words(chunk, self.processor.rule, first=first)
            return Split(self.processor.split(words), [len(each) for each in words])

        def compute(inputs: dict[str, np.ndarray]) -> jax.Array:
            return _layers(self.model, layers, self.params, mix, inputs).values

        return encode_batches(sentences, batch, self.processor, split, compute)

    def _encode_texts(
        self,
        sentences: Iterator[Sentence],
        layers: LayerChoice,
        mix: Mapping[str, Any] | None,
        batch: int,
        settings: TextSettings,
    ) -> Iterator[np.ndarray]:
        processor, length, was_cut = self.processor.of_texts(), settings.length, False

        def split(chunk: list[Sentence], first: int) -> Split:
            nonlocal was_cut
            texts = with_prompt(checked(chunk, first=first), settings.prompt, processor)
            found = list(processor.split(texts, "tokens"))
            for number, size in enumerate(processor.sizes(found)):
                if length is None or size <= length:
                    continue
                found[number] = processor.cut(found[number], length)
                if not was_cut:
                    which = first + number
                    _LOGGER.warning("sentence %d has %d tokens, cut to %d; so are later ones", which, size, length)
                was_cut = True
            return Split(found, None)

        own = {name: self.heads[name] for name in settings.modules.modules if name in self.heads}
        modules = tuple((name, head.module) for name, head in own.items())
        params = {name: head.params for name, head in own.items()}

        def compute(inputs: dict[str, np.ndarray]) -> jax.Array:
            found = _layers(self.model, layers, self.params, mix, inputs)
            return _texts(settings.modules, modules, settings.normalize, self.model.compute, params, found, skipped)

        skipped = np.int32(settings.skipped)
        return encode_batches(sentences, batch, processor, split, compute)


def _chosen_layers(model: Model, layers: LayerChoice, params: Params, mix: mixing.Mixing | None, inputs: Any) -> Layers:
    """With the values [L, B, T, D], or [B, T, D] of one layer or a mix."""
    found = embed(model, params, inputs)
    if layers == "last":
        return found._replace(values=found.values[-1])
    return found if mix is None else found._replace(values=mixing.mix(found.values, mix))


def _vectors_of_texts(
    modules: SentenceModules,
    heads: tuple[tuple[str, Any], ...],
    normalize: bool,
    compute: Compute,
    head_params: Mapping[str, Params],
    layers: Layers,
    skipped: jax.Array,
) -> jax.Array:
    own = {name: Head(module, head_params[name]) for name, module in heads}

    def of_layer(values: jax.Array) -> jax.Array:
        return sentence_vectors(
            values, layers.mask, modules, own, skipped=skipped, normalize=normalize, compute=compute
        )

    return jax.vmap(of_layer)(layers.values) if layers.values.ndim == 4 else of_layer(layers.values)


def _layer_0(model: Model, params: Params, inputs: Any) -> jax.Array:
    return model.token_layer(params, inputs)


# Apart, so that other settings of texts do not compile the encoder again.
_layers = jax.jit(_chosen_layers, static_argnums=(0, 1))
_texts = jax.jit(_vectors_of_texts, static_argnums=(0, 1, 2, 3))
_token_layer = jax.jit(_layer_0, static_argnums=0)
