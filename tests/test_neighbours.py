"""Neighbours of a word in two contexts: contextual vectors find words of the same sense."""

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np
import pytest

from ctx_jax.evaluation.neighbours import show_neighbours, word_neighbours
from ctx_jax.io.errors import InputError

RIVER = ["the river had a steep bank of mud", "we swam along the shore of mud", "a boat lay near some water there"]
MONEY = ["she paid money at this bank on Friday", "my loan came from your lender on Monday", "they owe cash to him"]
SENTENCES = [sentence.split() for pair in zip(RIVER, MONEY, strict=True) for sentence in pair]


class Topical:
    """A fake encoder: layer 1 depends on whether the sentence is about rivers, layer 0 on the spelling alone."""

    def encode(self, sentences: Sequence[Sequence[str]], *, layers: int, share: bool) -> Iterator[np.ndarray]:
        for sentence in sentences:
            river = " ".join(sentence) in RIVER
            spelling = [np.random.default_rng(list(word.encode())).normal(size=6) for word in sentence]
            topic = [np.r_[vector[:4] * 0.1, 3.0 * river, 3.0 * (not river)] for vector in spelling]
            yield np.stack([spelling, topic]).astype(np.float32)[layers]


def neighbours_of(page: str) -> list[list[str]]:
    """The sentences below each of the two queries, without brackets."""
    groups: list[list[str]] = []
    for line in page.splitlines()[1:]:
        if line.startswith("    "):
            groups[-1].append(line[9:].replace("[", "").replace("]", "").replace("...", "").strip())
        else:
            groups.append([])
    return groups


def test_each_context_finds_its_own_sense() -> None:
    page = show_neighbours(Topical(), SENTENCES, count=2)
    assert page.splitlines()[0].startswith('"bank" in two sentences')
    assert page.count("[bank]") == 2
    river, money = neighbours_of(page)
    assert len(river) == len(money) == 2
    assert all(any(near in sentence for sentence in RIVER) for near in river)
    assert all(any(near in sentence for sentence in MONEY) for near in money)


def test_a_vector_without_context_cannot_tell_them_apart() -> None:
    page = show_neighbours(Topical(), SENTENCES, layer=0)
    assert "cosine 1.00" in page.splitlines()[0]


class Zeros:
    def encode(self, sentences: Sequence[Sequence[str]], *, layers: int, share: bool) -> Iterator[np.ndarray]:
        return (np.zeros((len(sentence), 4), np.float32) for sentence in sentences)


def test_an_encoder_of_zeros_works() -> None:
    assert "cosine 0.00" in show_neighbours(Zeros(), SENTENCES)


@pytest.mark.parametrize("sentences", [[], [["one"]], [["a", "b", "c", "d"], ["e", "f", "g", "h"]]])
def test_a_text_without_such_a_word_gives_a_message(sentences: list[list[str]]) -> None:
    assert "nothing to compare" in show_neighbours(Zeros(), sentences)


def test_any_frequent_word_stands_in_for_the_candidates() -> None:
    page = show_neighbours(Topical(), SENTENCES, words=())
    assert "in two sentences" in page


def test_sentences_that_share_the_words_beside_are_not_compared() -> None:
    same = [["now", "a", "bank", "of", "mud"], ["then", "a", "bank", "of", "stone"]]
    assert "nothing to compare" in show_neighbours(Zeros(), same)


def test_a_words_occurrences_find_their_own_sense() -> None:
    """Those most unlike each other are shown first; neighbours stand in other sentences."""
    other = ["a", "second", "bank", "on", "that", "day"]  # its topic is not rivers either
    page = word_neighbours(Topical(), iter([other, *reversed(SENTENCES), other]), "bank", occurrences=2, count=2)
    lines = page.splitlines()
    assert [line for line in lines if not line.startswith("  ")] == [
        "a second [bank] on that day",
        "the river had a steep [bank] of mud",
    ]
    near = [line[9:].replace("[", "").replace("]", "").replace("...", "").strip() for line in lines[4:]]
    assert len(lines) == 6 and all(any(part in sentence for sentence in RIVER) for part in near)
    with pytest.raises(InputError, match="wavelet"):
        word_neighbours(Topical(), SENTENCES, "wavelet")


def test_at_most_so_many_sentences_are_encoded_those_with_the_word_first() -> None:
    seen: list[int] = []

    class Counting(Topical):
        def encode(self, sentences: Sequence[Sequence[str]], **settings: Any) -> Iterator[np.ndarray]:
            seen.append(len(sentences))
            return super().encode(sentences, **settings)

    endless = (["word", str(number)] if number % 50 else ["a", "bank", str(number)] for number in count())
    word_neighbours(Counting(), endless, "bank", most=70, count=1)
    assert seen == [70]
