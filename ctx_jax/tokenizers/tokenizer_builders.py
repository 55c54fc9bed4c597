"""What each tokenizer class of transformers builds of a vocabulary: its model, normalizer, splitting and decoder.

The classes with their special tokens and flags are in `tokenizer_classes`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from ctx_jax.tokenizers.templates import SpecialTokens

Flags = Mapping[str, bool | None]
_SPACE = "\u2581"  # ▁, the space in a piece
# Qwen2's: contractions, words with the character before them, single digits, punctuation, line ends, spaces.
_QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class VocabularyParts(NamedTuple):
    """What a class builds its tokenizer of."""

    ids: Mapping[str, int]
    merges: Sequence[tuple[str, str]] = ()  # of BPE
    scores: Sequence[tuple[str, float]] = ()  # of Unigram, in the order of the ids
    character_map: bytes = b""  # SentencePiece's, of Unigram


def bert(parts: VocabularyParts, flags: Flags, special: SpecialTokens) -> Tokenizer:
    model = models.WordPiece(dict(parts.ids), unk_token=special.unknown, max_input_chars_per_word=100)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=bool(flags["tokenize_chinese_chars"]),
        strip_accents=flags["strip_accents"],
        lowercase=bool(flags["do_lower_case"]),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def byte_level(parts: VocabularyParts, flags: Flags, special: SpecialTokens) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(dict(parts.ids), list(parts.merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(flags["add_prefix_space"]))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _words_with_ends(parts: VocabularyParts, special: SpecialTokens, *, lowercase: bool) -> Tokenizer:
    """BPE of words that end in `</w>`."""
    # Not `implementations.CharBPETokenizer`, which keeps the accents that GPT strips.
    model = models.BPE(dict(parts.ids), list(parts.merges), unk_token=special.unknown, end_of_word_suffix="</w>")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    return tokenizer


def gpt(parts: VocabularyParts, flags: Flags, special: SpecialTokens) -> Tokenizer:
    return _words_with_ends(parts, special, lowercase=True)


def herbert(parts: VocabularyParts, flags: Flags, special: SpecialTokens) -> Tokenizer:
    return _words_with_ends(parts, special, lowercase=False)


def unigram(parts: VocabularyParts, flags: Flags, special: SpecialTokens) -> Tokenizer:
    unknown = parts.ids.get(special.unknown)
    tokenizer = Tokenizer(models.Unigram(list(parts.scores), unk_id=unknown, byte_fallback=False))
    if parts.character_map:
        tokenizer.normalizer = normalizers.Precompiled(parts.character_map)
    scheme: Literal["always", "never"] = "always" if flags["add_prefix_space"] else "never"
    split: list[Any] = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme=scheme)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    return tokenizer


def _pieces(parts: VocabularyParts, unknown: int | None, scheme: Literal["always", "first", "never"]) -> Tokenizer:
    """A Unigram model whose pieces begin with the space before a word."""
    tokenizer = Tokenizer(models.Unigram(list(parts.scores), unk_id=unknown, byte_fallback=False))
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    return tokenizer


def albert(parts: VocabularyParts, flags: Flags, special: SpecialTokens) -> Tokenizer:
    """ALBERT's: quotes of TeX, accents and capitals go."""
    scheme: Literal["always", "never"] = "always" if flags["add_prefix_space"] else "never"
    tokenizer = _pieces(parts, 1, scheme)
    steps: list[Any] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not flags["keep_accents"]:
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if flags["do_lower_case"]:
        steps.append(normalizers.Lowercase())
    if parts.character_map:
        steps.append(normalizers.Precompiled(parts.character_map))
    tokenizer.normalizer = normalizers.Sequence(steps)
    split: list[Any] = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme=scheme)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    return tokenizer


def t5(parts: VocabularyParts, flags: Flags, special: SpecialTokens) -> Tokenizer:
    """T5's, which puts its end behind a text and nothing before it."""
    tokenizer = _pieces(parts, 2, "always")
    if parts.character_map:
        tokenizer.normalizer = normalizers.Precompiled(parts.character_map)
    split: list[Any] = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    if special.end in parts.ids:
        ends = [(special.end, parts.ids[special.end])]
        single, pair = ["$A", special.end], ["$A", special.end, "$B", special.end]
        tokenizer.post_processor = processors.TemplateProcessing(single, pair, ends)
    return tokenizer


def deberta(parts: VocabularyParts, flags: Flags, special: SpecialTokens) -> Tokenizer:
    """DeBERTa-v2's and v3's, which keeps accents and, unless told, capitals."""
    entry = (special.unknown, 0.0)
    scheme: Literal["always", "first"] = "always" if flags["add_prefix_space"] else "first"
    tokenizer = _pieces(parts, list(parts.scores).index(entry) if entry in parts.scores else 1, scheme)
    steps: list[Any] = [normalizers.Lowercase()] if flags["do_lower_case"] else []
    steps += [normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "), normalizers.NFC(), normalizers.Strip(left=False)]
    tokenizer.normalizer = normalizers.Sequence(steps)
    split: list[Any] = [pre_tokenizers.Punctuation("isolated")] if flags["split_by_punct"] else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, pre_tokenizers.Metaspace(prepend_scheme=scheme)])
    return tokenizer


def qwen(parts: VocabularyParts, flags: Flags, special: SpecialTokens) -> Tokenizer:
    """Qwen2's and Qwen3's: bytes of composed characters, cut at words, digits and punctuation."""
    tokenizer = Tokenizer(models.BPE(dict(parts.ids), list(parts.merges)))
    tokenizer.normalizer = normalizers.NFC()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=bool(flags["add_prefix_space"]), use_regex=False)
    split: list[Any] = [pre_tokenizers.Split(Regex(_QWEN_WORDS), "isolated"), byte_level]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def gemma(parts: VocabularyParts, flags: Flags, special: SpecialTokens) -> Tokenizer:
    """Gemma's: characters, and bytes for those that it lacks; a space is a piece's first character."""
    tokenizer = Tokenizer(
        models.BPE(dict(parts.ids), list(parts.merges), unk_token=special.unknown, fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    steps: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer
