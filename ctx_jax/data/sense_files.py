"""Sentences with sense-tagged words: CoarseWSD-20, SemCor 3.0, and the framework of Raganato et al. (2017)."""

import json
import lzma
import re
import xml.etree.ElementTree as ElementTree
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ctx_jax.data.archives import read_members
from ctx_jax.data.text_files import COMPRESSED, read_lines
from ctx_jax.io.errors import InputError, MissingFileError, brief

PARTS_OF_SPEECH = {"1": "NOUN", "2": "VERB", "3": "ADJ", "4": "ADV", "5": "ADJ"}
"""By WordNet's number of a synset's type, the first digit of a sense key's second part; 5 is a satellite adjective."""

FRAMEWORK_DATA, FRAMEWORK_GOLD = ".data.xml", ".gold.key.txt"
"""Behind the name of a set of the framework."""

_COARSE_FILES = ("train.data.txt", "train.gold.txt", "test.data.txt", "test.gold.txt", "classes_map.txt")
_SEMCOR_WORD = re.compile(r"<wf ([^>]*)>(.*)</wf>")
_SEMCOR_PUNCTUATION = re.compile(r"<punc>(.*)</punc>")
_SEMCOR_SENSE = re.compile(r"[1-5]:\d\d:\d\d:[^:]*:\d*")


class SenseTag(NamedTuple):
    """A word or expression of a sentence: its words `start` to `stop`, and the senses it has there."""

    start: int
    stop: int
    lemma: str
    part_of_speech: str  # NOUN, VERB, ADJ or ADV
    senses: tuple[str, ...]
    identifier: str = ""
    """Of a test set: its name in the gold file."""


class SenseSentence(NamedTuple):
    """A sentence and the words of it that are tagged."""

    words: list[str]
    tags: list[SenseTag]


class CoarseWord(NamedTuple):
    """A word of CoarseWSD-20; every sentence has one tag, with one sense."""

    word: str
    train: list[SenseSentence]
    test: list[SenseSentence]


def read_coarse_wsd(path: str | Path) -> list[CoarseWord]:
    """The words of CoarseWSD-20 (Loureiro et al. 2021), sorted, of its folder or a tar archive of it.

    Each word has a folder of its own: `train.data.txt` and `test.data.txt` hold the word's number in the sentence, a
    tab and the sentence in words between spaces; `*.gold.txt` the number of its sense, `classes_map.txt` their names.
    """
    files: dict[str, dict[str, list[str]]] = defaultdict(dict)
    for name, lines in read_members(path, lambda name: name.endswith(_COARSE_FILES)):
        *folders, file = name.split("/")
        word = folders[-1] if folders else Path(path).name
        if file in files[word]:
            raise InputError(f"{path} holds {word}/{file} more than once: name the folder of one variant")
        files[word][file] = lines
    words = []
    for word, own in sorted(files.items()):
        if missing := [file for file in _COARSE_FILES if file not in own]:
            raise InputError(f"{path}: the word {word!r} lacks {', '.join(missing)}")
        names = _class_names(own["classes_map.txt"], f"{path}: {word}/classes_map.txt")
        parts = [_coarse_sentences(own, part, names, word, f"{path}: {word}/{part}") for part in ("train", "test")]
        words.append(CoarseWord(word, *parts))
    return words


def _class_names(lines: list[str], where: str) -> dict[str, str]:
    try:
        names = json.loads("\n".join(lines))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} must be a JSON object of sense numbers and names ({error})") from error
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise InputError(f"{where} must be a JSON object of sense numbers and names, got {brief(names)}")
    return names


def _coarse_sentences(
    files: dict[str, list[str]], part: str, names: dict[str, str], word: str, where: str
) -> list[SenseSentence]:
    data, gold = files[f"{part}.data.txt"], files[f"{part}.gold.txt"]
    if len(data) != len(gold):
        raise InputError(f"{where}.data.txt has {len(data)} lines and {part}.gold.txt {len(gold)}: they need as many")
    sentences = []
    for number, (line, label) in enumerate(zip(data, gold, strict=True), 1):
        position, tab, text = line.partition("\t")
        words = [word for word in text.split(" ") if word]
        is_number = position.isascii() and position.isdecimal() and len(position) < 10
        if not tab or not is_number or int(position) >= len(words):
            raise InputError(
                f"{where}.data.txt, line {number}: needs the number of one of its words, a tab and the sentence, got "
                f"{line[:80]!r}"
            )
        if label.strip() not in names:
            raise InputError(f"{where}.gold.txt, line {number}: {label[:40]!r} is none of {sorted(names)[:20]}")
        place = int(position)
        tag = SenseTag(place, place + 1, word, "NOUN", (names[label.strip()],))
        sentences.append(SenseSentence(words, [tag]))
    return sentences


def read_semcor(path: str | Path) -> Iterator[SenseSentence]:
    """The sentences of SemCor 3.0, of its folder or a tar archive of it (`semcor3.0/brown1/tagfiles/br-a01` ...).

    An expression (`took_place`) is split into its words, all of them tagged. Senses are WordNet's keys,
    `lemma%lexsn`. A sense numbered 0 was dropped from WordNet 3.0: a word whose first sense is one has no tag.
    """
    for name, lines in read_members(path, lambda name: "tagfiles/" in name):
        sentence = SenseSentence([], [])
        for number, line in enumerate(lines, 1):
            if line.startswith("</s>"):
                yield sentence
                sentence = SenseSentence([], [])
            elif line.startswith(("<wf", "<punc")):
                _add_semcor(sentence, line.strip(), f"{path}: {name}, line {number}")


def _add_semcor(sentence: SenseSentence, line: str, where: str) -> None:
    """Add the word or mark of one line."""
    if punctuation := _SEMCOR_PUNCTUATION.fullmatch(line):
        sentence.words.append(punctuation[1])
        return
    if (match := _SEMCOR_WORD.fullmatch(line)) is None:
        raise InputError(f"{where}: needs <wf ...>word</wf> or <punc>mark</punc>, got {line[:80]!r}")
    start = len(sentence.words)
    sentence.words.extend([word for word in match[2].split("_") if word] or [match[2]])
    attributes = dict(pair.partition("=")[::2] for pair in match[1].split())
    if "lexsn" not in attributes:
        return
    keys, numbers = attributes["lexsn"].split(";"), attributes.get("wnsn", "").split(";")
    lemma = attributes.get("lemma", "")
    if not lemma or len(keys) != len(numbers) or not all(map(_SEMCOR_SENSE.fullmatch, keys)):
        raise InputError(f"{where}: a tagged word needs lemma, wnsn and lexsn, as many of both, got {line[:120]!r}")
    if numbers[0] != "0":
        senses = tuple(f"{lemma}%{key}" for key, sense in zip(keys, numbers, strict=True) if sense != "0")
        sentence.tags.append(SenseTag(start, len(sentence.words), lemma, PARTS_OF_SPEECH[keys[0][0]], senses))


def read_framework(folder: str | Path, name: str) -> list[SenseSentence]:
    """A test set of the evaluation framework of Raganato et al. (2017), or its SemCor: `NAME.data.xml` and
    `NAME.gold.key.txt` of a folder, each also as `.xz` or `.gz`.

    Every instance has the gold senses of its line in the second file; a text in several words is split.
    """
    folder = Path(folder)
    gold_path = _existing(folder, name + FRAMEWORK_GOLD)
    gold: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(read_lines(gold_path, "strict"), 1):
        identifier, *senses = line.split() or [""]
        if not senses or identifier in gold:
            raise InputError(f"{gold_path}, line {number}: needs a new instance and its senses, got {line[:80]!r}")
        gold[identifier] = tuple(senses)
    path = _existing(folder, name + FRAMEWORK_DATA)
    sentences = [_framework_sentence(element, gold, path) for element in _sentence_elements(path)]
    tagged = [tag.identifier for sentence in sentences for tag in sentence.tags]
    if len(tagged) != len(gold) or {*tagged} != {*gold}:
        lone = sorted({*gold} - {*tagged})[:3]
        raise InputError(f"{gold_path} has {len(gold)} instances, {path} {len(tagged)}; not in the latter: {lone}")
    return sentences


def _existing(folder: Path, name: str) -> Path:
    for suffix in ("", *COMPRESSED):
        if (path := folder / f"{name}{suffix}").is_file():
            return path
    raise MissingFileError(f"{folder} has no {name}, nor one that is compressed ({', '.join(COMPRESSED)})")


def _sentence_elements(path: Path) -> Iterator[ElementTree.Element]:
    """One at a time, without keeping what is in them: SemCor has 37,000."""
    try:
        with COMPRESSED.get(path.suffix, open)(path, "rb") as file:
            for _, element in ElementTree.iterparse(file):
                if element.tag == "sentence":
                    yield element
                    element.clear()
    except (ElementTree.ParseError, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError, LookupError) as error:
        raise InputError(f"{path}: no XML of the framework ({error}); fetch the file again") from error


def _framework_sentence(element: ElementTree.Element, gold: dict[str, tuple[str, ...]], path: Path) -> SenseSentence:
    words: list[str] = []
    tags = []
    for child in element:
        start = len(words)
        words += (child.text or "").split() or [child.text or ""]
        if child.tag != "instance":
            continue
        identifier, lemma, part = (child.get(name, "") for name in ("id", "lemma", "pos"))
        if identifier not in gold or not lemma or part not in PARTS_OF_SPEECH.values():
            raise InputError(
                f"{path}: instance {identifier!r} needs gold senses, a lemma and a part of speech of "
                f"{sorted({*PARTS_OF_SPEECH.values()})}, got lemma {lemma!r} and {part!r}"
            )
        tags.append(SenseTag(start, len(words), lemma, part, gold[identifier], identifier))
    return SenseSentence(words, tags)
