"""New subword tokenizers from text, in one pass over it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from ctx_jax.io.errors import InputError
from ctx_jax.tokenizers.subword_config import Kind
from ctx_jax.tokenizers.subwords import Subwords
from ctx_jax.tokenizers.templates import BERT, GPT2, ROBERTA, surround

_SIZE = "size (--tokenizer.size; of `ctx-jax tokenizer`: --size)"


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

    kind  "wordpiece": BERT's, with `[CLS]` and its like. "bpe": byte-level, with RoBERTa's `<s>` and its like; no
          character is ever unknown, and a sentence's first word is cut like any other. "unigram": SentencePiece's way,
          NFKC, with RoBERTa's special tokens.

    A sentence is a string or a list of words. `minimum_count` is how often a pair must occur to become a token
    (wordpiece and bpe). `causal`: for next-token models, like GPT-2's: `<|endoftext|>` is the only special token
    (beside the unknown of wordpiece and unigram), and nothing is put around a text. The same text gives the same bpe
    tokenizer; the others differ from training to training in ties and last digits, so keep what was trained: a run
    that is to be repeated exactly needs `--tokenizer.file`.

    Raises ValueError for text that is empty or has more characters than `size` leaves room for.
    """
    special = BERT if kind == "wordpiece" else ROBERTA
    names = list(special.roles().values()) if kind == "wordpiece" else ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    if causal:
        special = GPT2 if kind == "bpe" else replace(GPT2, unknown=special.unknown)
        names = list(dict.fromkeys(special.roles().values()))
    least = len(names) + (len(pre_tokenizers.ByteLevel.alphabet()) if kind == "bpe" else 1)
    if minimum_count < 1:
        raise InputError(f"--minimum-count is 1 or more (minimum_count), got {minimum_count}")
    if size < least:
        raise InputError(
            f"a {kind} tokenizer needs size={least} or more for its special tokens and bytes, got {size}: set {_SIZE}"
        )
    tokenizer, trainer = _untrained(kind, size, names, lowercase, minimum_count)
    stream = _Counted(sentences)
    tokenizer.train_from_iterator(stream, trainer)
    if not stream.count:
        raise InputError("no text to train a tokenizer on, every sentence is empty: set --data.train")
    if causal:
        tokenizer.add_special_tokens(names)
    else:
        # Token types of their own for pairs, where RoBERTa's files have none: a model with one type ignores them.
        surround(tokenizer, special, mask_takes_space=kind != "wordpiece", second_type=1)
    subwords = Subwords(tokenizer, special)
    if len(subwords) > size:
        raise InputError(
            f"the text's characters alone need a vocabulary of {len(subwords)}, size is {size}: set a larger {_SIZE}, "
            "or use kind='bpe' (--tokenizer.kind bpe), which counts bytes"
        )
    return subwords


class _Counted:
    """The sentences as strings, blank ones left out, counted on the way."""

    def __init__(self, sentences: Iterable[str | Sequence[str]]) -> None:
        self.sentences = sentences
        self.count = 0

    def __iter__(self) -> Iterator[str]:
        for sentence in self.sentences:
            text = sentence if isinstance(sentence, str) else " ".join(sentence)
            if text.strip():
                self.count += 1
                yield text


def _untrained(kind: Kind, size: int, names: list[str], lowercase: bool, minimum_count: int) -> tuple[Tokenizer, Any]:
    lower = [normalizers.Lowercase()] if lowercase else []
    match kind:
        case "wordpiece":
            tokenizer = Tokenizer(models.WordPiece(unk_token=BERT.unknown))
            tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
            tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
            tokenizer.decoder = decoders.WordPiece(prefix="##")
            return tokenizer, trainers.WordPieceTrainer(
                vocab_size=size, min_frequency=minimum_count, special_tokens=names, show_progress=False
            )
        case "bpe":
            tokenizer = Tokenizer(models.BPE())
            if lower:
                tokenizer.normalizer = normalizers.Sequence(lower)
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
            tokenizer.decoder = decoders.ByteLevel()
            return tokenizer, trainers.BpeTrainer(
                vocab_size=size,
                min_frequency=minimum_count,
                special_tokens=names,
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                show_progress=False,
            )
        case "unigram":
            tokenizer = Tokenizer(models.Unigram())
            spaces = normalizers.Replace(Regex(r"\s+"), " ")
            tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), *lower, spaces, normalizers.Strip()])
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
            tokenizer.decoder = decoders.Metaspace()
            return tokenizer, trainers.UnigramTrainer(
                vocab_size=size, special_tokens=names, unk_token=ROBERTA.unknown, show_progress=False
            )
    raise InputError(f'kind must be "wordpiece", "bpe" or "unigram", got {kind!r}')
