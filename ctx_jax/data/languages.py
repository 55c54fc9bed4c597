"""Texts of several languages: how large a share of the rows each gets, in which order they come, and how much of each a
shared tokenizer is trained on.

A language with n tokens gets a share proportional to n ** exponent: 1 is as the texts are, 0 the same for all (Devlin's
multilingual BERT: 0.7; Lample & Conneau 2019: 0.5; Conneau et al. 2020, XLM-R: 0.3).

Letters: L languages, N rows of a round.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from ctx_jax.data.cache import Sentences
from ctx_jax.data.counter_rng import seed_sequence
from ctx_jax.data.permutation import mix_seed
from ctx_jax.data.tokens import Tokens

ROUND = 1 << 16
"""Rows in which every language gets its share exactly, up to rounding to whole rows."""

_ORDER = 3 << 30  # behind the numbers of epochs and shards, from which seeds are mixed too; each language's come after


def shares(sizes: Sequence[int], exponent: float) -> np.ndarray:
    """The share of each of L texts, float64 [L] with sum 1, proportional to size ** exponent."""
    powers = np.asarray(sizes, np.float64) ** exponent
    found: np.ndarray = powers / powers.sum()
    return found


def quotas(parts: np.ndarray, total: int) -> np.ndarray:
    """`total` rows divided by shares (float [L], sum 1): int64 [L], each the share rounded down or up, but at least 1.

    The largest remainders are rounded up. What a language gets in order to have a row, the one with most rows gives.
    """
    exact = parts * total
    counts = np.floor(exact).astype(np.int64)
    largest = np.argsort(counts - exact, kind="stable")
    counts[largest[: total - counts.sum()]] += 1
    counts = np.maximum(counts, 1)
    counts[np.argmax(counts)] -= counts.sum() - total
    return counts


@dataclass(frozen=True)
class LanguageOrder:
    """Which language row 0, 1, 2 ... of a run is of: in each round of `ROUND` rows every language has its quota, in an
    order that is a function of (seed, round) alone."""

    counts: tuple[int, ...]  # rows of a round, by language
    seed: int

    def at(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of rows int64 [B]: the number of the language, and how many rows of it came before, both int64 [B]."""
        rounds, index = np.divmod(rows, ROUND)
        language, before = np.zeros_like(rows), np.zeros_like(rows)
        for number in np.unique(rounds).tolist():
            own = rounds == number
            of_round, rank = _round(self.counts, self.seed, number)
            language[own] = of_round[index[own]]
            before[own] = rank[index[own]] + number * np.array(self.counts)[language[own]]
        return language, before

    def first(self, rows: int) -> np.ndarray:
        """How many of the first `rows` rows each language has, int64 [L]."""
        number, rest = divmod(rows, ROUND)
        of_round, _ = _round(self.counts, self.seed, number)
        found: np.ndarray = number * np.array(self.counts) + np.bincount(of_round[:rest], minlength=len(self.counts))
        return found


@lru_cache(maxsize=8)
def _round(counts: tuple[int, ...], seed: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each row of a round its language, and how many rows of it the round has before it; both [N]."""
    keys = seed_sequence(mix_seed(seed, _ORDER), number).generate_state(ROUND, np.uint64)
    language = np.repeat(np.arange(len(counts)), counts)[np.argsort(keys, kind="stable")]
    rank = np.empty_like(language)
    for own in range(len(counts)):
        rank[language == own] = np.arange(counts[own])
    return language, rank


@dataclass(frozen=True, eq=False)
class LanguageTokens:
    """Texts in tokens, by language, and the exponent of their shares."""

    texts: Mapping[str, Tokens]
    exponent: float

    @cached_property
    def shares(self) -> np.ndarray:
        """float64 [L], by the number of tokens."""
        return shares([len(text.ids) for text in self.texts.values()], self.exponent)

    def order(self, seed: int) -> LanguageOrder:
        """The language of each row of a run."""
        return LanguageOrder(tuple(quotas(self.shares, ROUND).tolist()), seed)

    def seeds(self, seed: int) -> list[int]:
        """A seed for each language's own order, packing and masks."""
        return [mix_seed(seed, _ORDER + 1 + number) for number in range(len(self.texts))]


@dataclass(frozen=True, eq=False)
class LanguageSentences:
    """The sentences that a shared tokenizer is trained on: `len` and iteration, one language after the other.

    The bytes taken of each language are proportional to size ** exponent, its size in bytes of UTF-8. The language with
    the smallest text is taken whole, of the others sentences spread evenly over the text; no text is read twice.
    """

    texts: Mapping[str, Sentences]
    exponent: float

    @cached_property
    def parts(self) -> np.ndarray:
        """The part that is taken of each text, float64 [L], at most 1."""
        sizes = np.array([text.size for text in self.texts.values()], np.float64)
        found: np.ndarray = (sizes / sizes.min()) ** (self.exponent - 1.0)
        return found

    def __len__(self) -> int:
        return sum(int(len(text) * part) for text, part in zip(self.texts.values(), self.parts, strict=True))

    def __iter__(self) -> Iterator[list[str]]:
        for text, part in zip(self.texts.values(), self.parts.tolist(), strict=True):
            for number, sentence in enumerate(text):
                if int((number + 1) * part) > int(number * part):
                    yield sentence
