"""The tokenizer classes of transformers: what each makes of a vocabulary, whatever else a tokenizer.json says.

transformers 5 builds the tokenizer of a class anew from the vocabulary, the merges and the character map of a
tokenizer.json; only a class without a constructor of its own takes the file as it is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tokenizers import AddedToken, Tokenizer

from ctx_jax.io.errors import InputError, brief
from ctx_jax.tokenizers import tokenizer_builders as builders
from ctx_jax.tokenizers.special_files import Settings
from ctx_jax.tokenizers.subwords import CONFIG, FILE, Subwords, naming
from ctx_jax.tokenizers.templates import (
    ALBERT,
    BERT,
    GEMMA,
    GPT,
    GPT2,
    MPNET,
    ONE_END,
    ROBERTA,
    T5,
    TWO_ENDS,
    PairLayout,
    SpecialTokens,
    add_post_processor,
    template,
    with_ends,
)
from ctx_jax.tokenizers.tokenizer_builders import Flags, VocabularyParts

ModelKind = Literal["WordPiece", "BPE", "Unigram", "WordLevel"]


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
    adds: tuple[str, ...] = ()  # roles whose tokens get an id behind the vocabulary where it lacks them
    mask_takes_space: bool = False  # the mask swallows the space before it
    fixed: tuple[
        tuple[str, int], ...
    ] = ()  # roles and the ids that transformers gives them whatever the vocabulary says

    @property
    def byte_level(self) -> bool:
        """Whether pieces stand for bytes."""
        return self.build is builders.byte_level


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
    behind = [getattr(special, role) for role in kind.adds]
    lstrip = kind.mask_takes_space or (mask_takes_space and special.mask not in settings.tokens)
    defaults = {
        key: AddedToken(token, special=True, lstrip=lstrip and key == "mask_token")
        for key, token in tokens.items()
        if token in parts.ids or token in behind
    }
    settings.add_tokens(tokenizer, special, defaults, behind)
    with naming(path):
        if kind.around is None:
            if tokenizer.post_processor is None:
                tokenizer.post_processor = post_processor
            special = with_ends(special, tokenizer)
            _check_flags(settings, special, tokenizer)
        elif not special.missing(tokenizer):
            add_post_processor(tokenizer, special, kind.around)
        subwords = Subwords(tokenizer, special)
    if kind.byte_level and (odd := next((token for token in parts.ids if token[:-4] and token[-4:] == "</w>"), None)):
        raise InputError(
            f"{path} has tokens that end in </w> ({brief(odd)}), which a byte-level {name} never finds: set "
            f"tokenizer_class in {CONFIG} to the class of the tokenizer, as HerbertTokenizer or OpenAIGPTTokenizer"
        )
    return subwords


def _check_flags(settings: Settings, special: SpecialTokens, tokenizer: Tokenizer) -> None:
    """InputError where tokenizer_config.json says that ends are added and the post-processor adds none, or the other
    way round: versions of transformers differ in which of them they follow."""
    around = dict(zip(("add_bos_token", "add_eos_token"), template(tokenizer), strict=True))
    for key, stated in settings.flags(dict.fromkeys(around)).items():
        if stated is not None and stated != bool(around[key]):
            raise InputError(
                f"{settings.file}: {key} is {str(stated).lower()}, and the post-processor of {FILE} says otherwise: "
                "correct one of them"
            )


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


_BERT_FLAGS = {"do_lower_case": True, "tokenize_chinese_chars": True, "strip_accents": None}
_PREFIX = {"add_prefix_space": False}
_BERT = TokenizerClass("WordPiece", BERT, builders.bert, _BERT_FLAGS, ONE_END)
_ROBERTA = TokenizerClass("BPE", ROBERTA, builders.byte_level, _PREFIX, TWO_ENDS)
_OWN_ENDS = ("bos_token", "eos_token")
_SENTINELS = tuple(f"<extra_id_{number}>" for number in range(100))
_NOT_USED = ("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED")

CLASSES: Mapping[str, TokenizerClass] = {
    # transformers gives the first for most of these names.
    **dict.fromkeys(("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "LayoutLMTokenizer"), _BERT),
    **dict.fromkeys(("LxmertTokenizer", "MobileBertTokenizer", "SqueezeBertTokenizer"), _BERT),
    **dict.fromkeys(("RobertaTokenizer", "BartTokenizer", "LEDTokenizer", "LongformerTokenizer"), _ROBERTA),
    "GPT2Tokenizer": TokenizerClass("BPE", GPT2, builders.byte_level, _PREFIX, ends=_OWN_ENDS),
    "OpenAIGPTTokenizer": TokenizerClass("BPE", GPT, builders.gpt, ends=_OWN_ENDS),
    "HerbertTokenizer": TokenizerClass(
        "BPE", ROBERTA, builders.herbert, around=ONE_END, fixed=(("begin", 0), ("end", 2))
    ),
    "XLMRobertaTokenizer": TokenizerClass(
        "Unigram", ROBERTA, builders.unigram, {"add_prefix_space": True}, TWO_ENDS, _OWN_ENDS, fixed=(("unknown", 3),)
    ),
    "CamembertTokenizer": TokenizerClass(
        "Unigram",
        ROBERTA,
        builders.unigram,
        {"add_prefix_space": True},
        TWO_ENDS,
        _OWN_ENDS,
        _NOT_USED,
        mask_takes_space=True,
    ),
    "MPNetTokenizer": TokenizerClass("WordPiece", MPNET, builders.bert, _BERT_FLAGS, TWO_ENDS, mask_takes_space=True),
    "AlbertTokenizer": TokenizerClass(
        "Unigram",
        ALBERT,
        builders.albert,
        {"do_lower_case": True, "keep_accents": False, "add_prefix_space": True},
        ONE_END,
        fixed=(("unknown", 1),),
    ),
    "DebertaV2Tokenizer": TokenizerClass(
        "Unigram",
        BERT,
        builders.deberta,
        {"do_lower_case": False, "split_by_punct": False, "add_prefix_space": True},
        ONE_END,
        adds=("mask",),
    ),
    "T5Tokenizer": TokenizerClass(
        "Unigram", T5, builders.t5, ends=_OWN_ENDS, extra=_SENTINELS, fixed=(("unknown", 2),)
    ),
    "Qwen2Tokenizer": TokenizerClass("BPE", GPT2, builders.qwen, {"add_prefix_space": None}, ends=_OWN_ENDS),
    "GemmaTokenizer": TokenizerClass("BPE", GEMMA, builders.gemma, ends=_OWN_ENDS),
}
"""By name, without "Fast"."""

FOR_WORDPIECE = tuple(name for name, known in CLASSES.items() if known.model == "WordPiece")
FOR_BPE = tuple(
    name
    for name, known in CLASSES.items()
    if known.model == "BPE" and known.build not in (builders.qwen, builders.gemma)
)
FOR_SENTENCEPIECE = ("XLMRobertaTokenizer", "AlbertTokenizer", "DebertaV2Tokenizer", "T5Tokenizer")
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
    "mpnet": "MPNetTokenizer",
    "albert": "AlbertTokenizer",
    "nomic_bert": "BertTokenizer",
    "deberta-v2": "DebertaV2Tokenizer",
    "t5": "T5Tokenizer",
    "mt5": "T5Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "gemma3_text": "GemmaTokenizer",
}
"""The class where none is named."""

IGNORES_CLASS = ("modernbert",)
"""Types of models whose named class transformers ignores."""

_REBUILT = """
    Barthez Bartpho BertGeneration BertJapanese Bertweet BigBird BioGpt BlenderbotSmall Blenderbot ByT5 CLIP
    CTRL Canine Clvp CodeGen CodeLlama Cohere ConvBert CpmAnt Cpm DPRContextEncoder DPRQuestionEncoder DPRReader
    Deberta Dia Esm Esmc FNet FSMT FastSpeech2Conformer Flaubert Funnel GPTNeoXJapanese GPTNeoX GPTSw3 Lasr
    LayoutLMv2 LayoutLMv3 LayoutXLM Llama Luke M2M100 MBart50 MBart MLuke Marian MarkupLM Mgpstr Mvp MyT5 Nllb
    Nougat PLBart Pegasus Perceiver Phobert Pop2Piano ProphetNet Qwen3_5 Rag Reformer RemBert RoCBert RoFormer
    SeamlessM4T Siglip2 Siglip Speech2Text SpeechT5 Splinter Tapas Tipsv2 Udop VideoPrism Vits Wav2Vec2CTC
    Wav2Vec2PhonemeCTC Whisper XGLM XLM XLNet
"""
REBUILT = frozenset(["MistralCommonBackend", *(f"{name}Tokenizer" for name in _REBUILT.split())])
"""Further classes that build a tokenizer of their own beside a tokenizer.json, in ways that are not written here."""
