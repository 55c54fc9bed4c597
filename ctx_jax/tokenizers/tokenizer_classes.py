"""The tokenizer classes of transformers: what each makes of a vocabulary, whatever else a tokenizer.json says.

transformers 5 builds the tokenizer of a class anew from the vocabulary, the merges and the character map of a
tokenizer.json; only a class without a constructor of its own takes the file as it is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from ctx_jax.io.errors import InputError, brief
from ctx_jax.tokenizers.special_files import Settings
from ctx_jax.tokenizers.subwords import CONFIG, Subwords, naming
from ctx_jax.tokenizers.templates import (
    BERT,
    GPT,
    GPT2,
    ONE_END,
    ROBERTA,
    TWO_ENDS,
    PairLayout,
    SpecialTokens,
    add_post_processor,
)

ModelKind = Literal["WordPiece", "BPE", "Unigram", "WordLevel"]
Flags = Mapping[str, bool | None]


class VocabularyParts(NamedTuple):
    """What a class builds its tokenizer of."""

    ids: Mapping[str, int]
    merges: Sequence[tuple[str, str]] = ()  # of BPE
    scores: Sequence[tuple[str, float]] = ()  # of Unigram, in the order of the ids
    character_map: bytes = b""  # SentencePiece's, of Unigram


@dataclass(frozen=True)
class TokenizerClass:
    """How transformers builds a tokenizer.

    `flags` are the entries of tokenizer_config.json that it reads, with their defaults; None: may be null. `around` is
    the layout of pairs if it puts tokens around a text: those named `ends`; None: it adds none, but keeps the
    post-processor of a tokenizer.json. `extra` are special tokens where the vocabulary has them.
    """

    model: ModelKind
    special: SpecialTokens
    build: Callable[[VocabularyParts, Flags, SpecialTokens], Tokenizer]
    flags: Flags = field(default_factory=dict, hash=False)
    around: PairLayout | None = None
    ends: tuple[str, str] = ("cls_token", "sep_token")
    extra: tuple[str, ...] = ()
    mask_takes_space: bool = False  # the mask swallows the space before it
    fixed: tuple[
        tuple[str, int], ...
    ] = ()  # roles and the ids that transformers gives them whatever the vocabulary says

    @property
    def byte_level(self) -> bool:
        """Whether pieces stand for bytes."""
        return self.build is _byte_level


def build(
    name: str,
    parts: VocabularyParts,
    settings: Settings,
    path: Path,
    *,
    post_processor: Any = None,
    mask_takes_space: bool = False,
) -> Subwords:
    """The tokenizer that the class `name` makes of the vocabulary in `path`.

    `post_processor` is a tokenizer.json's, for a class without one of its own. With `mask_takes_space` the mask
    swallows the space before it, unless a file names it.
    """
    kind = CLASSES[name]
    keys = {"unk_token": "unknown", "pad_token": "pad", kind.ends[0]: "begin", kind.ends[1]: "end"}
    if kind.around and (absent := [key for key in keys if key in settings.named and settings.named[key] is None]):
        raise InputError(
            f"{settings.file}: {absent[0]} is null, but a {name} needs one: name it, or leave the entry out"
        )
    vocabulary = {*parts.ids, *settings.tokens}
    ends = [[key] for key in kind.ends]
    special = settings.special(kind.special, vocabulary, ends, of_class=True, fallback=kind.around is None)
    for role, number in kind.fixed:
        if (actual := parts.ids.get(token := getattr(special, role))) not in (None, number):
            raise InputError(
                f"{path} gives {brief(token)} the id {actual}; a {name} needs {number} for its {role} token"
            )
    flags = settings.flags(kind.flags)
    with naming(path):
        tokenizer = kind.build(parts, flags, special)
    tokens = {key: getattr(special, role) for key, role in keys.items()} | {"mask_token": special.mask}
    if kind.around == TWO_ENDS:  # these have both names of either end
        begin, end = kind.special.begin, kind.special.end
        tokens = {"bos_token": begin, "eos_token": end, "cls_token": begin, "sep_token": end} | tokens
    tokens |= {token: token for token in kind.extra}
    lstrip = kind.mask_takes_space or (mask_takes_space and special.mask not in settings.tokens)
    defaults = {
        key: AddedToken(token, special=True, lstrip=lstrip and key == "mask_token")
        for key, token in tokens.items()
        if token in parts.ids
    }
    settings.add_tokens(tokenizer, special, defaults)
    with naming(path):
        if kind.around is None:
            tokenizer.post_processor = post_processor
        elif not special.missing(tokenizer):
            add_post_processor(tokenizer, special, kind.around)
        subwords = Subwords(tokenizer, special)
    if kind.byte_level and (odd := next((token for token in parts.ids if token[:-4] and token[-4:] == "</w>"), None)):
        raise InputError(
            f"{path} has tokens that end in </w> ({brief(odd)}), which a byte-level {name} never finds: set "
            f"tokenizer_class in {CONFIG} to the class of the tokenizer, as HerbertTokenizer or OpenAIGPTTokenizer"
        )
    return subwords


def checked_ids(ids: Any, path: Path) -> dict[str, int]:
    """The ids of tokens that `path` gives; InputError unless each token has a whole number of its own."""
    if not isinstance(ids, dict) or not all(type(number) is int and 0 <= number < 1 << 31 for number in ids.values()):
        raise InputError(f"{path} is damaged: its vocabulary must give every token an id of its own, a whole number")
    tokens: dict[int, str] = {}
    for token, number in ids.items():
        if (other := tokens.setdefault(number, token)) != token:
            raise InputError(
                f"{path}: {brief(other)} and {brief(token)} share the id {number}; every token needs an id of its own"
            )
    return ids


def _bert(parts: VocabularyParts, flags: Flags, special: SpecialTokens) -> Tokenizer:
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


def _byte_level(parts: VocabularyParts, flags: Flags, special: SpecialTokens) -> Tokenizer:
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


def _gpt(parts: VocabularyParts, flags: Flags, special: SpecialTokens) -> Tokenizer:
    return _words_with_ends(parts, special, lowercase=True)


def _herbert(parts: VocabularyParts, flags: Flags, special: SpecialTokens) -> Tokenizer:
    return _words_with_ends(parts, special, lowercase=False)


def _unigram(parts: VocabularyParts, flags: Flags, special: SpecialTokens) -> Tokenizer:
    unknown = parts.ids.get(special.unknown)
    tokenizer = Tokenizer(models.Unigram(list(parts.scores), unk_id=unknown, byte_fallback=False))
    if parts.character_map:
        tokenizer.normalizer = normalizers.Precompiled(parts.character_map)
    scheme: Literal["always", "never"] = "always" if flags["add_prefix_space"] else "never"
    split: list[Any] = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme=scheme)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    return tokenizer


_BERT_FLAGS = {"do_lower_case": True, "tokenize_chinese_chars": True, "strip_accents": None}
_PREFIX = {"add_prefix_space": False}
_BERT = TokenizerClass("WordPiece", BERT, _bert, _BERT_FLAGS, ONE_END)
_ROBERTA = TokenizerClass("BPE", ROBERTA, _byte_level, _PREFIX, TWO_ENDS)
_OWN_ENDS = ("bos_token", "eos_token")
_NOT_USED = ("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED")

CLASSES: Mapping[str, TokenizerClass] = {
    # transformers gives the first for most of these names.
    **dict.fromkeys(("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "LayoutLMTokenizer"), _BERT),
    **dict.fromkeys(("LxmertTokenizer", "MobileBertTokenizer", "SqueezeBertTokenizer"), _BERT),
    **dict.fromkeys(("RobertaTokenizer", "BartTokenizer", "LEDTokenizer", "LongformerTokenizer"), _ROBERTA),
    "GPT2Tokenizer": TokenizerClass("BPE", GPT2, _byte_level, _PREFIX, ends=_OWN_ENDS),
    "OpenAIGPTTokenizer": TokenizerClass("BPE", GPT, _gpt, ends=_OWN_ENDS),
    "HerbertTokenizer": TokenizerClass("BPE", ROBERTA, _herbert, around=ONE_END, fixed=(("begin", 0), ("end", 2))),
    "XLMRobertaTokenizer": TokenizerClass(
        "Unigram", ROBERTA, _unigram, {"add_prefix_space": True}, TWO_ENDS, _OWN_ENDS, fixed=(("unknown", 3),)
    ),
    "CamembertTokenizer": TokenizerClass(
        "Unigram", ROBERTA, _unigram, {"add_prefix_space": True}, TWO_ENDS, _OWN_ENDS, _NOT_USED, mask_takes_space=True
    ),
}
"""By name, without "Fast"."""

FOR_WORDPIECE = tuple(name for name, known in CLASSES.items() if known.model == "WordPiece")
FOR_BPE = tuple(name for name, known in CLASSES.items() if known.model == "BPE")
FOR_SENTENCEPIECE = ("XLMRobertaTokenizer",)
"""The classes that a `vocab.txt`, a `vocab.json` with `merges.txt`, and a SentencePiece file may have."""

GENERIC = ("PreTrainedTokenizer", "TokenizersBackend")
"""Classes that take a tokenizer.json as it is, and need one."""

OF_MODEL_TYPE = {
    "bert": "BertTokenizer",
    "distilbert": "BertTokenizer",
    "electra": "BertTokenizer",
    "roberta": "RobertaTokenizer",
    "camembert": "CamembertTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "xlm-roberta-xl": "TokenizersBackend",
    "data2vec-text": "RobertaTokenizer",
    "gpt2": "GPT2Tokenizer",
    "openai-gpt": "OpenAIGPTTokenizer",
    "modernbert": "TokenizersBackend",
}
"""The class where none is named."""

IGNORES_CLASS = ("modernbert",)
"""Types of models whose named class transformers ignores."""

_REBUILT = """
    Albert Barthez Bartpho BertGeneration BertJapanese Bertweet BigBird BioGpt BlenderbotSmall Blenderbot ByT5 CLIP
    CTRL Canine Clvp CodeGen CodeLlama Cohere ConvBert CpmAnt Cpm DPRContextEncoder DPRQuestionEncoder DPRReader
    Deberta DebertaV2 Dia Esm Esmc FNet FSMT FastSpeech2Conformer Flaubert Funnel GPTNeoXJapanese GPTNeoX GPTSw3
    Gemma Lasr LayoutLMv2 LayoutLMv3 LayoutXLM Llama Luke M2M100 MBart50 MBart MLuke MPNet Marian MarkupLM Mgpstr
    Mvp MyT5 Nllb Nougat PLBart Pegasus Perceiver Phobert Pop2Piano ProphetNet Qwen2 Qwen3_5 Rag Reformer RemBert
    RoCBert RoFormer SeamlessM4T Siglip2 Siglip Speech2Text SpeechT5 Splinter T5 Tapas Tipsv2 Udop VideoPrism Vits
    Wav2Vec2CTC Wav2Vec2PhonemeCTC Whisper XGLM XLM XLNet
"""
REBUILT = frozenset(["MistralCommonBackend", *(f"{name}Tokenizer" for name in _REBUILT.split())])
"""Further classes that build a tokenizer of their own beside a tokenizer.json, in ways that are not written here."""
