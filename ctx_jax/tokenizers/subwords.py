"""Subword tokenizers: strings or words to pieces, with the word that every piece belongs to.

Hugging Face `tokenizers` does the work; this module adds the roles of the special tokens, and `alignment` the words
that pieces belong to. Letters: S pieces of a sentence, V vocabulary.
"""

import copy
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer, models, normalizers, processors

from ctx_jax.io.errors import InputError, SentenceError
from ctx_jax.io.files import atomic_write
from ctx_jax.tokenizers.alignment import Pieces, align, piece_offsets
from ctx_jax.tokenizers.templates import PairLayout, SpecialTokens, pair_layout, template

FILE = "tokenizer.json"
CONFIG = "tokenizer_config.json"


class Subwords:
    """A tokenizer and the roles of its special tokens. Truncation and padding of `tokenizer` are switched off.

    `before` and `after` are the ids that its post-processor puts around a sentence: those of [CLS] and [SEP] for BERT,
    none for GPT-2.

    InputError if the tokenizer lacks a special token, or two roles share one. Only a family that puts nothing around a
    sentence (GPT, GPT-2) or has no mask (T5, Qwen3) may share a token between roles; any may pad with the end, and one
    of bytes (EuroBERT), for which no character is unknown, may have no token of its own for that.
    """

    def __init__(self, tokenizer: Tokenizer, special: SpecialTokens) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokenizer, self.special = tokenizer, special
        self.before, self.after = template(tokenizer)
        ids = tokenizer.get_vocab(with_added_tokens=True).values()
        self._size = 1 + max(ids, default=-1)
        if len(set(ids)) < len(ids):
            raise InputError(f"the tokenizer gives one id to two tokens: {_of_one_id(tokenizer)}")
        missing = special.missing(tokenizer)
        if missing:
            raise InputError(
                f"the tokenizer lacks special tokens: {', '.join(missing)}; name the ones it has in {CONFIG} "
                "(pad_token, unk_token, cls_token, sep_token, mask_token), or add them to its vocabulary"
            )
        self.pad_id, self.unknown_id = self._id(special.pad), self._id(special.unknown)
        self.begin_id, self.end_id = self._id(special.begin), self._id(special.end)
        self._check_roles()

    def _check_roles(self) -> None:
        apart = bool(self.before or self.after) and self.special.mask is not None
        shared = [{"pad", "end"}]
        if type(self.tokenizer.model) is models.BPE and self.tokenizer.model.unk_token is None:
            shared += [{"unknown", "end"}, {"unknown", "pad"}]
        for (role, token), (other, same) in combinations(self.special.roles().items(), 2):
            if self._id(token) == self._id(same) and (apart or other == "mask") and {role, other} not in shared:
                raise InputError(
                    f"special tokens clash: {role} and {other} are both {token:.80} (id {self._id(token)}); give each "
                    "a token of its own"
                )
        if self.before not in ((), (self.begin_id,)) or self.after not in ((), (self.end_id,)):
            raise InputError(
                f"the tokenizer puts ids {self.before} and {self.after} around a sentence, but begin is "
                f"{self.special.begin:.80} (id {self.begin_id}) and end {self.special.end:.80} (id {self.end_id}): "
                "make them agree"
            )

    def __len__(self) -> int:
        """V: one more than the greatest id, so that a table of V rows holds every token."""
        return self._size

    @property
    def mask_id(self) -> int:
        """Id of the mask; InputError for a family without one (GPT-2)."""
        if self.special.mask is None:
            raise InputError(
                "the tokenizer lacks a special token: mask; choose another tokenizer, or train a causal model"
            )
        return self._id(self.special.mask)

    def _id(self, token: str) -> int:
        number = self.tokenizer.token_to_id(token)
        assert number is not None, "checked on construction"
        return number

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that are no text: masking neither selects them nor draws them as random tokens."""
        added = self.tokenizer.get_added_tokens_decoder()
        roles = {self._id(token) for token in self.special.roles().values()}
        return frozenset(roles | {number for number, token in added.items() if token.special})

    @property
    def pair_layout(self) -> PairLayout:
        """How the post-processor lays out two texts; InputError for a layout that is not trained."""
        return pair_layout(self.tokenizer, self.begin_id, self.end_id)

    def without_special_tokens(self) -> "Subwords":
        """The same pieces with nothing put around a text, as a causal model reads it."""
        if not (self.before or self.after):
            return self
        tokenizer = copy.deepcopy(self.tokenizer)
        tokenizer.post_processor = None
        return Subwords(tokenizer, self.special)

    def without_end(self) -> "Subwords":
        """The same pieces with nothing put behind a text."""
        tokenizer = copy.deepcopy(self.tokenizer)
        tokenizer.post_processor = None
        if self.before:
            begin = [(self.special.begin, self.begin_id)]
            tokenizer.post_processor = processors.TemplateProcessing([begin[0][0], "$A"], None, begin)
        return Subwords(tokenizer, self.special)

    def lower_cased(self) -> "Subwords":
        """The pieces of lower-cased text; itself if a `Lowercase` is among the tokenizer's normalizers."""
        tokenizer = copy.deepcopy(self.tokenizer)
        own: Any = tokenizer.normalizer
        steps = [] if own is None else [own]
        if isinstance(own, normalizers.Sequence):
            steps = [own[number] for number in range(len(own))]
        if any(isinstance(step, normalizers.Lowercase) for step in steps):
            return self
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])
        return Subwords(tokenizer, self.special)

    @property
    def digest(self) -> str:
        """SHA-256 of the tokenizer and its roles, in hexadecimal."""
        # Saving and loading changes the last digit of a Unigram score.
        text = re.sub(r"-?\d+\.\d{7,}", lambda number: f"{float(number.group()):.6f}", self.tokenizer.to_str())
        return hashlib.sha256((text + repr(self.special)).encode()).hexdigest()

    def tokenize_text(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of strings, split by the tokenizer's own rule, int32 [S] each, without special tokens around them."""
        return [np.array(encoding.ids, np.int32) for encoding in self._encode(texts, offsets=False)]

    def tokenize_words(self, sentences: Sequence[Sequence[str]]) -> list[Pieces]:
        """Pieces of words, as the tokenizer cuts the words joined by single spaces.

        A word of which the tokenizer leaves nothing (empty, a zero-width character) becomes one unknown token:

            words         un  believably      <U+200B>
            ids           un  believ  ##ably  [UNK]
            words         0   1       1       2
        """
        kept, encodings = self._encode_words(sentences)
        return [
            align(words, numbers, encoding, self.unknown_id)
            for words, numbers, encoding in zip(sentences, kept, encodings, strict=True)
        ]

    def tokenize_pretokens(self, sentences: Sequence[Sequence[str]]) -> list[Pieces]:
        """As `tokenize_words`, but a word also ends where one ends for the tokenizer's own pre-tokenizer: for BERT
        `herself.` is two, `herself` and `.`."""
        kept, encodings = self._encode_words(sentences)
        found = []
        for words, numbers, encoding in zip(sentences, kept, encodings, strict=True):
            pieces = align(words, numbers, encoding, self.unknown_id)
            if len(pieces.ids) == len(encoding.ids):  # else an unknown token stands for a word without pieces
                own = [-1 if word is None else word for word in encoding.word_ids]
                begins = np.diff(pieces.words, prepend=-1).astype(bool) | np.diff(own, prepend=-2).astype(bool)
                pieces = Pieces(pieces.ids, np.cumsum(begins).astype(np.int32) - np.int32(1))
            found.append(pieces)
        return found

    def offsets(self, sentences: Sequence[str] | Sequence[Sequence[str]]) -> list[np.ndarray]:
        """The characters of each piece of `tokenize_text` or `tokenize_words`, int32 [S, 2]: the first and the one
        after the last, in the string or in the words joined by single spaces."""
        if not sentences or isinstance(sentences[0], str):
            found = [encoding.offsets for encoding in self._encode(sentences, offsets=True)]  # type: ignore[arg-type]
            return [np.array(each, np.int32).reshape(-1, 2) for each in found]
        kept, encodings = self._encode_words(sentences)
        return [piece_offsets(*each) for each in zip(sentences, kept, encodings, strict=True)]

    def _encode_words(self, sentences: Sequence[Sequence[str]]) -> tuple[list[list[int]], list[Encoding]]:
        """The numbers of each sentence's words that are not blank, and the encoding of these joined by spaces."""
        # Not `is_pretokenized=True`: it cuts every word as if it began a text, which differs from the joined text for
        # byte-level and SentencePiece models. Blank words are left out of the text and get their unknown afterwards.
        kept = [[number for number, word in enumerate(words) if word.strip()] for words in sentences]
        texts = [" ".join([words[i] for i in numbers]) for words, numbers in zip(sentences, kept, strict=True)]
        return kept, self._encode(texts, offsets=True)

    def _encode(self, texts: Sequence[str], *, offsets: bool) -> list[Encoding]:
        encode = self.tokenizer.encode_batch if offsets else self.tokenizer.encode_batch_fast
        try:
            return encode(list(texts), add_special_tokens=False)
        except TypeError:  # raised for half of a surrogate pair as well, without naming it
            _check_unicode(texts)
            raise
        except BaseException as error:
            if not is_rust(error):
                raise
            for number, text in enumerate(texts):
                try:
                    encode([text], add_special_tokens=False)
                except BaseException as error:
                    if not is_rust(error):
                        raise
                    raise SentenceError(number, f"cannot be cut by the tokenizer ({error}): {text[:60]!r}") from error
            raise

    def add_special_tokens(self, ids: np.ndarray) -> np.ndarray:
        """[begin] ids [end], int32, as the family does it for one sentence; GPT-2 adds nothing."""
        return np.concatenate([self.before, ids, self.after]).astype(np.int32)

    def tokens(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """The pieces as they stand in the vocabulary: "##able", "Ġworld"."""
        tokens = [self.tokenizer.id_to_token(int(number)) for number in ids]
        if None in tokens:
            raise InputError(f"ids must lie in 0..{len(self) - 1} and have a token, got {ids[tokens.index(None)]}")
        return [token for token in tokens if token is not None]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of ids, special tokens left out."""
        return str(self.tokenizer.decode([int(number) for number in ids]))

    def check_vocabulary(self, size: int, place: str) -> None:
        """Raises InputError if this tokenizer has tokens beyond the V = `size` rows of a model, which `place` names.

        A model may have more rows, rounded up for speed or for tokens that were never added: no text reaches them.
        """
        if size < len(self):
            raise InputError(
                f"{place} has a vocabulary of {size}, its tokenizer one of {len(self)}: they do not belong together; "
                "use the tokenizer the model was trained with"
            )

    def save(self, folder: str | Path, settings: Mapping[str, Any] | None = None) -> None:
        """Write tokenizer.json and tokenizer_config.json (the roles) into `folder`; transformers reads both.

        `settings`: further entries of the second (`model_max_length`, say).
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        special = self.special
        roles = {"pad_token": special.pad, "unk_token": special.unknown, "mask_token": special.mask}
        if self.before or self.after:
            roles |= {"cls_token": special.begin, "sep_token": special.end}
        roles |= {"bos_token": special.begin, "eos_token": special.end}
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        config |= {key: token for key, token in roles.items() if token is not None} | dict(settings or {})
        atomic_write(folder / CONFIG, json.dumps(config, indent=2) + "\n")
        atomic_write(folder / FILE, self.tokenizer.to_str(pretty=True))


@contextmanager
def naming(what: str | Path) -> Iterator[None]:
    """Errors of a file's tokenizer as InputError with `what` in front."""
    try:
        yield
    except BaseException as error:
        if not is_rust(error):
            raise
        raise InputError(f"{what}: {error}") from error


def is_rust(error: BaseException) -> bool:
    """Whether `tokenizers` may have raised it: the Rust side raises plain `Exception`, and its panics are not even
    that."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _of_one_id(tokenizer: Tokenizer) -> str:
    tokens: dict[int, str] = {}
    for token, number in tokenizer.get_vocab(with_added_tokens=True).items():
        if (other := tokens.setdefault(number, token)) != token:
            return f"{other!r} and {token!r} are both {number}"
    return ""


def _check_unicode(texts: Sequence[str]) -> None:
    """SentenceError quoting the text that holds half of a surrogate pair."""
    for number, text in enumerate(texts):
        try:
            _ = text.encode() if isinstance(text, str) else b""
        except UnicodeEncodeError as error:
            around = text[max(0, error.start - 20) : error.end + 20]
            raise SentenceError(
                number,
                f"cannot be read: {text[error.start]!r} in {around!r}, at character {error.start} of its text, is half "
                "of a surrogate pair, which no tokenizer reads: decode the text's bytes anew, or replace it",
            ) from None
