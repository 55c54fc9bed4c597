"""Rule-based splitting of prose into sentences and words, and the white-space rule for text that is tokenized already.

A sentence ends at `.`, `!`, `?` or an ellipsis, closing quotes and brackets included, if white space follows and then
something other than a lower-case letter. A full stop does not end a sentence after an abbreviation ("Dr.", "e.g."), an
initial ("J. Smith") or, before a digit, a word such as "No." or "Fig.".

The `prose` rule follows the Penn Treebank: punctuation becomes words of its own, clitics are split off ("do n't",
"it 's"), while numbers ("1,000.5"), abbreviations ("U.S.", "etc."), hyphenated words, dotted names ("os.path"), URLs
and e-mail addresses stay whole. Quotes keep their form.

Every rule looks back and ahead a bounded number of characters, so time is linear in the text.
"""

# ruff: noqa: RUF001 (this file splits at typographic quotes and dashes)

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np

from ctx_jax.io.errors import ConfigError

Rule = Literal["whitespace", "prose"]
LineRule = Literal["line", "split"]

# These may end a sentence: a capital after them begins the next one.
_MAY_END = "etc al inc ltd co corp jr sr jan feb mar apr jun jul aug sep sept oct nov dec "
_NEVER_END = (
    "mr mrs ms dr prof rev gen col capt lt sgt sen rep gov st messrs mt ft hon pres supt dept univ assn bros "
    "e.g i.e cf vs viz ca approx resp esp incl excl mon tue tues wed thu thur thurs fri sat sun"
)
_NUMBERED = "no nos fig figs sec ch vol vols pp eq eqs art p ver v"
_ABBREVIATIONS, _BEFORE_NUMBERS = frozenset((_MAY_END + _NEVER_END).split()), frozenset(_NUMBERED.split())
_LONGEST = 24  # characters searched before and after a full stop

_STOP = re.compile(r"[.!?…]+[\"'”’»)\]]*")
_BEFORE_STOP = re.compile(r"[^\s(\[\"“‘«]+\Z")
_INITIAL = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]\Z")

_WORD = re.compile(
    r"""
      (?:https?|ftp|file)://[^\s<>"”]*[^\s<>"”.,;:!?)\]'’]   # URLs, without punctuation after them
    | [\w.+-]{1,64}@\w[\w-]*(?:\.\w[\w-]*)+                  # e-mail
    | \d+(?:[.,:/]\d+)*\w*                                   # 3.14, 1,000, 10:30, 2nd
    | (?:[^\W\d_]\.){2,}(?!\w)                               # U.S., e.g.
    | \w+(?:['’.-]\w+)*                                      # words, don't, low-level, os.path
    | \.{2,}|…|-{2,}|[–—]+                                   # ellipsis, dashes
    | [<>=!:+*/-]=|<?->|\*\*|//|<<|>>|``|''                  # operators and TeX quotes
    | \S
    """,
    re.VERBOSE,
)
_CLITIC = re.compile(r"(?i)(.+?)(n['’]t|['’](?:s|m|d|re|ve|ll))\Z")


def split_words(line: str, rule: Rule) -> list[str]:
    """Words of one sentence; `whitespace` is `str.split`, `prose` the rules above.

    `split_words("Dr. Smith didn't pay $1,000.", "prose")` is
    `["Dr.", "Smith", "did", "n't", "pay", "$", "1,000", "."]`.
    """
    if rule == "whitespace":
        return line.split()
    if rule != "prose":
        raise ConfigError("rule", f'must be "whitespace" or "prose", got {rule!r}')
    words: list[str] = []
    for match in _WORD.finditer(line):
        word = match.group()
        if word == "." and words and _keeps_stop(words[-1], line, match):
            words[-1] += "."
        elif ("'" in word or "’" in word) and len(word) < 64 and (clitic := _CLITIC.match(word)):
            words += clitic.groups()
        else:
            words.append(word)
    return words


def word_offsets(sentence: str | Sequence[str], rule: Rule) -> np.ndarray:
    """Where the words of a sentence stand in it: int32 [T, 2], the first character of each and the one after its last.

    Those of a list of words are its places in `" ".join(words)`. `word_offsets("I don't", "prose")` is
    `[[0, 1], [2, 4], [4, 7]]`.
    """
    text = sentence if isinstance(sentence, str) else None
    words = sentence if text is None else split_words(text, rule)
    spans, end = [], 0
    for word in words:
        start = end if text is None else text.index(word, end)  # words come in order, and hold all but white space
        end = start + len(word)
        spans.append((start, end))
        end += text is None
    return np.array(spans, np.int32).reshape(-1, 2)


def _keeps_stop(word: str, line: str, stop: re.Match[str]) -> bool:
    """Whether the full stop right after `word` belongs to it."""
    if line[stop.start() - 1].isspace():
        return False
    if word.lower() in _ABBREVIATIONS:
        return True
    if word.lower() in _BEFORE_NUMBERS:
        return line[stop.end() : stop.end() + 8].lstrip()[:1].isdigit()
    followed = line[stop.end() : stop.end() + _LONGEST].strip()
    return bool(followed) and len(word) == 1 and word.isupper() and word != "I"


def split_sentences(text: str) -> list[str]:
    """Sentences of prose in order, without white space around them; blank text has none.

    `split_sentences('He met Dr. Who. "Why?" she asked... Then 3.5 hours passed.')` gives three: a lower-case word
    follows the question mark, and the stops in "Dr." and "3.5" end nothing.
    """
    sentences = []
    start = 0
    for stop in _STOP.finditer(text):
        if _ends_sentence(text, stop):
            sentences.append(text[start : stop.end()].strip())
            start = stop.end()
    if rest := text[start:].strip():
        sentences.append(rest)
    return sentences


def _ends_sentence(text: str, stop: re.Match[str]) -> bool:
    if not text[stop.end() : stop.end() + 1].isspace():
        return False
    after = text[stop.end() : stop.end() + _LONGEST].lstrip().lstrip("\"'“‘«([`*_")[:1]
    if after.islower():
        return False
    if stop.group() != ".":  # only a single full stop can belong to a word
        return True
    before = _BEFORE_STOP.search(text[max(0, stop.start() - _LONGEST) : stop.start()])
    if before is None:
        return True
    word = before.group().lstrip("'")
    lower = word.lower()
    if lower in _BEFORE_NUMBERS:
        return not after.isdigit()
    if lower in _ABBREVIATIONS:
        return lower in _MAY_END.split() and not after.isdigit()
    return word == "I" or _INITIAL.match(word) is None
