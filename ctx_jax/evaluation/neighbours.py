"""One word, two sentences, two vectors: the nearest neighbours of an ambiguous word in two of its contexts.

Letters: L layers, T words, D width, N words of all sentences read.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

CANDIDATES = (
    "string", "object", "module", "argument", "file", "type", "key", "line", "order", "call", "set", "class", "value",
    "name", "function", "method", "import", "return", "character", "list", "number", "code", "time", "form", "bank",
    "right", "left", "state", "point", "field", "case", "part", "record", "play", "run", "match", "second", "close",
)  # fmt: skip
OCCURRENCES = 60  # at most this many of a word are compared with each other
SHORTEST, LONGEST = 4, 24  # words of a sentence that is read
NEAR = 2  # words on either side that must differ between the two contexts


class _Encoder(Protocol):
    def encode(self, sentences: Sequence[Sequence[str]], *, batch: int) -> Iterator[np.ndarray]: ...


class _Place(NamedTuple):
    sentence: int
    word: int


class _Text(NamedTuple):
    sentences: list[list[str]]
    places: list[_Place]
    vectors: np.ndarray  # [N, D], centred and of length 1


def show_neighbours(
    encoder: _Encoder,
    sentences: Sequence[Sequence[str]],
    *,
    words: Sequence[str] = CANDIDATES,
    count: int = 4,
    limit: int = 300,
    layer: int = -1,
) -> str:
    """A printable page: an ambiguous word in two sentences, and what lies nearest to each of its two vectors.

    Of `words` the one is shown whose vectors differ most between two sentences that share none of the words beside
    it; without such a word, any frequent word of the text. Neighbours are words of other sentences, one a sentence
    and spelling, by the cosine of centred vectors of `layer` (-1: the top one).

    `encoder.encode(sentences, batch=)` must give [L, T, D] a sentence. The first `limit` distinct sentences of 4 to 24
    words are encoded, in one batch: one shape to compile. A text where no word comes twice gives a line that says so.

        "string" in two sentences, cosine 0.21
          ... returns a [string] that holds ...
             0.83  ... gives the [text] of ...
    """
    text = _read(encoder, sentences, limit, layer)
    pairs = [pair for spellings in (words, _frequent(text)) if (pair := _most_different(text, spellings))]
    if not pairs:
        return "No word stands in two of these sentences with different words beside it: nothing to compare."
    cosine, first, second = pairs[0]
    place = text.places[first]
    lines = [f'"{text.sentences[place.sentence][place.word]}" in two sentences, cosine {cosine:.2f}; nearest to each:']
    for query in (first, second):
        lines.append(f"  {_in_context(text, query)}")
        for score, near in _nearest(text, query, {first, second}, count):
            lines.append(f"    {score:5.2f}  {_in_context(text, near)}")
    return "\n".join(lines)


def _read(encoder: _Encoder, sentences: Sequence[Sequence[str]], limit: int, layer: int) -> _Text:
    chosen: dict[tuple[str, ...], None] = {}  # distinct, in order: a sentence that comes twice is its own neighbour
    for sentence in sentences:
        if len(chosen) == limit:
            break
        if SHORTEST <= len(sentence) <= LONGEST:
            chosen.setdefault(tuple(sentence))
    kept = [list(sentence) for sentence in chosen]
    places = [_Place(number, word) for number, sentence in enumerate(kept) for word in range(len(sentence))]
    if not kept:
        return _Text(kept, places, np.zeros((0, 1), np.float32))
    vectors = np.concatenate(
        [np.asarray(layers[layer], np.float32) for layers in encoder.encode(kept, batch=len(kept))]
    )
    vectors = vectors - vectors.mean(axis=0, keepdims=True)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return _Text(kept, places, vectors / np.maximum(lengths, 1e-12))


def _frequent(text: _Text) -> list[str]:
    """The 50 most frequent words of four letters or more, so that most are no function words."""
    counts: dict[str, int] = defaultdict(int)
    for sentence in text.sentences:
        for word in sentence:
            if len(word) >= 4 and word.isalpha():
                counts[word] += 1
    return sorted(counts, key=lambda word: (-counts[word], word))[:50]


def _most_different(text: _Text, words: Sequence[str]) -> tuple[float, int, int] | None:
    """(cosine, one place, another) of the two occurrences of one of `words` that are least alike."""
    wanted: dict[str, list[int]] = {word: [] for word in words}
    for number, place in enumerate(text.places):
        found = wanted.get(text.sentences[place.sentence][place.word])
        if found is not None and len(found) < OCCURRENCES and len(_beside(text, number)) > 2:
            found.append(number)  # a word at a sentence's edge differs by its place, not by its sense
    best: tuple[float, int, int] | None = None
    for found in wanted.values():
        beside = [_beside(text, number) for number in found]
        cosines = text.vectors[found] @ text.vectors[found].T
        for i in range(len(found)):
            for j in range(i):
                apart = text.places[found[i]].sentence != text.places[found[j]].sentence
                if apart and not beside[i] & beside[j] and (best is None or cosines[i, j] < best[0]):
                    best = float(cosines[i, j]), found[j], found[i]
    return best


def _beside(text: _Text, number: int) -> set[str]:
    sentence, word = text.places[number]
    words = text.sentences[sentence]
    return {*words[max(0, word - NEAR) : word], *words[word + 1 : word + 1 + NEAR]}


def _nearest(text: _Text, query: int, shown: set[int], count: int) -> list[tuple[float, int]]:
    cosines = text.vectors @ text.vectors[query]
    sentences = {text.places[number].sentence for number in shown}
    spellings: set[str] = set()
    result: list[tuple[float, int]] = []
    for number in np.argsort(-cosines, kind="stable"):
        sentence, word = text.places[number]
        spelling = text.sentences[sentence][word].lower()
        if sentence in sentences or spelling in spellings:
            continue
        sentences.add(sentence)
        spellings.add(spelling)
        result.append((float(cosines[number]), int(number)))
        if len(result) == count:
            break
    return result


def _in_context(text: _Text, number: int, width: int = 5) -> str:
    sentence, word = text.places[number]
    words = text.sentences[sentence]
    before, after = words[max(0, word - width) : word], words[word + 1 : word + 1 + width]
    parts = ["..."] * (word > width) + before + [f"[{words[word]}]"] + after + ["..."] * (len(words) - word - 1 > width)
    return " ".join(parts)
