"""The inputs of a Transformer: words or strings to token ids.

Letters: L layers, B sentences, T words, S tokens of a row (pieces and special tokens), D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from ctx_jax.encoders.base import Level, WordPieces, padded_shape, rounded
from ctx_jax.io.errors import InputError, InputTypeError, SentenceError
from ctx_jax.io.files import read_json
from ctx_jax.tokenizers import subword_files
from ctx_jax.tokenizers.subwords import CONFIG, FILE, Pieces, Subwords
from ctx_jax.tokenizers.words import Rule, word_offsets

if TYPE_CHECKING:
    from ctx_jax.encoders.transformer.model import Transformer

_TOKENS = ("token_ids", "token_mask")
_WORDS = ("word_of_token", "word_mask")
_OPTIONAL = {"token_types", "word_max"}


@dataclass(frozen=True)
class SubwordInputs:
    """The input processor of a Transformer (`encoders.base.InputProcessor`).

    `longest` is how many tokens, special ones included, the model's positions hold; None: any number. `pieces` says
    which of its pieces give a word its vector. With `whole_texts` the inputs are those of tokens, and an empty text has
    its special tokens, as in transformers, unless `empty_texts` is False: then it has none.
    """

    subwords: Subwords
    longest: int | None = None
    rule: Rule = "whitespace"
    pieces: WordPieces = "mean"
    whole_texts: bool = False
    empty_texts: bool = True
    files: ClassVar[tuple[str, ...]] = (FILE, CONFIG)

    @property
    def digest(self) -> str:
        """SHA-256 of the tokenizer and the settings."""
        texts = self.whole_texts and self.empty_texts  # of texts that are not empty the inputs are the same
        parts = (self.subwords.digest, str(self.longest), self.rule, self.pieces, str(texts))
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    @property
    def words_per_row(self) -> int:
        """1: layer 0 depends on the position."""
        return 1

    def arrays(
        self,
        sentences: Sequence[Sequence[str]],
        *,
        rows: int | None = None,
        length: int | None = None,
        tokens: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Inputs that give one vector a word, each with leading axis B:

            words            un        believably
            token_ids        [CLS] un  believ ##ably [SEP] [PAD]      int32 [B, S]
            token_mask       1     1   1      1      1     0          bool  [B, S]
            word_of_token    -1    0   1      1      -1    -1         int32 [B, S], -1 at tokens of no word
            word_mask        1 1                                      bool  [B, T]

        With `pieces="max"` also "word_max", bool [B, T], at words whose vector is the largest of each number.
        S is `tokens`, or else `tokens_for(length)`, or without either what the longest sentence needs. Raises
        InputError for a sentence with more tokens, and for `tokens` beyond the model's positions.
        """
        if tokens is not None and self.longest is not None and tokens > self.longest:
            raise InputError(
                f"got tokens={tokens}, the model's positions hold {self.longest}: set tokens to that or less"
            )
        if tokens is None and length is not None:
            tokens = self.tokens_for(length)
        pieces = self.split(sentences)
        height, width = padded_shape(_word_counts(pieces), rows, length, "words")
        tokens = max(self.sizes(pieces), default=0) if tokens is None else tokens
        return self.pad(pieces, height, width, tokens)

    def tokens_for(self, length: int) -> int:
        """S for rows of T = `length` words: two tokens a word, the special ones and 16 more, rounded up by
        `encoders.base.rounded`, but at most `longest`. It does not depend on the sentences, so that all batches have
        one shape."""
        size = rounded(2 * length + self._special_count + 16)
        return size if self.longest is None else min(size, self.longest)

    def token_arrays(
        self, sentences: list[str] | list[list[str]], *, rows: int | None = None, length: int | None = None
    ) -> dict[str, np.ndarray]:
        """{"token_ids": int32 [B, S], "token_mask": bool [B, S]}: strings are split by the tokenizer's own rule.

        `length` is S, special tokens included; a string without pieces is an all-False row.
        """
        ids = tokenize(self.subwords, sentences)
        height, width = padded_shape([self._size(each) for each in ids], rows, length, "tokens")
        return self._token_arrays(ids, height, width)

    def split(self, sentences: Sequence[str] | Sequence[Sequence[str]], level: Level = "words") -> list[Pieces]:
        """The pieces of every sentence; at the level "tokens" `Pieces.words` is empty."""
        if level == "tokens":
            return [Pieces(ids, np.zeros(0, np.int32)) for ids in tokenize(self.subwords, sentences)]
        return self.subwords.tokenize_words(sentences)

    def sizes(self, sentences: Sequence[Pieces]) -> list[int]:
        """Tokens of every sentence, special ones included; or its words, where added tokens reach over several."""
        words = _word_counts(sentences)
        return [max(self._size(pieces.ids), count) for pieces, count in zip(sentences, words, strict=True)]

    def prepare(self, sentences: Sequence[Pieces]) -> None:
        """Does nothing: batches share no work."""

    def cut(self, sentence: Pieces, length: int) -> Pieces:
        """The first pieces, so many that with the special tokens there are `length`."""
        kept = max(length - self._special_count, 0)
        return Pieces(sentence.ids[:kept], sentence.words[:kept])

    @property
    def special_tokens(self) -> tuple[int, int]:
        """How many are put before and behind a sentence."""
        return len(self.subwords.before), len(self.subwords.after)

    @property
    def overhead(self) -> int:
        """How many there are together."""
        return self._special_count

    def unit_sizes(self, sentence: Pieces) -> np.ndarray:
        """The pieces of each word, or 1 for each token."""
        if self._of_tokens(sentence):
            return np.ones(len(sentence.ids), np.int32)
        return np.bincount(sentence.words).astype(np.int32)

    def part(self, sentence: Pieces, first: int, stop: int) -> Pieces:
        """The pieces of the words `first` to `stop`, or these tokens."""
        if self._of_tokens(sentence):
            return Pieces(sentence.ids[first:stop], sentence.words)
        start, end = np.searchsorted(sentence.words, [first, stop])
        return Pieces(sentence.ids[start:end], sentence.words[start:end] - np.int32(first))

    def offsets(self, sentences: list[str] | list[list[str]], level: Level = "words") -> list[np.ndarray]:
        """Where the words or tokens stand in each sentence."""
        if level == "words":
            return [word_offsets(sentence, self.rule) for sentence in sentences]
        found = self.subwords.offsets(sentences)
        before, after = self.special_tokens
        return [np.pad(each, ((before, after), (0, 0))) if self._size(each) else each for each in found]

    def with_pieces(self, pieces: WordPieces) -> Self:
        """With another choice of `pieces`."""
        return replace(self, pieces=pieces)

    def describe(self) -> dict[str, Any]:
        """The kind of its model (WordPiece, BPE, Unigram), its special tokens and the settings."""
        subwords = self.subwords
        special = {
            role: {"token": token, "id": subwords.tokenizer.token_to_id(token)}
            for role, token in subwords.special.roles().items()
        }
        return {
            "kind": type(subwords.tokenizer.model).__name__,
            "tokens": len(subwords),
            "special_tokens": special,
            "before": subwords.tokens(subwords.before),
            "after": subwords.tokens(subwords.after),
            "longest": self.longest,
            "rule": self.rule,
            "pieces": self.pieces,
        }

    def of_texts(self, *, empty: bool = True) -> Self:
        """With `whole_texts`; `empty` says whether an empty one has its special tokens."""
        return replace(self, whole_texts=True, empty_texts=empty)

    def without_end(self) -> Self:
        """Without the token that the tokenizer puts behind a text, which is cut where it would be with that token."""
        longest = None if self.longest is None else self.longest - len(self.subwords.after)
        return replace(self, subwords=self.subwords.without_end(), longest=longest)

    def lower_cased(self) -> Self:
        """With text lower-cased before the tokenizer's own rules."""
        return replace(self, subwords=self.subwords.lower_cased())

    def prompt_length(self, prompt: str, length: int | None) -> int:
        """The tokens of the prompt alone in a row of at most `length`, but a special one at the end."""
        ids = tokenize(self.subwords, [prompt])[0]
        if length is not None:
            ids = ids[: max(length - self._special_count, 0)]
        row = self.subwords.add_special_tokens(ids)
        return len(row) - bool(len(row) and int(row[-1]) in self.subwords.special_ids)

    def save(self, folder: Path) -> None:
        """Writes `tokenizer.json` and `tokenizer_config.json`."""
        self.subwords.save(folder)

    def pad(
        self, sentences: Sequence[Pieces], rows: int, length: int, tokens: int | None = None
    ) -> dict[str, np.ndarray]:
        """`arrays` of sentences split into pieces, with B = `rows`, T = `length` and S = `tokens`, at most `longest`.

        `tokens` None: S = T, since a sentence has no more words than tokens and this gives fewer compiled shapes.
        Pieces of the level "tokens" give the inputs of `token_arrays`.
        """
        tokens = length if tokens is None else tokens
        if self.longest is not None:
            tokens = min(tokens, self.longest)
        arrays = self._token_arrays([pieces.ids for pieces in sentences], rows, tokens)
        if self.whole_texts or any(self._of_tokens(pieces) for pieces in sentences):
            return arrays
        word_of_token = np.full((rows, tokens), -1, np.int32)
        word_mask = np.zeros((rows, length), bool)
        before = len(self.subwords.before)
        for row, (pieces, words) in enumerate(zip(sentences, _word_counts(sentences), strict=True)):
            word_of_token[row, before : before + len(pieces.ids)] = self._chosen(pieces.words)
            word_mask[row, :words] = True
        arrays |= {"word_of_token": word_of_token, "word_mask": word_mask}
        return arrays | {"word_max": word_mask} if self.pieces == "max" else arrays

    @staticmethod
    def _of_tokens(sentence: Pieces) -> bool:
        """Whether it was split at the level "tokens"."""
        return len(sentence.words) < len(sentence.ids)

    def _chosen(self, words: np.ndarray) -> np.ndarray:
        """The word of each piece, -1 at the pieces that give their word nothing."""
        if self.pieces in ("mean", "max") or not len(words):
            return words
        new = words[1:] != words[:-1]
        kept = np.append(True, new) if self.pieces == "first" else np.append(new, True)
        return np.where(kept, words, -1)

    @property
    def _special_count(self) -> int:
        return len(self.subwords.before) + len(self.subwords.after)

    def _size(self, ids: np.ndarray) -> int:
        padded = len(ids) or (self.whole_texts and self.empty_texts)
        return len(ids) + self._special_count if padded else 0

    def _token_arrays(self, sentences: Sequence[np.ndarray], rows: int, width: int) -> dict[str, np.ndarray]:
        """Ids and mask [rows, width] of sentences' ids, special tokens added."""
        ids = np.full((rows, width), self.subwords.pad_id, np.int32)
        mask = np.zeros((rows, width), bool)
        for row, pieces in enumerate(sentences):
            size = self._size(pieces)
            if self.longest is not None and size > self.longest:
                raise SentenceError(
                    row, f"has {size} tokens, the model's positions hold {self.longest}: split it into shorter ones"
                )
            if size > width:
                raise SentenceError(
                    row,
                    f"has {size} tokens, there is room for {width} in a row: set tokens={size} or more, or split the "
                    "sentence",
                )
            if size:
                ids[row, :size] = self.subwords.add_special_tokens(pieces)
                mask[row, :size] = True
        return {"token_ids": ids, "token_mask": mask}


def tokenize(subwords: Subwords, sentences: Sequence[str] | Sequence[Sequence[str]]) -> list[np.ndarray]:
    """The ids of each sentence's pieces: a string is split by the tokenizer's own rule, a list of words is kept."""
    if sentences and not isinstance(sentences[0], str):
        return [pieces.ids for pieces in subwords.tokenize_words(sentences)]
    return subwords.tokenize_text(sentences)  # type: ignore[arg-type]


def _word_counts(sentences: Sequence[Pieces]) -> list[int]:
    return [int(pieces.words[-1]) + 1 if len(pieces.words) else 0 for pieces in sentences]


def read_inputs(model: Transformer, folder: Path, rule: Rule = "whitespace") -> SubwordInputs:
    """The input processor of a model with the tokenizer of `folder`, a run's directory or a Hugging Face folder; raises
    as `Transformer.inputs`."""
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    model_type = str(config.get("model_type") or "")  # a run's own config has none
    tokenizer = subword_files.read_folder(folder, model_type, str(config.get("tokenizer_class") or ""))
    tokenizer.check_vocabulary(model.vocabulary, str(folder))
    if model.positions_after_padding and model.pad_id != tokenizer.pad_id:
        raise InputError(
            f"{folder}: the model counts positions after pad_id={model.pad_id}, its tokenizer pads with "
            f"{tokenizer.pad_id} ({tokenizer.special.pad}): they do not belong together"
        )
    if model.positions_after_padding and tokenizer.pad_id == tokenizer.end_id:
        raise InputError(
            f"{folder}: special tokens clash: pad and end are both {tokenizer.special.pad} (id {tokenizer.pad_id}), "
            "and the model recognises padding by its id: give each a token of its own"
        )
    return SubwordInputs(tokenizer, model.longest, rule)


def checked_arrays(model: Transformer, inputs: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The inputs as int32 and bool arrays whose shapes fit each other."""
    names = set(inputs) if isinstance(inputs, Mapping) else set()
    if names - _OPTIONAL not in (set(_TOKENS), {*_TOKENS, *_WORDS}):
        found = sorted(names) if isinstance(inputs, Mapping) else type(inputs).__name__
        raise InputError(
            f"a Transformer reads inputs {', '.join(_TOKENS)}, and {', '.join(_WORDS)} for words, got {found}: use "
            "encoder.tokenize"
        )
    arrays = {name: jnp.asarray(inputs[name]) for name in inputs}
    shape = arrays["token_ids"].shape
    for name, array in arrays.items():
        of_words = name in ("word_mask", "word_max")
        if array.ndim != 2 or (array.shape[0] != shape[0] if of_words else array.shape != shape):
            needed = "[B, T]" if of_words else f"[B, S] like token_ids {shape}"
            raise InputError(f"{name} must be {needed}, got shape {array.shape}: use encoder.tokenize")
        dtype = jnp.bool_ if name.endswith(("mask", "max")) else jnp.integer
        if not jnp.issubdtype(array.dtype, dtype):
            raise InputTypeError(f"{name} must be {'bool' if dtype is jnp.bool_ else 'integers'}, got {array.dtype}")
    if shape[1] > model.longest and shape[0]:
        raise InputError(
            f"inputs of {shape[1]} tokens are longer than the model's {model.longest} positions: shorten them"
        )
    return {
        name: array.astype(jnp.int32) if jnp.issubdtype(array.dtype, jnp.integer) else array
        for name, array in arrays.items()
    }
