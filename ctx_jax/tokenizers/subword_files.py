"""Subword tokenizers from files of other programs: tokenizer.json, vocab.txt, vocab.json with merges.txt, folders."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from ctx_jax.io.errors import InputError, MissingFileError
from ctx_jax.io.files import read_json, read_text
from ctx_jax.tokenizers.sentencepiece_files import SUFFIXES as SENTENCEPIECE
from ctx_jax.tokenizers.sentencepiece_files import read_sentencepiece
from ctx_jax.tokenizers.special_files import Settings, complete, naming, read_settings
from ctx_jax.tokenizers.subwords import CONFIG, FILE, Subwords
from ctx_jax.tokenizers.templates import BERT, GPT, GPT2, ROBERTA, SpecialTokens, template

# Classes that take tokenizer.json as it is; a class of a family follows tokenizer_config.json where the two differ.
_GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")
# Classes for which add_prefix_space is false where tokenizer_config.json does not state it.
_BYTE_LEVEL = ("RobertaTokenizer", "GPT2Tokenizer")
# By the model_type, where no class is named.
_CLASSES = {"modernbert": _GENERIC[0], "roberta": _BYTE_LEVEL[0], "gpt2": _BYTE_LEVEL[1]}
# transformers' names for the SentencePiece files of XLM-R, of ALBERT, T5 and XLNet, and of Llama.
_SENTENCEPIECE_NAMES = ("sentencepiece.bpe.model", "spiece.model", "tokenizer.model")


def read(path: str | Path) -> Subwords:
    """A tokenizer from a file or folder, told apart by its name.

        read("tokenizer.json")      read("vocab.txt")       WordPiece
        read("vocab.json")          with merges.txt beside it: byte-level BPE
        read("spiece.model")        SentencePiece, as `read_sentencepiece`
        read("some/folder")         a Hugging Face folder or one of our runs

    A vocabulary file is read with what the files beside it say, a SentencePiece file without.

    Raises MissingFileError, InputError: nothing there, a damaged file, a special token missing or clashing.
    MissingPackageError: a SentencePiece file without the extra `ctx-jax[sentencepiece]`.
    """
    path = Path(path)
    if not path.exists():
        raise MissingFileError(f"{path}: No such file or folder")
    if path.is_dir():
        return read_folder(path)
    if path.suffix in SENTENCEPIECE:
        return read_sentencepiece(path)
    settings = read_settings(path.parent)
    return _read_file(path, settings, str(settings.entries.get("tokenizer_class") or ""))


def read_folder(folder: str | Path, model_type: str = "", tokenizer_class: str = "") -> Subwords:
    """The tokenizer of a Hugging Face folder: its tokenizer.json, else its vocabulary files.

    tokenizer_config.json, special_tokens_map.json and added_tokens.json name the special tokens and the added ones;
    the first also sets lower-casing and the like. `model_type` and `tokenizer_class` are those of config.json; the
    class, which tokenizer_config.json overrides, tells XLM-R, whose SentencePiece file has a layout of its own, and
    GPT, whose only special token is `<unk>`.
    """
    folder = Path(folder)
    settings = read_settings(folder)
    # transformers ignores the class of a ModernBERT.
    named = "" if model_type == "modernbert" else settings.entries.get("tokenizer_class") or tokenizer_class
    class_name = str(named or _CLASSES.get(model_type, ""))
    for names in ((FILE,), ("vocab.txt",), ("vocab.json", "merges.txt")):
        if all((folder / name).is_file() for name in names):
            return _read_file(folder / names[0], settings, class_name, model_type)
    if (file := _sentencepiece_of(folder)) is not None:
        xlm_r = model_type == "xlm-roberta" or class_name.startswith("XLMRoberta")
        return read_sentencepiece(file, layout="xlm-r" if xlm_r else "plain", settings=settings)
    listed = ", ".join(sorted(entry.name for entry in folder.iterdir())[:20]) or "nothing"
    raise MissingFileError(
        f"{folder} holds no tokenizer: needs tokenizer.json, vocab.txt, vocab.json with merges.txt, or one "
        f"SentencePiece .model; found {listed}"
    )


def _read_file(path: Path, settings: Settings, class_name: str, model_type: str = "") -> Subwords:
    """A file of a tokenizer whose class in transformers is `class_name`."""
    gpt = model_type == "openai-gpt" or class_name.startswith("OpenAIGPT")
    if path.name in ("vocab.json", "merges.txt"):
        return read_bpe(path.with_name("vocab.json"), path.with_name("merges.txt"), settings, gpt=gpt)
    if path.suffix == ".json":
        return _read_tokenizer_json(path, settings, class_name, GPT if gpt else None)
    return read_wordpiece(path, settings)


def _sentencepiece_of(folder: Path) -> Path | None:
    files = sorted(file for file in folder.iterdir() if file.suffix in SENTENCEPIECE and file.name[0] != ".")
    known = [file for file in files if file.name in _SENTENCEPIECE_NAMES]
    if len(files) > 1 and len(known) != 1:
        raise InputError(
            f"{folder} has more than one SentencePiece file: {', '.join(file.name for file in files)}; keep only the "
            "one of the model"
        )
    return next(iter(known or files), None)


def _read_tokenizer_json(path: Path, settings: Settings, class_name: str, family: SpecialTokens | None) -> Subwords:
    """A `tokenizer.json`; its truncation and padding are dropped.

    `family`: the special tokens of roles that the settings do not name; None: by the usual names.
    """
    state = read_json(path)
    if "model" not in state:
        raise InputError(f"{path} is no tokenizer.json: it has no entry 'model'")
    state |= {"truncation": None, "padding": None}
    if class_name not in _GENERIC:
        _apply_settings(state, settings.entries, class_name)
    with naming(f"{path} is damaged or of a newer kind"):
        tokenizer = Tokenizer.from_str(json.dumps(state))
    settings.add_tokens(tokenizer)
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    with naming(path):
        return Subwords(tokenizer, settings.special(family or _guess(tokenizer), vocabulary))


def _apply_settings(state: dict[str, Any], entries: Any, class_name: str) -> None:
    """Change the JSON of a tokenizer to what tokenizer_config.json says otherwise, as transformers does."""
    # In the JSON: the attributes of a post-processor cannot be set in tokenizers 0.21.
    normalizer, splitter, processor = (
        part if isinstance(part := state.get(name), dict) else {}
        for name in ("normalizer", "pre_tokenizer", "post_processor")
    )
    if normalizer.get("type") == "BertNormalizer":
        if "strip_accents" in entries:  # null counts: as lowercase
            normalizer["strip_accents"] = entries["strip_accents"]
        for theirs, ours in (("do_lower_case", "lowercase"), ("tokenize_chinese_chars", "handle_chinese_chars")):
            if entries.get(theirs) is not None:
                normalizer[ours] = entries[theirs]
    if splitter.get("type") == "ByteLevel" and ("add_prefix_space" in entries or class_name.startswith(_BYTE_LEVEL)):
        splitter["add_prefix_space"] = bool(entries.get("add_prefix_space", False))
        if processor.get("type") == "RobertaProcessing":
            processor["add_prefix_space"] = splitter["add_prefix_space"]


def read_wordpiece(path: Path, settings: Settings) -> Subwords:
    """BERT's WordPiece over a `vocab.txt`: one token a line, its id the number of the line.

    Without `do_lower_case`, text is lower-cased where no token of the vocabulary has a capital; without
    `strip_accents`, accents go where text is lower-cased; without `tokenize_chinese_chars`, spaces are put around CJK
    characters, as every BERT does, cased or not.
    """
    # Not `models.WordPiece.read_file`, which strips white space from the ends of tokens.
    lines = read_text(path).removesuffix("\n").split("\n")
    vocabulary = {line.rstrip("\r"): number for number, line in enumerate(lines)}
    special = settings.special(BERT, {*vocabulary, *settings.tokens})
    lowercase = settings.entries.get("do_lower_case")
    chinese = settings.entries.get("tokenize_chinese_chars")
    if lowercase is None:
        texts = vocabulary.keys() - set(special.roles().values()) - settings.tokens
        lowercase = not any(token != token.lower() and not token.startswith("[unused") for token in texts)
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=special.unknown, max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=chinese is None or chinese,
        strip_accents=settings.entries.get("strip_accents"),
        lowercase=lowercase,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    settings.add_tokens(tokenizer)
    return complete(tokenizer, special, path)


def read_bpe(path: Path, merges: Path, settings: Settings, *, gpt: bool = False) -> Subwords:
    """BPE of a `vocab.json` and its `merges.txt`, byte-level: RoBERTa's where it has `<s>`, else GPT-2's.

    With `add_prefix_space` the first word of a text is cut like those after a space (GPT-2 and RoBERTa: without).
    `gpt`: of the first GPT instead, lower-cased letters whose words end in `</w>`.
    """
    ids, pairs = _read_merges(path, merges)
    family = GPT if gpt else GPT2 if ROBERTA.begin not in ids and GPT2.end in ids else ROBERTA
    special = settings.special(family, {*ids, *settings.tokens})
    around = not gpt and special.begin != special.end
    stated = [key for key in ("add_bos_token", "add_eos_token") if settings.entries.get(key)]
    if stated and not gpt and not around:
        raise InputError(
            f"{path.with_name(CONFIG)}: {stated[0]} is true, but a tokenizer whose begin and end are both "
            f"{special.begin} puts nothing around a text here; set it to false to go without"
        )
    ends = {"unk_token": special.unknown, "end_of_word_suffix": "</w>"} if gpt else {}
    with naming(f"{merges} does not fit {path}"):
        tokenizer = Tokenizer(models.BPE(ids, pairs, **ends))
    if gpt:  # not `implementations.CharBPETokenizer`, which keeps the accents that GPT strips
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    else:
        prefix = bool(settings.entries.get("add_prefix_space", False))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    settings.add_tokens(tokenizer)
    return complete(tokenizer, special, path, mask_takes_space=around, around=around)


def _read_merges(path: Path, merges: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Ids of tokens, and the merges in their order."""
    # Not `models.BPE.read_file`: it takes two tokens of one id, and refuses blank lines between the merges.
    ids = read_json(path)
    if not all(isinstance(number, int) for number in ids.values()) or len(set(ids.values())) < len(ids):
        raise InputError(f"{path}: must give every token an id of its own")
    pairs = []
    for number, line in enumerate(read_text(merges).split("\n"), start=1):
        if not line.strip() or line.startswith("#version"):
            continue
        left, *right = line.rstrip("\r").split(" ")
        if len(right) != 1:
            raise InputError(f"{merges}, line {number}: needs two tokens and a space between them, got {line!r}")
        if absent := [token for token in (left, *right, left + right[0]) if token not in ids]:
            raise InputError(f"{merges} does not fit {path}: line {number} needs {absent[0]!r}, which has no id")
        pairs.append((left, right[0]))
    return ids, pairs


def _guess(tokenizer: Tokenizer) -> SpecialTokens:
    """The family of which the tokenizer lacks the fewest names; GPT-2 only where nothing is put around a text."""
    families = [BERT, ROBERTA] if any(template(tokenizer)) else [BERT, ROBERTA, GPT2]
    return min(families, key=lambda family: len(family.missing(tokenizer)) / len(family.roles()))
