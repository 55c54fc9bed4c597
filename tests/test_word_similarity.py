"""Word similarity against scipy: which words count as known, and averages over the contexts of a corpus."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from evaluation_sets import FakeEncoder, VectorFunction
from scipy.stats import spearmanr
from toys.bag_of_characters import BagOfCharacters, ByteInputs

import ctx_jax
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.encoders.elmo.inputs import WordInputs
from ctx_jax.encoders.static import write_text
from ctx_jax.evaluation.word_similarity import context_similarity, known_words, word_similarity
from ctx_jax.io.errors import InputError
from ctx_jax.tokenizers.vocabulary import Vocabulary
from ctx_jax.tokenizers.words import split_words

WORDS = ["wug", "dax", "fep", "Blick", "toma"]
PAIRS = [("wug", "dax", 1.0), ("wug", "fep", 5.0), ("dax", "fep", 2.5), ("Blick", "toma", 2.5), ("toma", "wug", 7.0)]
LISTS = {"one": PAIRS, "two": [*PAIRS[:3], ("wug", "unheard", 3.0)], "three": [("unheard", "wug", 1.0)]}


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    for name, pairs in LISTS.items():
        text = "".join(f"{first}\t{second}\t{rating}\n" for first, second, rating in pairs)
        (tmp_path / f"{name}.txt").write_text(text)
    return tmp_path


@pytest.fixture
def table(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    vectors = np.random.default_rng(0).normal(size=(len(WORDS), 6)).astype(np.float32)
    path = tmp_path_factory.mktemp("table") / "table.vec"
    write_text(path, WORDS, vectors)
    return ctx_jax.load(path)


def expected(pairs: list[tuple[str, str, float]], vectors: dict[str, np.ndarray]) -> float:
    cosines = []
    for first, second, _ in pairs:
        one, other = vectors[first].astype(np.float64), vectors[second].astype(np.float64)
        cosines.append(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
    return float(spearmanr(cosines, [rating for _, _, rating in pairs]).statistic)


def test_layer_0_of_known_words_is_scipys(lists: Path, table: Encoder) -> None:
    result = word_similarity(table, lists)
    vectors = dict(zip(WORDS, table.word_vectors(WORDS), strict=True))
    one, two = (expected(LISTS[name][:count], vectors) for name, count in (("one", 5), ("two", 3)))
    assert result.parts["one"].scores["0"] == {"spearman": pytest.approx(one), "coverage": 1.0}
    assert result.parts["two"].scores["0"] == {"spearman": pytest.approx(two), "coverage": 0.75}
    assert math.isnan(result.parts["three"].scores["0"]["spearman"])
    assert result.scores["0"] == {"spearman": pytest.approx((one + two) / 2), "coverage": 0.8}
    assert result.counts == {"pairs": 10, "covered": 8, "lists": 3}
    single = word_similarity(table, lists / "one.txt")
    assert single.parts["one"].scores == result.parts["one"].scores
    strict = replace(table, processor=replace(table.processor, unknown="error"))  # type: ignore[type-var]
    assert word_similarity(strict, lists).json() == result.json(), "unknown words are not asked for"


def test_who_knows_a_word(table: Encoder) -> None:
    words = ["wug", "blick", "Blick", "unheard"]
    assert known_words(table.processor, words).tolist() == [True, False, True, False]
    lower = replace(table.processor, lowercase=True)  # type: ignore[type-var]
    assert known_words(lower, ["WUG", "Blick"]).tolist() == [True, False]
    vocabulary = WordInputs(Vocabulary(("<S>", "</S>", "<UNK>", "wug")))
    assert known_words(vocabulary, words).tolist() == [True, False, False, False]
    assert known_words(ByteInputs(), words).all()
    both = ctx_jax.stack([table, table])
    assert known_words(both.processor, words).tolist() == [True, False, True, False]


class Spaced:
    """What is asked of the processor."""

    rule = "whitespace"


def test_averaged_contexts_are_a_slow_loops(lists: Path) -> None:
    encoder: Any = FakeEncoder(2, VectorFunction())
    encoder.processor = Spaced()
    corpus = ["the wug Dax sings", "nothing here", "a fep and a Wug", "blick toma", "wug wug wug", "toma Blick dax"]
    result = context_similarity(encoder, lists, corpus, occurrences=3)
    function, vectors = VectorFunction(), [dict[str, np.ndarray]() for _ in range(2)]
    for layer in (0, 1):
        for word in WORDS:
            places = [
                (sentence.split(), place)
                for sentence in corpus
                for place, other in enumerate(sentence.split())
                if other.lower() == word.lower()
            ][:3]
            vectors[layer][word] = np.mean([function(*place)[layer] for place in places], axis=0)
        assert result.parts["one"].scores[str(layer)]["spearman"] == pytest.approx(expected(PAIRS, vectors[layer]))
    assert result.parts["two"].scores["1"]["coverage"] == 0.75 and [*result.scores] == ["0", "1", "mean"]
    lists_of_words = [split_words(sentence, "whitespace") for sentence in corpus]
    assert context_similarity(encoder, lists, lists_of_words, occurrences=3).json() == result.json()
    with pytest.raises(InputError, match="occurrences must be at least 1, got 0"):
        context_similarity(encoder, lists, corpus, occurrences=0)


def test_a_corpus_is_read_until_all_words_were_seen_often(lists: Path) -> None:
    """In bounded memory: without the list that has an unheard word, an endless corpus ends."""
    encoder: Any = FakeEncoder(2, VectorFunction())
    encoder.processor = Spaced()
    taken = []

    def endless() -> Any:
        while True:
            taken.append(1)
            assert len(taken) < 100
            yield "wug dax fep Blick toma"

    context_similarity(encoder, lists / "one.txt", endless(), occurrences=7)
    assert encoder.read == 7 == len(taken)


@pytest.mark.slow
def test_an_encoder_gives_averaged_contexts(lists: Path) -> None:
    toy = BagOfCharacters()
    encoder = Encoder(toy, toy.init(jax.random.key(0)), ByteInputs())
    result = context_similarity(encoder, lists, [" ".join(WORDS)], layers=0)
    assert result.scores["0"]["coverage"] == 0.8
    single = word_similarity(encoder, lists)
    assert single.scores["0"]["coverage"] == 1.0
    for name, score in result.parts["one"].scores["0"].items():
        assert score == pytest.approx(single.parts["one"].scores["0"][name]), "layer 0 knows no context"
