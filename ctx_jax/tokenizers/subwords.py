"""Subword tokenizers: strings or words to pieces, with the word every piece belongs to.

The work is done by Hugging Face `tokenizers`; here stand the special tokens by their roles, and the way back from
pieces to the caller's words. Letters: S pieces of a sentence, V vocabulary.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Encoding, Tokenizer

from ctx_jax.io.errors import InputError
from ctx_jax.io.files import atomic_write
from ctx_jax.tokenizers.templates import PairLayout, SpecialTokens, pair_layout, template

FILE = "tokenizer.json"
CONFIG = "tokenizer_config.json"


class Pieces(NamedTuple):
    """A sentence of words in pieces, without special tokens around it."""

    ids: np.ndarray  # int32 [S]
    words: np.ndarray  # int32 [S], the number of the word each piece belongs to, rising; every word has a piece


@dataclass(frozen=True, eq=False)
class Subwords:
    """A tokenizer and the roles of its special tokens. Truncation and padding of `tokenizer` are switched off.

    `before` and `after` are the ids its own template puts around a sentence: ([CLS],) and ([SEP],) for BERT, none for
    GPT-2.

    Raises:
        ValueError: the tokenizer lacks a token (named with its role), or two roles share one where the family does
            not do so: around a sentence all five must differ; only GPT's, which adds none, may share.
    """

    tokenizer: Tokenizer
    special: SpecialTokens
    before: tuple[int, ...] = field(init=False)
    after: tuple[int, ...] = field(init=False)
    _size: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        before, after = template(self.tokenizer)
        object.__setattr__(self, "before", before)
        object.__setattr__(self, "after", after)
        object.__setattr__(
            self, "_size", 1 + max(self.tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        )
        self._check()

    def _check(self) -> None:
        roles = self.special.roles()
        lacking = [f"{role} ({token})" for role, token in roles.items() if self.tokenizer.token_to_id(token) is None]
        wraps = bool(self.before or self.after)
        if wraps and self.special.mask is None:
            lacking.append("mask")
        if lacking:
            raise InputError(
                f"the tokenizer lacks special tokens: {', '.join(lacking)}; name the ones it has in {CONFIG} "
                "(pad_token, unk_token, cls_token, sep_token, mask_token) or by special=, or add them to its vocabulary"
            )
        holders: dict[int, list[str]] = {}
        for role, token in roles.items():
            holders.setdefault(self._id(token), []).append(role)
        clashes = [
            f"{' and '.join(shared)} are both {roles[shared[0]]} (id {number})"
            for number, shared in holders.items()
            if len(shared) > 1 and (wraps or "mask" in shared)
        ]
        if clashes:
            raise InputError(f"special tokens clash: {'; '.join(clashes)}; give each role a token of its own")
        found = (self.before, self.after)
        needed = ((self.begin_id,) if self.before else (), (self.end_id,) if self.after else ())
        if found != needed:
            raise InputError(
                f"the tokenizer puts ids {found[0]} and {found[1]} around a sentence, but begin is "
                f"{self.special.begin} (id {self.begin_id}) and end {self.special.end} (id {self.end_id}): "
                "make them agree"
            )

    def __len__(self) -> int:
        """V: one more than the greatest id, so that a table of V rows holds every token."""
        return self._size

    @property
    def pad_id(self) -> int:
        """Id of the token that fills rows up."""
        return self._id(self.special.pad)

    @property
    def unknown_id(self) -> int:
        """Id of the token for what no other piece has."""
        return self._id(self.special.unknown)

    @property
    def begin_id(self) -> int:
        """Id of the token before a sentence."""
        return self._id(self.special.begin)

    @property
    def end_id(self) -> int:
        """Id of the token behind a sentence and between two."""
        return self._id(self.special.end)

    @property
    def mask_id(self) -> int:
        """ValueError for a family without a mask (GPT-2)."""
        if self.special.mask is None:
            raise InputError(
                "the tokenizer lacks a special token: mask; masked language modelling needs one: set another "
                "--tokenizer.file, or train next tokens (--model.causal --sequences.form causal)"
            )
        return self._id(self.special.mask)

    def _id(self, token: str) -> int:
        number = self.tokenizer.token_to_id(token)
        assert number is not None
        return number

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that are no text: never masked, never drawn at random."""
        added = self.tokenizer.get_added_tokens_decoder()
        return frozenset({number for number, token in added.items() if token.special}) | {
            self._id(token) for token in self.special.roles().values()
        }

    @property
    def pair_layout(self) -> PairLayout:
        """How its own template lays two texts; ValueError for one that pairs are not trained with."""
        return pair_layout(self.tokenizer, self.begin_id, self.end_id)

    def bare(self) -> "Subwords":
        """The same pieces with nothing put around a text, as a causal model reads it."""
        if not (self.before or self.after):
            return self
        state = json.loads(self.tokenizer.to_str()) | {"post_processor": None}
        return Subwords(Tokenizer.from_str(json.dumps(state)), self.special)

    @property
    def digest(self) -> str:
        """SHA-256 of the tokenizer and its roles, in hexadecimal."""
        # A Unigram score comes back from its file different in the last digit.
        text = re.sub(r"-?\d+\.\d{7,}", lambda found: f"{float(found.group()):.6f}", self.tokenizer.to_str())
        return hashlib.sha256((text + repr(self.special)).encode()).hexdigest()

    def of_text(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of strings, split by the tokenizer's own rule, int32 [S] each, without special tokens around them.

        Raises ValueError naming the text that holds half of a surrogate pair.
        """
        try:
            found = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError:  # which says nothing of it
            _check_unicode(texts)
            raise
        return [np.array(one.ids, np.int32) for one in found]

    def of_words(self, sentences: Sequence[Sequence[str]]) -> list[Pieces]:
        """Pieces of words, as the tokenizer cuts the words joined by single spaces.

        A word the tokenizer leaves nothing of (empty, a zero-width character) is one unknown token:

            words given   un  believably      <U+200B>
            ids           un  believ  ##ably  [UNK]
            words         0   1       1       2

        Raises ValueError naming the sentence that holds half of a surrogate pair.
        """
        # A blank word would lend its place to the space of the next: it is left out and gets its unknown afterwards.
        kept = [[number for number, word in enumerate(words) if word.strip()] for words in sentences]
        texts = [" ".join([words[i] for i in places]) for words, places in zip(sentences, kept, strict=True)]
        try:
            found = self.tokenizer.encode_batch([text for text in texts if text], add_special_tokens=False)
        except TypeError:
            _check_unicode(texts)
            raise
        places = np.fromiter(chain.from_iterable(kept), np.int32)
        lengths = [len(words[i]) for words, numbers in zip(sentences, kept, strict=True) for i in numbers]
        rows = _rows(found, np.array(lengths, np.int64), [len(numbers) for numbers in kept if numbers])
        ids = np.fromiter(chain.from_iterable(one.ids for one in found), np.int32)
        covered = np.zeros(len(places), bool)
        covered[rows] = True
        numbers, sizes, result = places[rows], iter([len(one) for one in found]), list[Pieces]()
        piece = word = 0
        for words, own in zip(sentences, kept, strict=True):
            stop = piece + (next(sizes) if own else 0)
            pieces = Pieces(ids[piece:stop], numbers[piece:stop])
            whole = len(own) == len(words) and covered[word : word + len(own)].all()
            result.append(pieces if whole else self._completed(pieces, len(words)))
            piece, word = stop, word + len(own)
        return result

    def _completed(self, pieces: Pieces, count: int) -> Pieces:
        """With an unknown token for each of the `count` words that has no piece."""
        empty = np.setdiff1d(np.arange(count, dtype=np.int32), pieces.words)
        where = np.searchsorted(pieces.words, empty)
        return Pieces(np.insert(pieces.ids, where, self.unknown_id), np.insert(pieces.words, where, empty))

    def wrap(self, ids: np.ndarray) -> np.ndarray:
        """[begin] ids [end], int32, as the family does it for one sentence; GPT-2 adds nothing."""
        return np.concatenate([self.before, ids, self.after]).astype(np.int32)

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """The pieces as they stand in the vocabulary: "##able", "Ġworld"."""
        found = [self.tokenizer.id_to_token(int(number)) for number in ids]
        if None in found:
            raise InputError(f"ids must lie in 0..{len(self) - 1} and have a token, got {ids[found.index(None)]}")
        return [token for token in found if token is not None]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""
        return str(self.tokenizer.decode([int(number) for number in ids]))

    def check_vocabulary(self, size: int, place: str = "the model") -> None:
        """Raises ValueError unless a model of V = `size` and this tokenizer agree."""
        if size != len(self):
            raise InputError(
                f"{place} has a vocabulary of {size}, its tokenizer one of {len(self)}: they do not belong together; "
                "use the tokenizer the model was trained with"
            )

    def save(self, folder: str | Path, settings: Mapping[str, Any] | None = None) -> None:
        """Write tokenizer.json and, for the roles, tokenizer_config.json into `folder`; transformers reads both.

        `settings`: what else the second is to say (`model_max_length`, say).
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        keys = {"pad_token": self.special.pad, "unk_token": self.special.unknown}
        if self.before or self.after:
            keys |= {"cls_token": self.special.begin, "sep_token": self.special.end}
        keys |= {"bos_token": self.special.begin, "eos_token": self.special.end}
        if self.special.mask is not None:
            keys["mask_token"] = self.special.mask
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **keys, "clean_up_tokenization_spaces": False}
        config |= settings or {}
        for name, text in ((CONFIG, json.dumps(config, indent=2) + "\n"), (FILE, self.tokenizer.to_str(pretty=True))):
            atomic_write(folder / name, text)


def _check_unicode(texts: Sequence[str]) -> None:
    for text in texts:
        try:
            _ = text.encode() if isinstance(text, str) else b""
        except UnicodeEncodeError as error:
            around = text[max(0, error.start - 20) : error.end + 20]
            raise InputError(
                f"{text[error.start]!r} in {around!r}, at character {error.start} of its text, is half of a surrogate "
                "pair, which no tokenizer reads: decode the text's bytes anew, or replace it"
            ) from None


def _rows(found: Sequence[Encoding], lengths: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """Which word each piece of a batch is of, counted over the whole batch, int64.

    `lengths`: characters of every word; `counts`: words of every sentence, at least one. A piece goes by its last
    character, and a space belongs to the word after it.
    """
    stops = np.cumsum(lengths + 1)  # of the words, as if all sentences stood in one line
    after = np.cumsum(np.array(counts, np.int64))
    begins = np.concatenate([np.zeros(1, np.int64), stops[after[:-1] - 1]])[: len(after)]
    sizes = np.array([len(one) for one in found], np.int64)
    last = np.fromiter((max(stop - 1, start) for one in found for start, stop in one.offsets), np.int64)
    rows = np.searchsorted(stops - 1, last + np.repeat(begins, sizes), side="right")
    return np.minimum(rows, np.repeat(after - 1, sizes))
