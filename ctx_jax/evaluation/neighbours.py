"""Demonstrate contextual vectors: the nearest neighbours of a word in several of its contexts.

Letters: L layers, T words, D width, N words of all sentences.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import NamedTuple, Protocol

import numpy as np

from ctx_jax.io.errors import InputError

CANDIDATES = (
    "string", "object", "module", "argument", "file", "type", "key", "line", "order", "call", "set", "class", "value",
    "name", "function", "method", "import", "return", "character", "list", "number", "code", "time", "form", "bank",
    "right", "left", "state", "point", "field", "case", "part", "record", "play", "run", "match", "second", "close",
)  # fmt: skip
OCCURRENCES = 60  # most occurrences of a word that are compared with each other
SENTENCES = 300  # most sentences that are used
SHORTEST, LONGEST = 4, 24  # length in words of the sentences that are used
CONTEXT = 2  # number of words on each side that must differ between the two contexts


class _Encoder(Protocol):
    def encode(self, sentences: Sequence[Sequence[str]], *, layers: int, share: bool) -> Iterator[np.ndarray]: ...


class _Occurrence(NamedTuple):
    sentence: int
    word: int


class _Text(NamedTuple):
    sentences: list[list[str]]
    occurrences: list[_Occurrence]
    vectors: np.ndarray  # [N, D], centred and of length 1


def show_neighbours(
    encoder: _Encoder,
    sentences: Sequence[Sequence[str]],
    *,
    words: Sequence[str] = CANDIDATES,
    count: int = 4,
    layer: int = -1,
) -> str:
    """A printable text: an ambiguous word in two sentences, and the nearest neighbours of its two vectors.

    The word is the one of `words` whose vectors differ most between two sentences in which the adjacent words differ;
    if none of `words` occurs in two such sentences, a frequent word of the text is used. Neighbours are words of other
    sentences, at most one per sentence and spelling, by the cosine of centred vectors of `layer` (-1: the top layer).

    `encoder.encode(sentences, layers=, share=False)` must yield [T, D] per sentence. The first 300 distinct sentences
    of 4 to 24 words are used. If no word qualifies, the result is a line that says so.

        "string" in two sentences, cosine 0.21
          ... returns a [string] that holds ...
             0.83  ... gives the [text] of ...
    """
    text = _read(encoder, sentences, layer)
    pairs = [pair for spellings in (words, _frequent(text)) if (pair := _most_different(text, spellings))]
    if not pairs:
        return "No word occurs in two of these sentences with different words beside it: nothing to compare."
    cosine, first, second = pairs[0]
    sentence, word = text.occurrences[first]
    lines = [f'"{text.sentences[sentence][word]}" in two sentences, cosine {cosine:.2f}; nearest to each:']
    for query in (first, second):
        lines.append(f"  {_in_context(text, query)}")
        for score, near in _nearest(text, query, {first, second}, count):
            lines.append(f"    {score:5.2f}  {_in_context(text, near)}")
    return "\n".join(lines)


def word_neighbours(
    encoder: _Encoder,
    sentences: Iterable[Sequence[str]],
    word: str,
    *,
    occurrences: int = 4,
    count: int = 5,
    most: int = 1000,
    layer: int = -1,
) -> str:
    """A printable text: some occurrences of a word, each with the `count` nearest words of other sentences.

    At most `most` distinct sentences are encoded, those with the word first. Of its occurrences the first is shown,
    then each time the one whose vector is least like those shown before. Neighbours are by the cosine of centred
    vectors of `layer`, at most one a sentence. InputError if the word does not occur.

        the steep [bank] of the river
           0.83  ... along the [shore] of the lake
    """
    text = _encoded(encoder, _with_word(sentences, word, most), layer)
    numbers = [i for i, (sentence, place) in enumerate(text.occurrences) if text.sentences[sentence][place] == word]
    if not numbers:
        raise InputError(f"{word!r} is no word of this text, whose words are as the encoder splits it")
    lines = []
    for query in _apart(text, numbers, occurrences):
        lines.append(_in_context(text, query))
        near = _nearest(text, query, {query}, count, any_spelling=True)
        lines += [f"  {score:5.2f}  {_in_context(text, number)}" for score, number in near]
    return "\n".join(lines)


def _read(encoder: _Encoder, sentences: Sequence[Sequence[str]], layer: int) -> _Text:
    chosen: dict[tuple[str, ...], None] = {}  # distinct, in order: a repeated sentence would be its own neighbour
    for sentence in sentences:
        if len(chosen) == SENTENCES:
            break
        if SHORTEST <= len(sentence) <= LONGEST:
            chosen.setdefault(tuple(sentence))
    return _encoded(encoder, [list(sentence) for sentence in chosen], layer)


def _with_word(sentences: Iterable[Sequence[str]], word: str, most: int) -> list[list[str]]:
    """At most `most` distinct sentences, of which the first `OCCURRENCES` with the word stand first."""
    holding: dict[tuple[str, ...], None] = {}
    others: dict[tuple[str, ...], None] = {}
    for sentence in sentences:
        into, size = (holding, OCCURRENCES) if word in sentence else (others, most)
        if sentence and len(into) < size:
            into.setdefault(tuple(sentence))
        if len(holding) == OCCURRENCES and len(others) == most:
            break
    return [list(sentence) for sentence in (*holding, *others)][:most]


def _encoded(encoder: _Encoder, kept: list[list[str]], layer: int) -> _Text:
    occurrences = [_Occurrence(number, word) for number, sentence in enumerate(kept) for word in range(len(sentence))]
    if not kept:
        return _Text(kept, occurrences, np.zeros((0, 1), np.float32))
    vectors = np.concatenate(
        [np.asarray(vectors, np.float32) for vectors in encoder.encode(kept, layers=layer, share=False)]
    )
    vectors = vectors - vectors.mean(axis=0, keepdims=True)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return _Text(kept, occurrences, vectors / np.maximum(lengths, 1e-12))


def _frequent(text: _Text) -> list[str]:
    """The 50 most frequent words of four letters or more, a length that leaves out most function words."""
    words = (word for sentence in text.sentences for word in sentence)
    counts = Counter(word for word in words if len(word) >= 4 and word.isalpha())
    return sorted(counts, key=lambda word: (-counts[word], word))[:50]


def _most_different(text: _Text, words: Sequence[str]) -> tuple[float, int, int] | None:
    """(cosine, number, number) of the two occurrences of one of `words` with the lowest cosine."""
    wanted: dict[str, list[int]] = {word: [] for word in words}
    for number, occurrence in enumerate(text.occurrences):
        numbers = wanted.get(text.sentences[occurrence.sentence][occurrence.word])
        if numbers is not None and len(numbers) < OCCURRENCES and len(_beside(text, number)) > 2:
            numbers.append(number)  # at a sentence's edge, a vector differs by its position instead of its sense
    best: tuple[float, int, int] | None = None
    for numbers in wanted.values():
        beside = [_beside(text, number) for number in numbers]
        cosines = text.vectors[numbers] @ text.vectors[numbers].T
        for j, i in combinations(range(len(numbers)), 2):
            apart = text.occurrences[numbers[i]].sentence != text.occurrences[numbers[j]].sentence
            if apart and not beside[i] & beside[j] and (best is None or cosines[i, j] < best[0]):
                best = float(cosines[i, j]), numbers[j], numbers[i]
    return best


def _beside(text: _Text, number: int) -> set[str]:
    sentence, word = text.occurrences[number]
    words = text.sentences[sentence]
    return {*words[max(0, word - CONTEXT) : word], *words[word + 1 : word + 1 + CONTEXT]}


def _apart(text: _Text, numbers: Sequence[int], count: int) -> list[int]:
    """At most `count` of these occurrences: the first, then each time the one least like those taken."""
    taken = [numbers[0]]
    while len(taken) < min(count, len(numbers)):
        likeness = np.max(text.vectors[list(numbers)] @ text.vectors[taken].T, axis=1)
        likeness[[number in taken for number in numbers]] = np.inf
        taken.append(numbers[int(np.argmin(likeness))])
    return taken


def _nearest(
    text: _Text, query: int, shown: set[int], count: int, *, any_spelling: bool = False
) -> list[tuple[float, int]]:
    """(cosine, number) of the nearest occurrences in sentences without one of `shown`, one a sentence, and one a
    spelling unless `any_spelling`."""
    cosines = text.vectors @ text.vectors[query]
    sentences = {text.occurrences[number].sentence for number in shown}
    spellings: set[str] = set()
    result: list[tuple[float, int]] = []
    for number in np.argsort(-cosines, kind="stable"):
        sentence, word = text.occurrences[number]
        spelling = text.sentences[sentence][word].lower()
        if sentence in sentences or (spelling in spellings and not any_spelling):
            continue
        sentences.add(sentence)
        spellings.add(spelling)
        result.append((float(cosines[number]), int(number)))
        if len(result) == count:
            break
    return result


def _in_context(text: _Text, number: int, width: int = 5) -> str:
    sentence, word = text.occurrences[number]
    words = text.sentences[sentence]
    before, after = words[max(0, word - width) : word], words[word + 1 : word + 1 + width]
    parts = ["..."] * (word > width) + before + [f"[{words[word]}]"] + after + ["..."] * (len(words) - word - 1 > width)
    return " ".join(parts)
