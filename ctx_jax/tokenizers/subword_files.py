"""Subword tokenizers from files of other programs: tokenizer.json, vocab.txt, vocab.json with merges.txt, folders."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ctx_jax.io.errors import InputError, MissingFileError, brief
from ctx_jax.io.files import read_json, read_text
from ctx_jax.tokenizers import byte_tokenizer
from ctx_jax.tokenizers import tokenizer_classes as classes
from ctx_jax.tokenizers.sentencepiece_files import SUFFIXES as SENTENCEPIECE
from ctx_jax.tokenizers.sentencepiece_files import read_sentencepiece, sentencepiece_parts
from ctx_jax.tokenizers.special_files import Settings, read_settings
from ctx_jax.tokenizers.subwords import CONFIG, FILE, Subwords
from ctx_jax.tokenizers.templates import GPT2, ROBERTA
from ctx_jax.tokenizers.tokenizer_builders import VocabularyParts
from ctx_jax.tokenizers.tokenizer_classes import CLASSES, build, checked_ids
from ctx_jax.tokenizers.tokenizer_json import read_tokenizer_json

SENTENCEPIECE_NAMES = ("sentencepiece.bpe.model", "spiece.model", "spm.model", "tokenizer.model")
"""transformers' names for the SentencePiece files of XLM-R, of ALBERT, T5 and XLNet, of DeBERTa-v2, and of Llama."""


def read(path: str | Path) -> Subwords:
    """A tokenizer from a file or folder, told apart by its name.

        read("tokenizer.json")      read("vocab.txt")       WordPiece
        read("vocab.json")          with merges.txt beside it: BPE, byte-level unless a class says otherwise
        read("spiece.model")        SentencePiece, as `read_sentencepiece`
        read("some/folder")         a Hugging Face folder or one of our runs

    A vocabulary file is read with what the files beside it say, a SentencePiece file without.

    Raises MissingFileError, InputError: nothing there, a damaged file, a special token missing or clashing, a class
    that reads such a file in a way of its own. MissingPackageError: a SentencePiece file without the extra
    `ctx-jax[sentencepiece]`.
    """
    path = Path(path)
    if not path.exists():
        raise MissingFileError(f"{path}: No such file or folder")
    if path.is_dir():
        return read_folder(path)
    if path.suffix in SENTENCEPIECE:
        return read_sentencepiece(path)
    settings = read_settings(path.parent)
    return _read_file(path, settings, settings.class_name)


def read_folder(folder: str | Path, model_type: str = "", tokenizer_class: str = "") -> Subwords:
    """The tokenizer of a Hugging Face folder: its tokenizer.json, else its vocabulary files.

    tokenizer_config.json, special_tokens_map.json and added_tokens.json name the special tokens and the added ones;
    the first also sets lower-casing and the like. `model_type` and `tokenizer_class` override config.json's. The
    class of tokenizer_config.json, else `tokenizer_class`, else that of the model's type says how text is cut, as in
    transformers; `tokenizer_classes` has those that are read. InputError for another one.
    """
    found = locate(folder, model_type, tokenizer_class)
    if found.class_name == byte_tokenizer.CLASS:
        return byte_tokenizer.byte_tokenizer(found.settings, found.file)
    if found.file.suffix not in SENTENCEPIECE:
        return _read_file(*found)
    class_name = _checked_class(found.class_name, classes.FOR_SENTENCEPIECE, found.file, found.settings)
    if class_name in ("", "XLMRobertaTokenizer"):
        return read_sentencepiece(found.file, layout="xlm-r" if class_name else "plain", settings=found.settings)
    sentinels = found.settings.entries.get("extra_ids", 100) if class_name == "T5Tokenizer" else 0
    if type(sentinels) is not int or not 0 <= sentinels < 10**6:
        raise InputError(f"{found.settings.file}: extra_ids must be a number of tokens, got {brief(sentinels)}")
    parts, added = sentencepiece_parts(found.file, sentinels)
    return build(class_name, parts, replace(found.settings, extra=(*found.settings.extra, *added)), found.file)


class Location(NamedTuple):
    """Where a folder's tokenizer is: its vocabulary's first file, what the files beside it say, its class."""

    file: Path
    settings: Settings
    class_name: str  # in transformers; "": none is named, and the type of the model has none


def locate(folder: str | Path, model_type: str = "", tokenizer_class: str = "") -> Location:
    """What `read_folder` reads; the class may be one that it refuses. MissingFileError without a vocabulary."""
    folder = Path(folder)
    settings = read_settings(folder)
    if not model_type and (folder / "config.json").is_file():
        config = read_json(folder / "config.json")
        model_type, tokenizer_class = (str(config.get(key) or "") for key in ("model_type", "tokenizer_class"))
    named = "" if model_type in classes.IGNORES_CLASS else settings.class_name or tokenizer_class
    class_name = named or classes.OF_MODEL_TYPE.get(model_type, "")
    if class_name == byte_tokenizer.CLASS:
        return Location(folder / CONFIG, settings, class_name)
    for names in ((FILE,), ("vocab.txt",), ("vocab.json", "merges.txt")):
        if all((folder / name).is_file() for name in names):
            return Location(folder / names[0], settings, class_name)
    if (file := _sentencepiece_of(folder)) is not None:
        return Location(file, settings, class_name)
    listed = ", ".join(sorted(entry.name for entry in folder.iterdir())[:20]) or "nothing"
    raise MissingFileError(
        f"{folder} holds no tokenizer: needs tokenizer.json, vocab.txt, vocab.json with merges.txt, or one "
        f"SentencePiece .model; found {listed}"
    )


def _read_file(path: Path, settings: Settings, class_name: str) -> Subwords:
    """A file of a tokenizer whose class in transformers is `class_name`; "": by what the file holds."""
    if path.name in ("vocab.json", "merges.txt"):
        vocabulary, merges = path.with_name("vocab.json"), path.with_name("merges.txt")
        return read_bpe(vocabulary, merges, settings, class_name)
    if path.suffix == ".json":
        return read_tokenizer_json(path, settings, class_name)
    return read_wordpiece(path, settings, class_name)


def _sentencepiece_of(folder: Path) -> Path | None:
    files = sorted(file for file in folder.iterdir() if file.suffix in SENTENCEPIECE and file.name[0] != ".")
    known = [file for file in files if file.name in SENTENCEPIECE_NAMES]
    if len(files) > 1 and len(known) != 1:
        raise InputError(
            f"{folder} has more than one SentencePiece file: {', '.join(file.name for file in files)}; keep only the "
            "one of the model"
        )
    return next(iter(known or files), None)


def _checked_class(name: str, allowed: Sequence[str], path: Path, settings: Settings) -> str:
    """The name without "Fast"; InputError unless it is one of `allowed`, or ""."""
    short = name.removesuffix("Fast")
    if short and short not in allowed:
        place = CONFIG if settings.class_name else "config.json"
        raise InputError(
            f"{path} is of a {name} ({place}), which cuts text in a way of its own; such a file is read for "
            f"{', '.join(allowed)}. Save the tokenizer as a {FILE} with transformers, or set tokenizer_class in "
            f"{CONFIG} if it is one of these"
        )
    return short


def read_wordpiece(path: Path, settings: Settings, class_name: str = "") -> Subwords:
    """BERT's WordPiece over a `vocab.txt`: one token a line, its id the number of the line.

    Without `do_lower_case`, text is lower-cased, as in transformers, whatever capitals the vocabulary has; without
    `strip_accents`, accents go where text is lower-cased; without `tokenize_chinese_chars`, spaces are put around CJK
    characters, as every BERT does, cased or not.
    """
    name = _checked_class(class_name, classes.FOR_WORDPIECE, path, settings) or classes.FOR_WORDPIECE[0]
    # Not `models.WordPiece.read_file`, of which the last of two equal lines wins, and a line of white space is empty.
    text = read_text(path).replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")
    ids: dict[str, int] = {}
    for number, line in enumerate(text.split("\n")):
        token = line.rstrip() or line
        if token in ids:
            raise InputError(
                f"{path}: lines {ids[token] + 1} and {number + 1} are both {brief(token)}; a token has one id"
            )
        ids[token] = number
    return build(name, VocabularyParts(ids), settings, path)


def read_bpe(path: Path, merges: Path, settings: Settings, class_name: str = "") -> Subwords:
    """BPE of a `vocab.json` and its `merges.txt`. Without a class, RoBERTa's where it has `<s>`, else GPT-2's.

    Both are byte-level: with `add_prefix_space` the first word of a text is cut like those after a space (without it
    where nothing is said). HerBERT and the first GPT, which lower-cases, cut at punctuation; their words end in `</w>`.
    """
    name = _checked_class(class_name, classes.FOR_BPE, path, settings)
    ids, pairs = _read_merges(path, merges)
    if not name:
        gpt2 = ROBERTA.begin not in ids and GPT2.end in ids
        name = "GPT2Tokenizer" if gpt2 else "RobertaTokenizer"
    if CLASSES[name].around is None and (stated := _stated(settings)):
        raise InputError(
            f"{path.with_name(CONFIG)}: {stated} is true, but a {name} puts nothing around a text here; set it to "
            "false to go without"
        )
    # As in fairseq, and unlike in transformers 5: the first piece of a word holds the space before it.
    takes_space = CLASSES[name].byte_level
    return build(name, VocabularyParts(ids, pairs), settings, path, mask_takes_space=takes_space)


def _stated(settings: Settings) -> str:
    flags = settings.flags({"add_bos_token": None, "add_eos_token": None})
    return next((key for key, value in flags.items() if value), "")


def _read_merges(path: Path, merges: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Ids of tokens, and the merges in their order."""
    # Not `models.BPE.read_file`: it takes two tokens of one id, and refuses blank lines between the merges.
    ids = checked_ids(read_json(path), path)
    pairs = []
    for number, line in enumerate(read_text(merges).split("\n"), start=1):
        if not line.strip() or line.startswith("#version"):
            continue
        left, *right = line.rstrip("\r").split(" ")
        if len(right) != 1:
            raise InputError(f"{merges}, line {number}: needs two tokens and a space between them, got {brief(line)}")
        if absent := [token for token in (left, *right, left + right[0]) if token not in ids]:
            raise InputError(f"{merges} does not fit {path}: line {number} needs {absent[0]!r}, which has no id")
        pairs.append((left, right[0]))
    return ids, pairs
