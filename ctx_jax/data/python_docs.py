"""The corpus that every machine has: the English of the running interpreter's own documentation.

Texts are the language reference's topics (`pydoc_data.topics`), the docstrings of `builtins`, and those of the standard
library: modules in Python are parsed from their source files and never imported, modules in C are imported. Simple
rules leave out doctests, signatures, tables, code and markup, and a sentence is kept only where it first appears. A
document is a topic, a built-in or a module; a hash of its name decides its split, so that no module is in two splits.
Sizes vary with the Python version.
"""

import ast
import builtins
import hashlib
import inspect
import pydoc
import pydoc_data.topics
import re
import sys
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Literal

from ctx_jax.tokenizers.words import split_sentences, split_words

DocsSplit = Literal["train", "valid", "test"]

VERSION = 2  # of the rules below: part of a cache's key
# In the validation split, and in the test split: a twentieth of the words and a little, at least 13,000. Losses spread
# by some 2.5 nats from word to word, so that many give a perplexity to about 2 %. Reported scores are of these splits.
_SHARE = 0.055
_LEAST = 13_000

_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "pydoc_data", "__pycache__"}
_SKIPPED_MODULES = {"builtins", "readline"}  # the one is read apart; the other changes the terminal as it is imported

_ROLE = re.compile(r":[\w:]{2,20}:`(?:~(?:\w{1,40}\.){0,9})?([^`<]{1,80})(?:<[^`]{1,80})?`")
_LINK = re.compile(r"`([^`<]{1,80}) ?(?:<[^`>]{1,200}>)?`__?")
_CODE = re.compile(r"``?([^`]{1,80})`?`")
_STRONG = re.compile(r"(?<![\w*])(\*{1,2})([^\s*](?:[^*]{0,80}[^\s*])?)\1(?![\w*])")
_CALL = re.compile(r"(?<=\w)\(\)")
_NOTE = re.compile(r"\s?\[(?:\d{1,2}|#\w{0,20})\]_?")
_BULLET = re.compile(r"(?:[-*+•]|\(?\d{1,2}[.)]|\(?[a-z]\)|@\w+:|:\w+(?: \w+)?:|\w{1,20}\s--)\s+")
_NOT_PROSE = re.compile(r"[={}<>|\\~^#$@%&*/+_]{2}|[{}|\\^~=<>@#$`]|\w\(|\b[A-Z]{2,}(?: [A-Z]{2,}){2}|[ (\"']-{1,2}\w")
_PLAIN = re.compile(r"[^\W\d_]+(?:[-'\u2019][^\W\d_]+)*\Z")
_CAMEL = re.compile(r"[a-z][A-Z]")
_FUNCTION_WORDS = (
    " the a an is are was be been to of in on for with and or not if it this that these by as from can will may must "
    "when which you they has have do does should would no any all at "
)


def documents(split: DocsSplit) -> Iterator[list[str]]:
    """Sentences of a split as lists of words; an empty list stands before each document."""
    for sentences in _splits()[split]:
        yield []
        for sentence in sentences:
            yield sentence.split(" ")


@lru_cache(maxsize=1)
def _splits() -> dict[DocsSplit, list[list[str]]]:
    """Every split's documents, each a list of sentences, whose words are joined by one space (3 MB in all)."""
    seen: set[str] = set()
    texts: dict[str, list[str]] = {}
    for name, parts in _texts():
        for sentence in (sentence for part in parts for sentence in _sentences(part)):
            if sentence.lower() not in seen:
                seen.add(sentence.lower())
                texts.setdefault(name, []).append(sentence)
    sizes = {name: sum(sentence.count(" ") + 1 for sentence in sentences) for name, sentences in texts.items()}
    wanted = max(_LEAST, int(_SHARE * sum(sizes.values())))
    taken = Counter[DocsSplit]()
    split_of: dict[str, DocsSplit] = {}
    for name in sorted(sizes, key=lambda name: hashlib.sha256(name.encode()).digest()):
        split = split_of[name] = next((each for each in ("valid", "test") if taken[each] < wanted), "train")
        taken[split] += sizes[name]
    splits: dict[DocsSplit, list[list[str]]] = {"train": [], "valid": [], "test": []}
    for name, sentences in texts.items():
        splits[split_of[name]].append(sentences)
    return splits


def _texts() -> Iterator[tuple[str, list[str]]]:
    for topic, text in sorted(pydoc_data.topics.topics.items()):
        yield f"topic {topic}", [text]
    for name, thing in sorted(vars(builtins).items()):
        yield f"builtin {name}", _docstrings_of(thing)
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[0] in sys.stdlib_module_names and not _SKIPPED_FOLDERS.intersection(parts):
            yield f"module {'.'.join(parts).removesuffix('.__init__')}", _docstrings(path)
    for name in modules_in_c():
        yield f"module {name}", _docstrings_of_module(name)


def _docstrings_of(thing: object) -> list[str]:
    """Docstrings of a class and its members, or of a function in C."""
    if not (isinstance(thing, type) or inspect.isbuiltin(thing)):
        return []
    members = sorted(vars(thing).items()) if isinstance(thing, type) else []
    texts = [thing.__doc__, *(getattr(member, "__doc__", None) for _, member in members)]
    return [text for text in texts if isinstance(text, str)]


def modules_in_c() -> list[str]:
    """The names of the modules without a Python source file."""
    root = Path(sysconfig.get_paths()["stdlib"])
    compiled = {path.name.partition(".")[0] for path in (root / "lib-dynload").glob("*.*")}
    return sorted((compiled | {*sys.builtin_module_names}) & sys.stdlib_module_names - _SKIPPED_MODULES)


def _docstrings_of_module(name: str) -> list[str]:
    with warnings.catch_warnings(action="ignore"):  # of modules about to leave the library
        try:
            module = pydoc.locate(name)  # None where a library that the module needs is missing
        except pydoc.ErrorDuringImport:
            return []
    if not inspect.ismodule(module):
        return []
    members = (text for _, thing in sorted(vars(module).items()) for text in _docstrings_of(thing))
    return [*filter(None, [module.__doc__]), *members]


def _docstrings(path: Path) -> list[str]:
    try:
        return list(_docstrings_below(ast.parse(path.read_bytes())))
    except (OSError, SyntaxError, ValueError):
        return []  # the interpreter itself could not read this file


def _docstrings_below(node: ast.AST) -> Iterator[str]:
    """Docstrings of a node and of what is defined in it. Only statements are walked: expressions hold none."""
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        yield from filter(None, [ast.get_docstring(node)])
    for field in ("body", "orelse", "handlers", "finalbody"):
        for child in getattr(node, field, ()):
            yield from _docstrings_below(child)


def _sentences(text: str) -> Iterator[str]:
    for paragraph in _paragraphs(inspect.cleandoc(text)):
        for sentence in split_sentences(_without_markup(paragraph)):
            words = split_words(sentence, "prose")
            if _is_english(sentence, words):
                yield " ".join(words)


def _paragraphs(text: str) -> Iterator[str]:
    """Runs of lines of one indentation, without code: doctests, and what is indented after `::`."""
    lines: list[str] = []
    indent = 0
    literal = -1  # indentation of the paragraph that ends with `::`, while inside the code after it
    for line in [*text.expandtabs().splitlines(), ""]:
        body = line.strip()
        here = len(line) - len(line.lstrip())
        bullet = _BULLET.match(body)
        code = body.startswith((">>>", "...", "$ ", "% ", "| ", "+-", "#")) or "   " in body
        if lines and (not body or here != indent or bullet or code):
            yield " ".join(lines)
            literal = indent if lines[-1].endswith("::") else literal
            lines = []
        if not body or 0 <= literal < here:
            continue
        literal = -1
        if code:
            continue
        if bullet:
            body = body[bullet.end() :]
            here += bullet.end()  # a bullet's text goes on under its first word
        indent = here if not lines else indent
        lines.append(body)


def _without_markup(text: str) -> str:
    for pattern in (_ROLE, _LINK, _CODE):
        text = pattern.sub(r"\1", text)
    text = _CALL.sub("", text)  # "call close() first" reads as "call close first"
    return _NOTE.sub("", _STRONG.sub(r"\2", text)).replace("::", ":").replace("``", '"').replace("''", '"')


def _is_english(sentence: str, words: list[str]) -> bool:
    """Whether it is a sentence (or a summary line, which may lack its full stop) in English: rules of thumb."""
    ended = words[-1] in {".", "!", "?", ":"}
    if not (5 - ended) <= len(words) <= 90 or not (sentence[0].isupper() or (ended and sentence[0].isalpha())):
        return False
    if not sentence.isprintable() or _NOT_PROSE.search(sentence):
        return False
    if sentence.count('"') % 2 or sentence.count("(") != sentence.count(")"):
        return False
    plain = sum(_PLAIN.match(word) is not None and _CAMEL.search(word) is None for word in words)
    odd = sum(_PLAIN.match(word) is None and any(map(str.isalnum, word)) for word in words)
    if not ended and f" {words[-1].lower()} " in _FUNCTION_WORDS:
        return False  # cut off in its middle
    english = sum(f" {word.lower()} " in _FUNCTION_WORDS for word in words)
    return english >= 1 and 10 * english >= len(words) and odd <= 0.15 * len(words) and plain >= 0.6 * len(words)
