"""A `tokenizer.json` of Hugging Face `tokenizers`: as it is, or as its class in transformers builds it anew."""

import base64
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ctx_jax.io.errors import InputError, brief
from ctx_jax.io.files import read_json
from ctx_jax.tokenizers.character_map import character_map
from ctx_jax.tokenizers.special_files import Settings
from ctx_jax.tokenizers.subwords import CONFIG, FILE, Subwords, naming
from ctx_jax.tokenizers.templates import BERT, GPT2, ROBERTA, SpecialTokens, template
from ctx_jax.tokenizers.tokenizer_builders import VocabularyParts
from ctx_jax.tokenizers.tokenizer_classes import CLASSES, GENERIC, REBUILT, build, checked_ids

_PROBES = ["", "a", " a  b\n", "e\u0301\u6771\uff8c\uff9f\u200b", "a" * 40 + "!"]


def read_tokenizer_json(path: Path, settings: Settings, class_name: str) -> Subwords:
    """A `tokenizer.json`; its truncation and padding are dropped.

    Of a class in `CLASSES`, what transformers builds of its vocabulary, merges, character map and added tokens; for
    other classes that transformers builds anew InputError; else the file as it is.
    """
    state = read_json(path)
    if not isinstance(state.get("model"), Mapping):
        raise InputError(f"{path} is no tokenizer.json: it has no entry 'model'")
    short = class_name.removesuffix("Fast")
    if short in REBUILT:
        raise InputError(
            f"{path.parent} names the tokenizer class {class_name}, which cuts text in a way of its own, whatever "
            f"{FILE} says: that is not read here. If {FILE} is right as it is, set tokenizer_class in {CONFIG} to "
            "PreTrainedTokenizerFast"
        )
    remote = settings.entries.get("auto_map")
    if remote and short not in CLASSES and short not in GENERIC:
        raise InputError(
            f"{settings.file}: auto_map names code of its own for the tokenizer, which is not run. If {FILE} is right "
            "as it is, take auto_map out"
        )
    settings = settings.with_tokens_of(state.get("added_tokens"), path)
    state |= {"truncation": None, "padding": None}
    parts = _parts(state, path)
    if short in CLASSES:
        return _rebuilt(short, parts, state, settings, path)
    return _as_it_is(parts, state, settings, path)


def _rebuilt(name: str, parts: VocabularyParts, state: Mapping[str, Any], settings: Settings, path: Path) -> Subwords:
    kind = _kind(state["model"])
    if kind != CLASSES[name].model:
        raise InputError(
            f"{path} holds a {kind} model, but its tokenizer class, {name}, is a {CLASSES[name].model}: correct "
            f"tokenizer_class in {CONFIG}"
        )
    # Only in a tokenizer can the JSON of a post-processor be read.
    minimal = {"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}
    with naming(f"{path} is damaged or of a newer kind: post_processor"):
        processor = Tokenizer.from_str(json.dumps(minimal | {"post_processor": state.get("post_processor")}))
    subwords = build(name, parts, settings, path, post_processor=processor.post_processor)
    _probe(subwords.tokenizer, path)
    return subwords


def _as_it_is(parts: VocabularyParts, state: Mapping[str, Any], settings: Settings, path: Path) -> Subwords:
    model = state["model"]
    unknown = model.get("unk_token")
    added = [token.token.content for token in settings.added]
    if _kind(model) != "Unigram" and unknown is not None and unknown not in [*parts.ids, *added]:
        raise InputError(f"{path}: unk_token is {brief(unknown)}, which the vocabulary does not have")
    for part in _components(state):
        if part.get("type") in ("Replace", "Split") and "" in _values(part.get("pattern")):
            raise InputError(f"{path}: a {part['type']} has an empty pattern, which finds nothing: take it out")
    with naming(f"{path} is damaged or of a newer kind"):
        tokenizer = Tokenizer.from_str(json.dumps(state))
    _probe(tokenizer, path)
    with naming(path):
        special = settings.special(_guess(tokenizer), {*tokenizer.get_vocab(with_added_tokens=True), *added})
    settings.add_tokens(tokenizer, special)
    with naming(path):
        return Subwords(tokenizer, special)


def _kind(model: Mapping[str, Any]) -> str:
    """The type of a model, which old files leave out."""
    if "type" in model:
        return str(model["type"])
    if isinstance(model.get("vocab"), list):
        return "Unigram"
    return "BPE" if "merges" in model else "WordPiece" if "max_input_chars_per_word" in model else "WordLevel"


def _parts(state: Mapping[str, Any], path: Path) -> VocabularyParts:
    """The vocabulary of the model; InputError for two tokens with one id, and what is no vocabulary."""
    model, vocabulary = state["model"], state["model"].get("vocab")
    character_map = b""
    for part in _components(state):
        if part.get("type") == "Precompiled":
            character_map = _character_map(part.get("precompiled_charsmap"), path)
    if _kind(model) != "Unigram":
        merges = model.get("merges") or []
        if not isinstance(merges, list):
            raise InputError(f"{path}: merges must be a list of pairs of tokens")
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]
        if odd := [pair for pair in pairs if not (isinstance(pair, list) and len(pair) == 2 and _are_text(*pair))]:
            raise InputError(f"{path}: every merge must be of two tokens, got {odd[0]!r}")
        return VocabularyParts(checked_ids(vocabulary, path), [(left, right) for left, right in pairs])
    scores: list[tuple[str, float]] = []
    ids: dict[str, int] = {}
    for number, entry in enumerate(vocabulary if isinstance(vocabulary, list) else [None]):
        if not _is_piece(entry):
            raise InputError(
                f"{path}: the vocabulary must list pieces and their scores, got {brief(entry)} at {number}"
            )
        if ids.setdefault(entry[0], number) != number:
            raise InputError(f"{path}: the piece {entry[0]!r} has the ids {ids[entry[0]]} and {number}; it needs one")
        scores.append((entry[0], float(entry[1])))
    return VocabularyParts(ids, scores=scores, character_map=character_map)


def _are_text(*values: Any) -> bool:
    return all(isinstance(value, str) for value in values)


def _is_piece(entry: Any) -> bool:
    if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
        return False
    return isinstance(entry[1], int | float) and not isinstance(entry[1], bool) and math.isfinite(entry[1])


def _character_map(text: Any, path: Path) -> bytes:
    try:
        content = base64.b64decode(text, validate=True) if text else b""
        character_map(content)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: the character map (precompiled_charsmap) is damaged: {error}") from error
    return content


def _components(part: Any) -> Iterator[Mapping[str, Any]]:
    """Every normalizer, splitter, post-processor and decoder of a tokenizer.json, also within sequences."""
    for key in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        waiting = [part.get(key)]
        while waiting:
            component = waiting.pop()
            if isinstance(component, list):
                waiting += component
            elif isinstance(component, Mapping):
                yield component
                waiting += [component.get(name) for name in ("normalizers", "pretokenizers", "processors", "decoders")]


def _values(pattern: Any) -> list[Any]:
    return list(pattern.values()) if isinstance(pattern, Mapping) else [pattern]


def _probe(tokenizer: Tokenizer, path: Path) -> None:
    """InputError if the Rust side panics at usual texts; other errors are of one text and raised there."""
    with naming(f"{path} is damaged"):
        for text in _PROBES:
            with suppress(Exception):
                tokenizer.encode(text, add_special_tokens=True)
                tokenizer.encode(text, text, add_special_tokens=True)


def _guess(tokenizer: Tokenizer) -> SpecialTokens:
    """The family of which the tokenizer lacks the fewest names; GPT-2 only where nothing is put around a text."""
    families = [BERT, ROBERTA] if any(template(tokenizer)) else [BERT, ROBERTA, GPT2]
    return min(families, key=lambda family: len(family.missing(tokenizer)) / len(family.roles()))
