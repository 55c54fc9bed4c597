"""What every family of encoders gives: the protocols of a model and of its input processor, and `Layers`.

A model is a value with methods: a frozen, hashable dataclass, so that it can be a static argument of `jax.jit`.
`tests/test_families.py` holds every family in `encoders.FAMILIES` to the same laws.

Letters: L layers, B sentences, T words, S tokens of a row, D width.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol, Self, runtime_checkable

import jax
import numpy as np

from ctx_jax.encoders.facts import Facts
from ctx_jax.heads import Head, Labelling, SentenceModules
from ctx_jax.io.errors import InputError, InputTypeError
from ctx_jax.ops.dropout import Dropout
from ctx_jax.ops.linear import Compute
from ctx_jax.tokenizers.alignment import WordPieces
from ctx_jax.tokenizers.words import Rule, split_words
from ctx_jax.typing import Carry, Mask, Params

Level = Literal["words", "tokens"]
"""What one vector stands for: a word of the caller, or a token (a piece of a word, or a special token)."""


class Layers(NamedTuple):
    """Every layer of a batch of sentences."""

    values: jax.Array  # [L, B, T, D] float32, layer 0 first; 0 where the mask is False
    mask: Mask  # [B, T], True at real words
    carry: Carry = None  # the recurrent state after the batch; None for encoders without one


class InputProcessor(Protocol):
    """How text becomes the inputs of a model: a dict of numpy arrays, each with leading axis B.

    `arrays` and `token_arrays` make all inputs in one call. `split`, `sizes` and `pad` do the same in three steps, so
    that the caller can batch sentences of similar length.
    """

    @property
    def rule(self) -> Rule:
        """How a string is split into words."""

    @property
    def pieces(self) -> WordPieces:
        """How its pieces give a word its vector."""

    @property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of all that the inputs depend on besides the text."""

    @property
    def longest(self) -> int | None:
        """The largest of `sizes` that the model takes; None: any."""

    @property
    def words_per_row(self) -> int:
        """How many words `Encoder.word_vectors` may put in one row: 1 if layer 0 depends on the position."""

    def arrays(
        self,
        sentences: Sequence[Sequence[str]],
        *,
        rows: int | None = None,
        length: int | None = None,
        tokens: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Inputs for one vector a word. `rows` and `length` fix B and T, `tokens` fixes the number of tokens in a row.
        InputError if the sentences need more, or if `tokens` is given and words are not split into pieces."""

    def token_arrays(
        self, sentences: list[str] | list[list[str]], *, rows: int | None = None, length: int | None = None
    ) -> dict[str, np.ndarray]:
        """Inputs for one vector a token, special tokens included; strings are split by the tokenizer's own rule."""

    def split(self, sentences: list[str] | list[list[str]], level: Level = "words") -> Sequence[Any]:
        """Each sentence as `sizes`, `cut` and `pad` take it: its words or its subword pieces. Strings are for the level
        "tokens"."""

    def sizes(self, sentences: Sequence[Any]) -> list[int]:
        """The row length that each split sentence needs, in words or tokens."""

    def prepare(self, sentences: Sequence[Any]) -> None:
        """Called with many split sentences before the calls of `pad` for their batches: what they share may be computed
        here once. `pad` gives the same without it."""

    def cut(self, sentence: Any, length: int) -> Any:
        """The beginning of a split sentence, of a size of at most `length`."""

    def pad(self, sentences: Sequence[Any], rows: int, length: int) -> dict[str, np.ndarray]:
        """The inputs of split sentences: B = `rows`, each row of `length` words or tokens."""

    @property
    def special_tokens(self) -> tuple[int, int]:
        """How many special tokens a row has before and behind a sentence."""

    @property
    def overhead(self) -> int:
        """The tokens of a row besides those of its words: special ones."""

    def unit_sizes(self, sentence: Any) -> np.ndarray:
        """The tokens of each word of a split sentence, int [T]; at the level "tokens" 1 for each, special ones apart. 0
        for a word that shares the tokens of the next one."""

    def part(self, sentence: Any, first: int, stop: int) -> Any:
        """Some of the words of a split sentence, or of its tokens, `first` and those up to `stop`."""

    def offsets(self, sentences: list[str] | list[list[str]], level: Level = "words") -> list[np.ndarray]:
        """Where the words or tokens of each sentence stand in its text, int32 [T, 2]: the first character and the one
        after the last; (0, 0) for special tokens. The text of a list of words is `" ".join(words)`."""

    def with_pieces(self, pieces: WordPieces) -> Self:
        """The processor whose inputs give a word its vector in this way; itself where words have no pieces."""

    def of_texts(self, *, empty: bool = True) -> Self:
        """The processor of whole texts split at the level "tokens": an empty text has its special tokens too, unless
        `empty` is False. Itself where there are none."""

    def prompt_length(self, prompt: str, length: int | None) -> int:
        """How many tokens of a row, from its beginning, belong to the prompt in front of a text, if rows are cut to
        `length`: those of the prompt alone, without a special token behind it."""

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the files that `save` writes and every checkpoint keeps a copy of."""

    def save(self, folder: Path) -> None:
        """Write the files from which `Model.inputs(folder)` makes the same processor."""


class Model(Protocol):
    """An encoder. Heads are no fields of it, and parameters are an argument of every method."""

    @property
    def compute(self) -> Compute:
        """The precision of its matrix products."""

    @property
    def num_layers(self) -> int:
        """L, the number of layers that `layers` gives, layer 0 included."""

    @property
    def width(self) -> int:
        """D, the width of every layer."""

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters; `jax.eval_shape(model.init, key)` gives their shapes and allocates nothing."""

    def layers(
        self, params: Params, inputs: Mapping[str, Any], *, carry: Carry = None, dropout: Dropout | None = None
    ) -> Layers:
        """Every layer for inputs made by the model's input processor. Pure, so that jax's transformations work.

        With `dropout` the model drops out at its own rates.
        """

    def token_layer(self, params: Params, inputs: Mapping[str, Any]) -> jax.Array:
        """Layer 0 alone, [B, T, D], without running the layers above it."""

    def inputs(self, folder: Path | None = None, *, rule: Rule = "whitespace") -> InputProcessor:
        """The processor that makes the model's inputs from text. `folder` holds the vocabulary or tokenizer, if the
        model needs one; MissingFileError if it is missing, InputError if it does not fit the model."""

    def depth_of(self, name: str) -> int:
        """The depth of the parameter `name` ("layer_0/query/kernel"): 0 before the first layer, i in the i-th layer,
        `num_layers` after the last. InputError for a name that the model does not have."""

    def flops_per_token(self, length: int) -> float:
        """Floating-point operations of a forward pass per token, in rows of `length` tokens; matrix products only."""


@runtime_checkable
class CachesWords(Protocol):
    """What a model may offer besides `Model` whose layer 0 is a function of the word alone."""

    def with_word_cache(self, params: Params, processor: InputProcessor) -> InputProcessor:
        """A processor to use instead of `processor`, which computes layer 0 of each distinct word once, with `params`,
        and gives it to `layers` as an input. Results are the same up to rounding, memory is bounded, and threads may
        share it. For parameters that do not change."""


@runtime_checkable
class RunsInParts(Protocol):
    """What a recurrent model may offer besides `Model`: sentences longer than the device's memory holds at once."""

    def layers_in_parts(
        self, params: Params, inputs: Mapping[str, Any], part: int, select: Callable[[jax.Array], jax.Array]
    ) -> np.ndarray:
        """What `select` makes of the layers of one sentence (inputs with B = 1) of any length: float32 [..., T, D] in
        the host's memory, while the device holds `part` tokens at a time, always in one compiled shape.

        `select` runs on the device, on a slice [L, 1, t, d] of all layers at a time: [..., 1, t, d], for example
        `lambda values: values[-1]`. It must be linear and leave the last three axes alone, since a slice may hold part
        of the width. Pass the same function again, or a `jax.tree_util.Partial` of it with its arrays, so that it
        compiles once."""


class Source(NamedTuple):
    """Where an encoder was read from."""

    paths: Mapping[str, str] = {}  # a mapping proxy could not be copied
    """The arguments of `ctx_jax.load` that name files: "path", or "options" and "weights"; empty if it was not read."""
    choices: Mapping[str, Any] = {}  # a mapping proxy could not be copied
    """Its other arguments."""
    members: tuple["Source", ...] = ()
    """Those of the members of a stack."""


class Imported(NamedTuple):
    """An encoder read from other people's files or to be written to them, with the fields of `embedding.Encoder`."""

    model: Any
    params: Params
    processor: InputProcessor
    heads: Mapping[str, Head]
    sentence: SentenceModules | None = None
    architecture: str = ""
    """Its name in those files, if they have one."""
    labelling: Labelling | None = None
    """What its head of labels predicts, if there is one that is known."""


class Family(NamedTuple):
    """A family of encoders: its model, and how to read and write other programs' files of it."""

    model: type
    """The frozen dataclass; a run's `encoder.json` holds its name."""
    looks_for: str
    """The files that `read` looks for, as error messages name them."""
    read: Callable[..., Imported | None]
    """(path, **options): the encoder of a folder or file, None for another kind; InputError for a damaged one."""
    formats: Mapping[str, Callable[[Path, Imported, Path], None]] = MappingProxyType({})
    """By name, the functions that write a run: (new folder, encoder, run directory). The first is the default."""
    options: tuple[str, ...] = ()
    """The names of the options of `read`, keyword arguments of `load`."""
    facts: Callable[[Path], Facts | None] | None = None
    """(path): what `ctx-jax info` prints of files, those that `read` refuses too; None for another kind of path."""


def sentences_to_words(
    sentences: Iterable[str | Sequence[str]], rule: Rule, *, numbers: Sequence[int] | None = None
) -> list[list[str]]:
    """Words of every sentence: strings are split by `rule`, lists of words taken as they are.

    `numbers` are those of the sentences in errors; None: 0, 1 ... Raises InputTypeError for a bare string, for strings
    and lists in one call, and for words that are no strings.
    """
    given = checked(sentences, numbers=numbers)
    return [split_words(sentence, rule) if isinstance(sentence, str) else sentence for sentence in given]


def check_several(sentences: Any) -> Iterable[Any]:
    """The sentences. InputTypeError unless they are an iterable, and no bare string."""
    if isinstance(sentences, str | bytes) or not isinstance(sentences, Iterable):
        kind = type(sentences).__name__
        raise InputTypeError(f"sentences must be a list of sentences, got one {kind}: wrap it in a list")
    return sentences


def checked(
    sentences: Iterable[str | Sequence[str]], *, numbers: Sequence[int] | None = None
) -> list[str] | list[list[str]]:
    """The sentences, all strings or all lists of words; raises as `sentences_to_words`."""
    check_several(sentences)
    sentences = list(sentences)
    numbers = range(len(sentences)) if numbers is None else numbers
    strings = [isinstance(sentence, str) for sentence in sentences]
    if all(strings):
        return sentences  # type: ignore[return-value]
    if any(strings):
        string, other = strings.index(True), strings.index(False)
        raise InputTypeError(
            f"sentences must be all strings or all lists of words; number {numbers[string]} is a string, "
            f"number {numbers[other]} is a {type(sentences[other]).__name__}"
        )
    result: list[list[str]] = []
    for number, sentence in zip(numbers, sentences, strict=True):
        if isinstance(sentence, bytes) or not hasattr(sentence, "__iter__"):
            kind = type(sentence).__name__
            raise InputTypeError(f"sentence {number} must be a string or a list of words, got {kind}")
        result.append(list(sentence))
        for word in result[-1]:
            if not isinstance(word, str):
                kind = type(word).__name__
                raise InputTypeError(f"sentence {number} holds {word!r}, a {kind}; words must be strings")
    return result


def padded_shape(sizes: Sequence[int], rows: int | None, length: int | None, unit: str) -> tuple[int, int]:
    """(B, T) for sentences of these sizes: `rows` and `length`, or what the sentences need where these are None.

    Raises InputError if the sentences do not fit; it counts the sizes in `unit`.
    """
    longest = max(sizes, default=0)
    height = len(sizes) if rows is None else rows
    width = longest if length is None else length
    if len(sizes) > height:
        raise InputError(f"got {len(sizes)} sentences for rows={height}: set rows={len(sizes)}")
    if longest > width:
        raise InputError(f"the longest sentence has {longest} {unit}, for length={width}: set length={longest}")
    return height, width


def rounded(length: int, *, least: int = 8) -> int:
    """`length`, at least `least`, rounded up to 8, 12, 16, 24, 32, 48, 64, 96 ...: few shapes to compile, while less
    than a third of a row longer than 8 is padding."""
    size = 8
    while size < max(length, least):
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size
