"""Subword tokenizers from other people's files: tokenizer.json, vocab.txt, vocab.json + merges.txt, whole folders."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from ctx_jax.files.json_files import read_json
from ctx_jax.text.sentencepiece_files import SUFFIXES as SENTENCEPIECE
from ctx_jax.text.sentencepiece_files import Layout, read_sentencepiece
from ctx_jax.text.subwords import CONFIG, FILE, Subwords
from ctx_jax.text.templates import BERT, GPT, GPT2, ROBERTA, SpecialTokens, surround, template

_KEYS = {
    "pad": ("pad_token",),
    "unknown": ("unk_token",),
    "begin": ("cls_token", "bos_token"),
    "end": ("sep_token", "eos_token"),
    "mask": ("mask_token",),
}


def read(path: str | Path) -> Subwords:
    """A tokenizer from a file or folder, told apart by its name.

        read("tokenizer.json")      read("vocab.txt")       WordPiece
        read("vocab.json")          with merges.txt beside it: byte-level BPE
        read("spiece.model")        SentencePiece, as `read_sentencepiece`
        read("some/folder")         a Hugging Face folder or one of our runs

    Raises FileNotFoundError, ValueError: nothing there, a damaged file, a special token lacking or clashing.
    ModuleNotFoundError: a SentencePiece file without the extra `ctx-jax[sentencepiece]`.
    """
    path = Path(path)
    if path.is_dir():
        return read_folder(path)
    if path.suffix in SENTENCEPIECE:
        return read_sentencepiece(path)
    match path.name:
        case "vocab.json":
            return read_byte_bpe(path, path.with_name("merges.txt"))
        case "merges.txt":
            return read_byte_bpe(path.with_name("vocab.json"), path)
    if path.suffix == ".json":
        return read_tokenizer_json(path)
    return read_wordpiece(path)


def read_folder(folder: str | Path, model_type: str = "") -> Subwords:
    """The tokenizer of a Hugging Face folder: its tokenizer.json, else its vocabulary files.

    tokenizer_config.json and special_tokens_map.json name the special tokens, and the first also lower-casing and the
    like. `model_type` of config.json (else the tokenizer's class) tells XLM-R, whose SentencePiece file is laid out in
    its own way, and GPT, whose only special token is `<unk>`.
    """
    folder = Path(folder)
    settings = _settings(folder)
    made_by = str(settings.get("tokenizer_class", ""))
    gpt = model_type == "openai-gpt" or made_by.startswith("OpenAIGPT")
    if (folder / FILE).is_file():
        return read_tokenizer_json(folder / FILE, _special(settings) or (GPT if gpt else None))
    if (folder / "vocab.txt").is_file():
        return read_wordpiece(
            folder / "vocab.txt",
            lowercase=settings.get("do_lower_case"),
            strip_accents=settings.get("strip_accents"),
            chinese=settings.get("tokenize_chinese_chars", True),
        )
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        if gpt:
            return read_gpt_bpe(folder / "vocab.json", folder / "merges.txt", special=_special(settings) or GPT)
        return read_byte_bpe(
            folder / "vocab.json",
            folder / "merges.txt",
            add_prefix_space=bool(settings.get("add_prefix_space", False)),
            special=_special(settings),
        )
    files = sorted(file for file in folder.iterdir() if file.suffix in SENTENCEPIECE)
    if len(files) == 1:
        xlm_r = model_type == "xlm-roberta" or made_by.startswith("XLMRoberta")
        layout: Layout = "xlm-r" if xlm_r else "plain"
        return read_sentencepiece(files[0], layout=layout, special=_special(settings))
    listed = ", ".join(sorted(entry.name for entry in folder.iterdir())[:20]) or "nothing"
    raise FileNotFoundError(
        f"{folder} holds no tokenizer: needs tokenizer.json, vocab.txt, vocab.json with merges.txt, or one "
        f"SentencePiece .model; found {listed}"
    )


def read_tokenizer_json(path: str | Path, special: SpecialTokens | None = None) -> Subwords:
    """A `tokenizer.json`; what it says of truncation and padding is dropped.

    `special` absent: named by tokenizer_config.json or special_tokens_map.json beside it, else by the usual names.
    """
    path = Path(path)
    state = read_json(path)
    if "model" not in state:
        raise ValueError(f"{path} is no tokenizer.json: it has no entry 'model'")
    settings = _settings(path.parent)
    state |= {"truncation": None, "padding": None}
    normalizer = state.get("normalizer")
    if isinstance(normalizer, dict) and normalizer.get("type") == "BertNormalizer":
        # Where the two files differ, transformers follows tokenizer_config.json.
        names = (
            ("do_lower_case", "lowercase"),
            ("strip_accents",) * 2,
            ("tokenize_chinese_chars", "handle_chinese_chars"),
        )
        normalizer |= {ours: settings[theirs] for theirs, ours in names if theirs in settings}
    tokenizer = _made(lambda: Tokenizer.from_str(json.dumps(state)), f"{path} is damaged or of a newer kind")
    return _subwords(tokenizer, special or _special(settings) or _guess(tokenizer), path)


def read_wordpiece(
    path: str | Path,
    *,
    lowercase: bool | None = None,
    strip_accents: bool | None = None,
    chinese: bool = True,
) -> Subwords:
    """BERT's WordPiece over a `vocab.txt`, one token a line, the line's number its id.

    `lowercase` absent: where no token of the vocabulary has a capital. `strip_accents` absent: as `lowercase`.
    `chinese` puts spaces around CJK characters, as every BERT does, cased or not.
    """
    path = Path(path)
    vocabulary = {line.rstrip("\r"): number for number, line in enumerate(_text(path).removesuffix("\n").split("\n"))}
    special = _special(_settings(path.parent)) or BERT
    if lowercase is None:
        texts = vocabulary.keys() - set(special.roles().values())
        lowercase = not any(token != token.lower() and not token.startswith("[unused") for token in texts)
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=special.unknown, max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=chinese, strip_accents=strip_accents, lowercase=lowercase
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return _surrounded(tokenizer, special, path, False)


def read_byte_bpe(
    vocabulary: str | Path,
    merges: str | Path,
    *,
    add_prefix_space: bool = False,
    special: SpecialTokens | None = None,
) -> Subwords:
    """Byte-level BPE of a `vocab.json` and its `merges.txt`: RoBERTa's where it has `<s>`, else GPT-2's.

    `add_prefix_space`: whether the first word of a text is cut like those after a space (GPT-2 and RoBERTa: no).
    """
    path, merges = Path(vocabulary), Path(merges)
    ids, pairs = _bpe_files(path, merges)
    if special is None:
        special = GPT2 if ROBERTA.begin not in ids and GPT2.end in ids else ROBERTA
    tokenizer = _made(lambda: Tokenizer(models.BPE(ids, pairs)), f"{merges} does not fit {path}")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    if special.begin == special.end:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
        tokenizer.add_special_tokens([token for token in special.roles().values() if token in ids])
        return _subwords(tokenizer, special, path)
    return _surrounded(tokenizer, special, path, True)


def read_gpt_bpe(vocabulary: str | Path, merges: str | Path, *, special: SpecialTokens = GPT) -> Subwords:
    """The BPE of the first GPT, of a `vocab.json` and its `merges.txt`: lower-cased letters, a word's end is `</w>`."""
    path, merges = Path(vocabulary), Path(merges)
    ids, pairs = _bpe_files(path, merges)
    tokenizer = _made(
        lambda: Tokenizer(models.BPE(ids, pairs, unk_token=special.unknown, end_of_word_suffix="</w>")),
        f"{merges} does not fit {path}",
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    tokenizer.add_special_tokens([token for token in special.roles().values() if token in ids])
    return _subwords(tokenizer, special, path)


def _bpe_files(path: Path, merges: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Ids of tokens, and the merges in their order."""
    ids = read_json(path)
    if not all(isinstance(number, int) for number in ids.values()) or len(set(ids.values())) < len(ids):
        raise ValueError(f"{path}: must give every token an id of its own")
    pairs = []
    for number, line in enumerate(_text(merges).split("\n"), start=1):
        if not line.strip() or line.startswith("#version"):
            continue
        pair = line.rstrip("\r").split(" ")
        if len(pair) != 2:
            raise ValueError(f"{merges}, line {number}: needs two tokens and a space between them, got {line!r}")
        if absent := [token for token in (*pair, "".join(pair)) if token not in ids]:
            raise ValueError(f"{merges} does not fit {path}: line {number} needs {absent[0]!r}, which has no id")
        pairs.append((pair[0], pair[1]))
    return ids, pairs


def _made(make: Callable[[], Tokenizer], fault: str) -> Tokenizer:
    """`make()`; what the Rust side raises has no type of its own, and its panics are no Exception."""
    try:
        return make()
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"{fault}: {error}") from error


def _surrounded(tokenizer: Tokenizer, special: SpecialTokens, path: Path, mask_takes_space: bool) -> Subwords:
    try:
        surround(tokenizer, special, mask_takes_space=mask_takes_space)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return _subwords(tokenizer, special, path)


def _subwords(tokenizer: Tokenizer, special: SpecialTokens, path: Path) -> Subwords:
    try:
        return Subwords(tokenizer, special)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _guess(tokenizer: Tokenizer) -> SpecialTokens:
    """The family whose names the tokenizer has the most of; GPT-2's for a tokenizer that adds none around a text."""
    families = [BERT, ROBERTA] if any(template(tokenizer)) else [BERT, ROBERTA, GPT2]
    counts = [
        sum(tokenizer.token_to_id(token) is not None for token in set(family.roles().values()))
        / len({*family.roles().values()})
        for family in families
    ]
    return families[counts.index(max(counts))]


def _special(settings: Mapping[str, Any]) -> SpecialTokens | None:
    """The roles as tokenizer_config.json names them; None where it says too little."""
    found: dict[str, str] = {}
    for role, keys in _KEYS.items():
        for key in keys:
            value = settings.get(key)
            token = value.get("content") if isinstance(value, Mapping) else value
            if isinstance(token, str) and role not in found:
                found[role] = token
    if "begin" not in found or "end" not in found:
        return None
    # A GPT has one token for all; a BERT that does not name one of its tokens has the family's usual one.
    family = next((known for known in (BERT, ROBERTA) if known.begin == found["begin"]), None)
    for role in ("pad", "unknown"):
        found.setdefault(role, getattr(family, role) if family else found["end"])
    mask = found.get("mask", family.mask if family else None)
    return SpecialTokens(found["pad"], found["unknown"], found["begin"], found["end"], mask)


def _settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json over special_tokens_map.json; entries that are null are left out."""
    found: dict[str, Any] = {}
    for name in ("special_tokens_map.json", CONFIG):
        if (folder / name).is_file():
            found |= {key: value for key, value in read_json(folder / name).items() if value is not None}
    return found


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from error
