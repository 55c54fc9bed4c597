"""Subword tokenizers from other people's files: tokenizer.json, vocab.txt, vocab.json + merges.txt, whole folders."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from ctx_jax.io.errors import InputError, MissingFileError
from ctx_jax.io.files import read_json
from ctx_jax.tokenizers.sentencepiece_files import SUFFIXES as SENTENCEPIECE
from ctx_jax.tokenizers.sentencepiece_files import Layout, read_sentencepiece
from ctx_jax.tokenizers.special_files import Settings, finished, read_settings, surrounded
from ctx_jax.tokenizers.subwords import CONFIG, FILE, Subwords
from ctx_jax.tokenizers.templates import BERT, GPT, GPT2, ROBERTA, SpecialTokens, template

# Classes that take tokenizer.json as it is; a class of a family follows tokenizer_config.json where the two differ.
_GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")
# Those that take add_prefix_space for false where tokenizer_config.json does not say it.
_BYTE_LEVEL = ("RobertaTokenizer", "GPT2Tokenizer")
# By the model_type, where no class is named.
_CLASSES = {"modernbert": _GENERIC[0], "roberta": _BYTE_LEVEL[0], "gpt2": _BYTE_LEVEL[1]}
# What transformers calls the SentencePiece files of XLM-R, of ALBERT, T5 and XLNet, and of Llama.
_SENTENCEPIECE_NAMES = ("sentencepiece.bpe.model", "spiece.model", "tokenizer.model")


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


def read_folder(folder: str | Path, model_type: str = "", tokenizer_class: str = "") -> Subwords:
    """The tokenizer of a Hugging Face folder: its tokenizer.json, else its vocabulary files.

    tokenizer_config.json, special_tokens_map.json and added_tokens.json name the special tokens and those added to the
    vocabulary, and the first also lower-casing and the like. `model_type` and `tokenizer_class` are config.json's; the
    class, which tokenizer_config.json names first, tells XLM-R, whose SentencePiece file is laid out in its own way,
    and GPT, whose only special token is `<unk>`.
    """
    folder = Path(folder)
    settings = read_settings(folder)
    # transformers looks at no class of a ModernBERT.
    named = "" if model_type == "modernbert" else settings.entries.get("tokenizer_class") or tokenizer_class
    made_by = str(named or _CLASSES.get(model_type, ""))
    gpt = model_type == "openai-gpt" or made_by.startswith("OpenAIGPT")
    if (folder / FILE).is_file():
        return _read_json(folder / FILE, settings, made_by, GPT if gpt else None)
    if (folder / "vocab.txt").is_file():
        return _wordpiece(folder / "vocab.txt", settings)
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
        return _gpt_bpe(vocabulary, merges, settings) if gpt else _byte_bpe(vocabulary, merges, settings)
    if (file := _sentencepiece_of(folder)) is not None:
        xlm_r = model_type == "xlm-roberta" or made_by.startswith("XLMRoberta")
        layout: Layout = "xlm-r" if xlm_r else "plain"
        return read_sentencepiece(file, layout=layout, settings=settings)
    listed = ", ".join(sorted(entry.name for entry in folder.iterdir())[:20]) or "nothing"
    raise MissingFileError(
        f"{folder} holds no tokenizer: needs tokenizer.json, vocab.txt, vocab.json with merges.txt, or one "
        f"SentencePiece .model; found {listed}"
    )


def _sentencepiece_of(folder: Path) -> Path | None:
    files = sorted(file for file in folder.iterdir() if file.suffix in SENTENCEPIECE and file.name[0] != ".")
    known = [folder / name for name in _SENTENCEPIECE_NAMES if (folder / name) in files]
    if len(files) > 1 and len(known) != 1:
        raise InputError(
            f"{folder} has more than one SentencePiece file: {', '.join(file.name for file in files)}; keep the "
            "model's own alone"
        )
    return next(iter(known or files), None)


def read_tokenizer_json(path: str | Path, special: SpecialTokens | None = None) -> Subwords:
    """A `tokenizer.json`; what it says of truncation and padding is dropped.

    `special` absent: named by tokenizer_config.json or special_tokens_map.json beside it, else by the usual names.
    """
    path = Path(path)
    settings = read_settings(path.parent)
    return _read_json(path, settings, str(settings.entries.get("tokenizer_class") or ""), special=special)


def _read_json(
    path: Path,
    settings: Settings,
    made_by: str,
    family: SpecialTokens | None = None,
    special: SpecialTokens | None = None,
) -> Subwords:
    state = read_json(path)
    if "model" not in state:
        raise InputError(f"{path} is no tokenizer.json: it has no entry 'model'")
    state |= {"truncation": None, "padding": None}
    if made_by not in _GENERIC:
        _follow(settings, state, made_by)
    tokenizer = _made(lambda: Tokenizer.from_str(json.dumps(state)), f"{path} is damaged or of a newer kind")
    settings.add_to(tokenizer)
    held = tokenizer.get_vocab(with_added_tokens=True)
    return finished(tokenizer, special or settings.special(family or _guess(tokenizer), held), path)


def _follow(settings: Settings, state: dict[str, Any], made_by: str) -> None:
    """Change a tokenizer.json to what tokenizer_config.json says otherwise, as transformers does; null counts."""
    normalizer, splitter, entries = state.get("normalizer"), state.get("pre_tokenizer"), settings.entries
    if isinstance(normalizer, dict) and normalizer.get("type") == "BertNormalizer":
        names = (
            ("do_lower_case", "lowercase"),
            ("strip_accents",) * 2,
            ("tokenize_chinese_chars", "handle_chinese_chars"),
        )
        said = {ours: entries[theirs] for theirs, ours in names if theirs in entries}
        normalizer |= {ours: value for ours, value in said.items() if value is not None or ours == "strip_accents"}
    decides = "add_prefix_space" in entries or made_by.startswith(_BYTE_LEVEL)
    if isinstance(splitter, dict) and splitter.get("type") == "ByteLevel" and decides:
        prefix = bool(entries.get("add_prefix_space", False))
        splitter |= {"add_prefix_space": prefix}
        after = state.get("post_processor")
        if isinstance(after, dict) and after.get("type") == "RobertaProcessing":
            after |= {"add_prefix_space": prefix}


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
    settings = read_settings(Path(path).parent)
    said = {"do_lower_case": lowercase, "strip_accents": strip_accents, "tokenize_chinese_chars": chinese}
    return _wordpiece(Path(path), replace(settings, entries={**settings.entries, **said}))


def _wordpiece(path: Path, settings: Settings) -> Subwords:
    vocabulary = {line.rstrip("\r"): number for number, line in enumerate(_text(path).removesuffix("\n").split("\n"))}
    special = settings.special(BERT, {*vocabulary, *settings.tokens})
    lowercase = settings.entries.get("do_lower_case")
    chinese = settings.entries.get("tokenize_chinese_chars")
    if lowercase is None:
        texts = vocabulary.keys() - set(special.roles().values()) - settings.tokens
        lowercase = not any(token != token.lower() and not token.startswith("[unused") for token in texts)
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=special.unknown, max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=chinese is None or chinese,
        strip_accents=settings.entries.get("strip_accents"),
        lowercase=lowercase,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    settings.add_to(tokenizer)
    return surrounded(tokenizer, special, path, mask_takes_space=False)


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
    settings = Settings({"add_prefix_space": add_prefix_space}, special.roles() if special else {})
    return _byte_bpe(Path(vocabulary), Path(merges), settings)


def _byte_bpe(path: Path, merges: Path, settings: Settings) -> Subwords:
    ids, pairs = _bpe_files(path, merges)
    family = GPT2 if ROBERTA.begin not in ids and GPT2.end in ids else ROBERTA
    special = settings.special(family, {*ids, *settings.tokens})
    tokenizer = _made(lambda: Tokenizer(models.BPE(ids, pairs)), f"{merges} does not fit {path}")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=bool(settings.entries.get("add_prefix_space", False))
    )
    tokenizer.decoder = decoders.ByteLevel()
    if special.begin != special.end:
        settings.add_to(tokenizer)
        return surrounded(tokenizer, special, path, mask_takes_space=True)
    if said := [key for key in ("add_bos_token", "add_eos_token") if settings.entries.get(key)]:
        raise InputError(
            f"{path.with_name(CONFIG)}: {said[0]} is true, but a tokenizer whose begin and end are both "
            f"{special.begin} puts nothing around a text here; set it to false to go without"
        )
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return _unsurrounded(tokenizer, special, path, settings)


def _gpt_bpe(path: Path, merges: Path, settings: Settings) -> Subwords:
    """The BPE of the first GPT, of a `vocab.json` and its `merges.txt`: lower-cased letters, a word's end is `</w>`."""
    ids, pairs = _bpe_files(path, merges)
    special = settings.special(GPT, {*ids, *settings.tokens})
    tokenizer = _made(
        lambda: Tokenizer(models.BPE(ids, pairs, unk_token=special.unknown, end_of_word_suffix="</w>")),
        f"{merges} does not fit {path}",
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    return _unsurrounded(tokenizer, special, path, settings)


def _bpe_files(path: Path, merges: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Ids of tokens, and the merges in their order."""
    ids = read_json(path)
    if not all(isinstance(number, int) for number in ids.values()) or len(set(ids.values())) < len(ids):
        raise InputError(f"{path}: must give every token an id of its own")
    pairs = []
    for number, line in enumerate(_text(merges).split("\n"), start=1):
        if not line.strip() or line.startswith("#version"):
            continue
        pair = line.rstrip("\r").split(" ")
        if len(pair) != 2:
            raise InputError(f"{merges}, line {number}: needs two tokens and a space between them, got {line!r}")
        if absent := [token for token in (*pair, "".join(pair)) if token not in ids]:
            raise InputError(f"{merges} does not fit {path}: line {number} needs {absent[0]!r}, which has no id")
        pairs.append((pair[0], pair[1]))
    return ids, pairs


def _made(make: Callable[[], Tokenizer], fault: str) -> Tokenizer:
    """`make()`; what the Rust side raises has no type of its own, and its panics are no Exception."""
    try:
        return make()
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise InputError(f"{fault}: {error}") from error


def _unsurrounded(tokenizer: Tokenizer, special: SpecialTokens, path: Path, settings: Settings) -> Subwords:
    settings.add_to(tokenizer)
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    roles = {token for token in special.roles().values() if tokenizer.token_to_id(token) is not None}
    tokenizer.add_special_tokens(sorted(roles - known))
    return finished(tokenizer, special, path)


def _guess(tokenizer: Tokenizer) -> SpecialTokens:
    """The family whose names the tokenizer has the most of; GPT-2's for a tokenizer that adds none around a text."""
    families = [BERT, ROBERTA] if any(template(tokenizer)) else [BERT, ROBERTA, GPT2]
    counts = [
        sum(tokenizer.token_to_id(token) is not None for token in set(family.roles().values()))
        / len({*family.roles().values()})
        for family in families
    ]
    return families[counts.index(max(counts))]


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: {error}") from error
