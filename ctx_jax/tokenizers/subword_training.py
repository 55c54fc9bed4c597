"""Subword tokenizers trained from text in one pass over it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from ctx_jax.io.errors import ConfigError, InputError
from ctx_jax.tokenizers.subwords import Subwords
from ctx_jax.tokenizers.templates import BERT, GPT2, ROBERTA, PairLayout, add_post_processor

Kind = Literal["wordpiece", "bpe", "unigram"]


@dataclass(frozen=True)
class TokenizerConfig:
    """A tokenizer trained on the run's own text, or read from a file; the run keeps its copy."""

    file: str = ""
    """A tokenizer.json, a BERT vocab.txt, a RoBERTa vocab.json (merges.txt beside it), a SentencePiece .model, or a
    folder with one of them. Empty: trained on the training text."""

    kind: Kind = "bpe"
    """What is trained: BERT's `wordpiece`, RoBERTa's byte-level `bpe`, or SentencePiece's `unigram`. The same text
    gives the same `bpe`; the other two differ from training to training: to repeat a run exactly, set `file`."""

    size: int = 16_384
    """The greatest size of a trained vocabulary, special tokens included."""

    lowercase: bool = False
    """A trained tokenizer ignores the difference between capitals and small letters."""

    minimum_count: int = 2
    """How often a pair must occur to become a token (wordpiece, bpe)."""


def train(
    sentences: Iterable[str | Sequence[str]],
    kind: Kind = "bpe",
    size: int = 16_384,
    *,
    lowercase: bool = False,
    minimum_count: int = 2,
    causal: bool = False,
) -> Subwords:
    """A tokenizer of at most `size` tokens, special tokens included, from sentences read once.

    kind  "wordpiece": BERT's, with `[CLS]` and the like. "bpe": byte-level, with RoBERTa's `<s>` and the like; no
          character is ever unknown, and the first word of a sentence is cut like any other. "unigram": SentencePiece's
          way, NFKC, with RoBERTa's special tokens.

    A sentence is a string or a list of words; `TokenizerConfig` tells the options. `causal`: for next-token models,
    like GPT-2's: `<|endoftext|>` is the only special token (beside the unknown of wordpiece and unigram), and nothing
    is put around a text.

    Raises ConfigError for a size with too little room for the special tokens and the characters of the text, and
    InputError for text that is empty.
    """
    special = BERT if kind == "wordpiece" else ROBERTA
    names = list(special.roles().values()) if kind == "wordpiece" else ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    if causal:
        special = GPT2 if kind == "bpe" else replace(GPT2, unknown=special.unknown)
        names = list(dict.fromkeys(special.roles().values()))
    least = len(names) + (len(pre_tokenizers.ByteLevel.alphabet()) if kind == "bpe" else 1)
    if minimum_count < 1:
        raise ConfigError("tokenizer.minimum_count", f"must be 1 or more, got {minimum_count}")
    if size < least:
        raise ConfigError(
            "tokenizer.size", f"must be {least} or more for the special tokens and bytes of a {kind}, got {size}"
        )
    mask_takes_space = kind != "wordpiece"
    tokens = [AddedToken(name, special=True, lstrip=mask_takes_space and name == special.mask) for name in names]
    tokenizer, trainer = _untrained(kind, lowercase, minimum_count, vocab_size=size, special_tokens=tokens)
    texts = (sentence if isinstance(sentence, str) else " ".join(sentence) for sentence in sentences)
    filled = (text for text in texts if text.strip())
    if (first := next(filled, None)) is None:
        raise InputError("there is no text to train a tokenizer on: every sentence is empty")
    tokenizer.train_from_iterator(chain([first], filled), trainer)
    if not causal:
        # Pairs get token types of their own, unlike in RoBERTa's files: a model with one type ignores them.
        add_post_processor(tokenizer, special, PairLayout(1 if kind == "wordpiece" else 2, second_type=1))
    subwords = Subwords(tokenizer, special)
    if len(subwords) > size:
        raise ConfigError(
            "tokenizer.size",
            f"must be {len(subwords)} or more for the characters of the text alone, got {size}; kind='bpe' counts "
            "bytes instead",
        )
    return subwords


def _untrained(kind: Kind, lowercase: bool, minimum_count: int, **options: Any) -> tuple[Tokenizer, Any]:
    """A tokenizer without a vocabulary, and its trainer, which `options` are handed to."""
    # The classes of `tokenizers.implementations` cannot be told these normalizers, prefixes and templates.
    options["show_progress"] = False
    lower = [normalizers.Lowercase()] if lowercase else []
    match kind:
        case "wordpiece":
            tokenizer = Tokenizer(models.WordPiece(unk_token=BERT.unknown))
            tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
            tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
            tokenizer.decoder = decoders.WordPiece(prefix="##")
            return tokenizer, trainers.WordPieceTrainer(min_frequency=minimum_count, **options)
        case "bpe":
            tokenizer = Tokenizer(models.BPE())
            if lower:
                tokenizer.normalizer = normalizers.Sequence(lower)
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
            tokenizer.decoder = decoders.ByteLevel()
            alphabet = pre_tokenizers.ByteLevel.alphabet()
            return tokenizer, trainers.BpeTrainer(min_frequency=minimum_count, initial_alphabet=alphabet, **options)
        case "unigram":
            tokenizer = Tokenizer(models.Unigram())
            spaces = normalizers.Replace(Regex(r"\s+"), " ")
            tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), *lower, spaces, normalizers.Strip()])
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
            tokenizer.decoder = decoders.Metaspace()
            return tokenizer, trainers.UnigramTrainer(unk_token=ROBERTA.unknown, **options)
    raise ConfigError("tokenizer.kind", f'must be "wordpiece", "bpe" or "unigram", got {kind!r}')
