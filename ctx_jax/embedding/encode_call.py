"""The settings of a call of `Encoder.encode`, checked and turned into the `Job` that `encode` runs.

Letters: L layers, B rows, T words or tokens, D width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from ctx_jax.distributed.sharding import RowFunction, devices_in_use, process_share
from ctx_jax.embedding.encode import Job, Long, Split
from ctx_jax.embedding.outputs import Choice, LayerChoice, Output, Replicated, TextOutput, compute, pool_layers
from ctx_jax.embedding.sentences import TextSettings, text_settings, with_prompt
from ctx_jax.encoders.base import InputProcessor, RunsInParts, checked, rounded, sentences_to_words
from ctx_jax.heads.sentence import PoolingMode
from ctx_jax.io.errors import InputError
from ctx_jax.ops.hardware import platform
from ctx_jax.tokenizers.alignment import WordPieces

if TYPE_CHECKING:
    from ctx_jax.embedding.encoder import Encoder

EncodeLevel = Literal["words", "tokens", "sentence"]
Dtype = Literal["float32", "float16", "bfloat16"]

_LOGGER = logging.getLogger("ctx_jax")
_CPU_TOKENS, _ACCELERATOR_TOKENS = 1024, 16_384  # of a batch, on each device


@dataclass(frozen=True)
class Call:
    """The arguments of `Encoder.encode`."""

    level: EncodeLevel = "words"
    """What one vector stands for."""
    layers: LayerChoice | None = None
    """`all`, `last`, a layer's number (-1: the last), a tuple of them, or `mix`. None: all of words and tokens; of
    sentences what `encoder.sentence` says, or else the last."""
    mix: Mapping[str, Any] | None = None
    """The parameters of `layers="mix"`: from `init_mix`, `load_mix` or training."""
    pooling: PoolingMode | Sequence[PoolingMode] | None = None
    """Of sentences: a mode or several, as `sentences.pool_texts` lists them. None, here and in the next four: what
    `encoder.sentence` says, or else the mean."""
    pieces: WordPieces | None = None
    """How the vectors of a word's pieces give its own: `mean`, `first`, `last`, `max`. None: the encoder's own way."""
    normalize: bool | None = None
    """True divides sentence vectors by their length, False leaves out the division at the end."""
    prompt: str | None = None
    """Put in front of each text; "" for none."""
    prompt_name: str | None = None
    """One of `encoder.sentence.prompts`, in place of `prompt`."""
    length: int | None = None
    """The longest text in tokens, special ones included."""
    dtype: Dtype = "float32"
    """To which results are rounded at the end."""
    batch_tokens: int | None = None
    """Tokens of a batch, padding included. None: 1,024 on a CPU, 16,384 for each accelerator."""
    long: Long | None = None
    """Sentences longer than the model's positions, or `length`. `windows`: computed in windows that overlap by half; a
    word has the vector of the window in which it stands nearest the middle, a text pools the vectors of all its tokens.
    `cut`: the beginning is kept, which the log says once a call. `error`: refused. None: windows of words and tokens,
    cut of sentences."""

    def __post_init__(self) -> None:
        of_texts = {name: getattr(self, name) for name in ("pooling", "normalize", "prompt", "prompt_name", "length")}
        given = [name for name, value in of_texts.items() if value is not None]
        if self.level == "sentence":
            given = ["pieces"] if self.pieces is not None else []
        for name, value, known in (
            ("level", self.level, get_args(EncodeLevel)),
            ("dtype", self.dtype, get_args(Dtype)),
            ("pieces", self.pieces, (None, *get_args(WordPieces))),
            ("long", self.long, (None, *get_args(Long))),
        ):
            if value not in known:
                raise InputError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")
        if given and self.level == "sentence":
            raise InputError('pieces make one vector a word: set level="words", or leave it out')
        if given:
            raise InputError(f'{", ".join(given)} make one vector a sentence: set level="sentence", or leave them out')
        if self.pieces is not None and self.level == "tokens":
            raise InputError('pieces make one vector a word, and level="tokens" gives one a piece: leave pieces out')
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise InputError(f"batch_tokens must be at least 1, got {self.batch_tokens}")

    def choice(self, count: int) -> Choice:
        """The layers of a model with `count` of them."""
        default: LayerChoice = "last" if self.level == "sentence" else "all"
        return Choice.of(default if self.layers is None else self.layers, count, self.mix)

    def job(self, encoder: Encoder) -> Job:
        """How `encoder` does what the call asks for. Raises InputError for what it cannot do."""
        return self._with_layers_of(encoder)._job(encoder)

    def _with_layers_of(self, encoder: Encoder) -> Call:
        """With the layers that `encoder.sentence` names, where the call asks for sentences and names none itself."""
        modules = encoder.sentence
        if self.level != "sentence" or modules is None:
            return self
        if modules.unsupported and (self.layers is None or self.pooling is None):
            raise InputError(
                f"the run's vectors of texts were trained with {', '.join(modules.unsupported)}, which encode does not "
                "compute: ctx_jax.tasks.load(run).predict compares texts by them; layers= and pooling= together ask "
                "for other vectors"
            )
        if self.layers is not None or self.mix is not None:
            return self
        if modules.layers != "mix":
            return replace(self, layers=modules.layers)
        if "mix" not in encoder.heads:
            raise InputError('encoder.sentence pools a mix, and the encoder has no head "mix": name layers=')
        return replace(self, layers="mix", mix=encoder.heads["mix"].params)

    def _job(self, encoder: Encoder) -> Job:
        devices = devices_in_use()
        params = encoder.kept.placed(encoder.params, devices)
        processor = encoder.kept.processor(encoder.model, params, encoder.processor)
        default_tokens = (_CPU_TOKENS if platform() == "cpu" else _ACCELERATOR_TOKENS) * len(devices)
        output = Output(encoder.model, self.choice(encoder.model.num_layers), None, self.dtype)
        of_texts = self.level == "sentence"
        in_parts = None
        if isinstance(encoder.model, RunsInParts):
            select = Partial(output.choice, mix=self.mix)
            run = partial(encoder.model.layers_in_parts, params, select=select)
            in_parts = partial(_in_parts, run, "float32" if of_texts else self.dtype)
        token_bytes = output.choice.axes * encoder.model.width * jnp.dtype(self.dtype).itemsize
        shared: dict[str, Any] = {
            "in_parts": in_parts,
            "batch_tokens": self.batch_tokens or default_tokens,
            "multiple": len(devices),
            "token_bytes": token_bytes,
            "text_bytes": token_bytes if of_texts else None,
            "shapes": encoder.kept.shapes,
        }
        arrays = Replicated(params, self.mix, {}, np.int32(0))
        if of_texts:
            empty = encoder.sentence is None or encoder.sentence.empty
            return self._job_of_texts(encoder, processor.of_texts(empty=empty), output, arrays, devices, shared)
        processor = processor if self.pieces is None else processor.with_pieces(self.pieces)
        compute_rows = RowFunction(compute, output, arrays, devices)
        return Job(
            processor=processor,
            level="words" if self.level == "words" else "tokens",
            split=partial(_split, processor, self.level),
            compute=compute_rows,
            of_window=compute_rows,
            finish=None,
            limit=processor.longest,
            long=self.long or "windows",
            special=processor.special_tokens if self.level == "tokens" else (0, 0),
            **shared,
        )

    def _job_of_texts(
        self,
        encoder: Encoder,
        processor: InputProcessor,
        output: Output,
        arrays: Replicated,
        devices: Sequence[jax.Device],
        shared: Mapping[str, Any],
    ) -> Job:
        settings = text_settings(
            encoder.sentence,
            encoder.processor,
            pooling=self.pooling,
            normalize=self.normalize,
            prompt=self.prompt,
            prompt_name=self.prompt_name,
            length=self.length,
        )
        own = {name: encoder.heads[name] for name in settings.modules.modules if name in encoder.heads}
        heads = tuple((name, head.module) for name, head in own.items())
        texts = output._replace(texts=TextOutput(settings.modules, heads, settings.normalize))
        head_params = {name: head.params for name, head in own.items()}
        arrays = arrays._replace(heads=head_params, skipped=np.int32(settings.skipped))
        return Job(
            processor=processor,
            level="tokens",
            split=partial(_split_texts, processor, settings),
            compute=RowFunction(compute, texts, arrays, devices),
            of_window=RowFunction(compute, output._replace(dtype="float32"), arrays, devices),
            finish=partial(_pool_text, texts, arrays),
            limit=settings.length,
            long=self.long or "cut",
            special=processor.special_tokens,
            **shared,
        )


def _in_parts(
    run: Callable[[dict[str, np.ndarray], int], np.ndarray], dtype: Dtype, inputs: dict[str, np.ndarray], part: int
) -> np.ndarray:
    return run(inputs, part).astype(jnp.dtype(dtype))


def own_sentences(sentences: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    """(number, sentence) of those that this process encodes: all, or in a job of n processes every n-th."""
    own, count = process_share()
    if count == 1:
        return all_sentences(sentences)
    _LOGGER.warning("process %d of %d encodes sentences %d, %d, %d ...", own, count, own, own + count, own + 2 * count)
    return islice(all_sentences(sentences), own, None, count)


def all_sentences(sentences: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    """(number, sentence) of all; a generator of words is read before the next sentence is asked for."""
    for number, sentence in enumerate(sentences):
        of_words = isinstance(sentence, Iterable) and not isinstance(sentence, str | bytes)
        yield number, list(sentence) if of_words else sentence


def _split(processor: InputProcessor, level: Any, sentences: list[Any], numbers: Sequence[int]) -> Split:
    if level == "words":
        words = sentences_to_words(sentences, processor.rule, numbers=numbers)
        return Split(list(processor.split(words)), [len(each) for each in words])
    found = list(processor.split(checked(sentences, numbers=numbers), "tokens"))
    return Split(found, list(processor.sizes(found)))


def _split_texts(
    processor: InputProcessor, settings: TextSettings, sentences: list[Any], numbers: Sequence[int]
) -> Split:
    texts = with_prompt(checked(sentences, numbers=numbers), settings.prompt, processor)
    return Split(list(processor.split(texts, "tokens")), None)


def _pool_text(output: Output, arrays: Replicated, vectors: np.ndarray) -> np.ndarray:
    """The vector of a text, [D] or [L, D], of those of all its tokens, [T, D] or [L, T, D]."""
    count = vectors.shape[-2]
    length = rounded(count)
    padding = [(0, 0)] * (vectors.ndim - 2) + [(0, length - count), (0, 0)]
    values = np.expand_dims(np.pad(vectors, padding), -3)  # [L, 1, T, D] or [1, T, D]
    return np.asarray(_pool_layers(output, arrays, values, (np.arange(length) < count)[None]))[0]


_pool_layers = jax.jit(pool_layers, static_argnums=0)
