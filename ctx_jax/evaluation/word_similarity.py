"""Word similarity: Spearman's correlation of cosines with people's ratings, of layer 0 and of averaged contexts.

Letters: L layers, D width.
"""

import math
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ctx_jax.data.pair_sets import RatedPair, read_similarity
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.embedding.outputs import LayerChoice
from ctx_jax.encoders.base import InputProcessor, sentences_to_words
from ctx_jax.encoders.elmo.inputs import WordInputs
from ctx_jax.encoders.stack.inputs import StackInputs
from ctx_jax.encoders.static.inputs import StaticInputs
from ctx_jax.evaluation.correlation import spearman
from ctx_jax.evaluation.nearest_senses import cosine
from ctx_jax.evaluation.results import Result
from ctx_jax.evaluation.target_vectors import LayerVectors, Targets
from ctx_jax.io.errors import InputError

_Lists = Mapping[str, Sequence[RatedPair]]


def word_similarity(encoder: Encoder, path: str | Path) -> Result:
    """Similarity by layer 0, the vectors of single words (`Encoder.word_vectors`): {"0": {"spearman", "coverage"}}.

        word_similarity(encoder, "wordsim").parts["EN-SIMLEX-999"].scores["0"]["spearman"]

    `path`: a folder of lists, or one (`data.pair_sets.read_similarity`). "coverage" is the share of pairs whose words
    the encoder knows: those of its table or vocabulary; every word for one that reads characters or pieces. Other pairs
    have no rank. "spearman" of all lists is their mean, without those that have fewer than two such pairs (nan).
    """
    lists = read_similarity(path)
    words = _words(lists)
    known = [word for word, is_known in zip(words, known_words(encoder.processor, words), strict=True) if is_known]
    vectors = encoder.word_vectors(known)
    return _result(lists, {word: own[None] for word, own in zip(known, vectors, strict=True)}, ("0",))


def context_similarity(
    encoder: Encoder,
    path: str | Path,
    corpus: Iterable[str | Sequence[str]],
    *,
    layers: LayerChoice = "all",
    occurrences: int = 100,
) -> Result:
    """Similarity by averaged contexts: a word's vector is the mean of those of its first `occurrences` in a corpus.

        context_similarity(encoder, "wordsim", open("text.txt"), layers=(0, 6)).scores["6"]

    Scores as in `word_similarity`, at each layer, as `Encoder.encode` takes `layers`, and of several also their plain
    mean. "coverage" is the share of pairs whose words occur, whatever their case. The corpus is sentences, lists
    of words or strings that the encoder's rule splits, and is read until every word has been seen often enough.
    """
    if occurrences < 1:
        raise InputError(f"occurrences must be at least 1, got {occurrences}")
    lists = read_similarity(path)
    forms: dict[str, list[str]] = defaultdict(list)
    for word in _words(lists):
        forms[word.lower()].append(word)
    read = LayerVectors(encoder, layers)
    waiting: deque[list[str]] = deque()  # the words that are averaged, by sentence
    sums: dict[str, np.ndarray] = {}  # [L, D]

    def targets() -> Iterator[Targets]:
        counts: Counter[str] = Counter()
        enough = 0
        for sentence in corpus:
            words = sentences_to_words([sentence], encoder.processor.rule)[0]
            places = []
            for place, word in enumerate(words):
                form = word.lower()
                if form in forms and counts[form] < occurrences:
                    counts[form] += 1
                    enough += counts[form] == occurrences
                    places.append(place)
            if places:
                waiting.append([words[place].lower() for place in places])
                yield Targets(words, [(place, place + 1) for place in places])
            if enough == len(forms):
                return

    for vectors in read(targets()):
        for form, own in zip(waiting.popleft(), vectors, strict=True):
            sums[form] = sums[form] + own if form in sums else own.copy()
    return _result(lists, {word: own for form, own in sums.items() for word in forms[form]}, read.names)


def known_words(processor: InputProcessor, words: Sequence[str]) -> np.ndarray:
    """Whether the encoder has a vector of its own for each word, bool: of a stack, whether some member has."""
    each = [[word] for word in words]
    match processor:
        case StaticInputs():
            ids = replace(processor, unknown="zero").arrays(each)["token_ids"]
            return ids.reshape(-1) < len(processor.words)
        case WordInputs():
            return processor.vocabulary.ids(words) != processor.vocabulary.unknown
        case StackInputs():
            return np.any([known_words(member, words) for member in processor.processors], axis=0)
    return np.ones(len(words), bool)


def _words(lists: _Lists) -> list[str]:
    return sorted({word for pairs in lists.values() for pair in pairs for word in (pair.first, pair.second)})


def _result(lists: _Lists, vectors: Mapping[str, np.ndarray], names: Sequence[str]) -> Result:
    """`vectors`: of every word that is covered, [L, D]."""
    parts = {}
    for name, pairs in lists.items():
        covered = [pair for pair in pairs if pair.first in vectors and pair.second in vectors]
        share = len(covered) / len(pairs) if pairs else math.nan
        scores = {
            layer: {"spearman": _spearman(covered, vectors, number), "coverage": share}
            for number, layer in enumerate(names)
        }
        parts[name] = Result(scores, {"pairs": len(pairs), "covered": len(covered)})
    counts = {key: sum(part.counts[key] for part in parts.values()) for key in ("pairs", "covered")}
    together = {}
    for layer in names:
        several = [part.scores[layer]["spearman"] for part in parts.values()]
        finite = [value for value in several if not math.isnan(value)]
        mean = sum(finite) / len(finite) if finite else math.nan
        together[layer] = {"spearman": mean, "coverage": counts["covered"] / max(counts["pairs"], 1)}
    return Result(together, counts | {"lists": len(parts)}, parts=parts)


def _spearman(pairs: Sequence[RatedPair], vectors: Mapping[str, np.ndarray], layer: int) -> float:
    if len(pairs) < 2:
        return math.nan
    first = np.stack([vectors[pair.first][layer] for pair in pairs])
    second = np.stack([vectors[pair.second][layer] for pair in pairs])
    return spearman(cosine(first, second), [pair.rating for pair in pairs])
