"""The order in which sentences are read: a function of (seed, position), computed by index and never written out.

The one exception is small: grain's `index_shuffle` draws from at least 2**16 places until one falls inside the corpus,
milliseconds for a corpus of a few sentences, so epochs of up to `SMALL` sentences are listed and a few of them kept.
"""

from functools import lru_cache

import numpy as np
from grain.experimental import index_shuffle

from ctx_jax.io.errors import InputError

LARGEST_CORPUS = 2**31
"""Sentences a corpus may hold: `index_shuffle` counts in 32 bits, and a saved position in signed ones."""

SMALL = 4096

_ROUNDS = 12
"""Of the Simon cipher in `index_shuffle`. The 4 of TensorFlow and grain are too few: of 16 million sentences whole
batches came from one half of the text, and places 256 apart in 65,536 correlated by 0.73. From 12 on nothing showed.
Another number is another order of every run."""


def permuted(position: int, count: int, seed: int, *, shuffle: bool = True) -> int:
    """The sentence that stands at `position` of the endless stream over `count` sentences.

    Epoch `position // count` is a permutation of its own, drawn from (seed, epoch) alone, so that any place of any
    epoch is found at once, on every host alike:

        count 3    position   0 1 2 | 3 4 5 | 6 ...
                   sentence   2 0 1 | 0 2 1 | 1 ...       (without shuffle: 0 1 2 | 0 1 2 | 0 ...)

    Returns a sentence index in 0..count-1. Raises ValueError for an empty corpus, one of more than 2**31 sentences,
    a negative position or a negative seed.
    """
    if not 0 < count <= LARGEST_CORPUS:
        raise InputError(f"an order needs between 1 and {LARGEST_CORPUS} sentences, got {count}; set --data.train")
    if position < 0:
        raise InputError(f"a position in the stream of sentences is 0 or more, got {position}")
    epoch, place = divmod(position, count)
    if not shuffle:
        return place
    if count <= SMALL:
        return int(_small_epoch(seed, epoch, count)[place])
    return int(index_shuffle(place, max_index=count - 1, seed=mix_seed(seed, epoch), rounds=_ROUNDS))


@lru_cache(maxsize=64)
def mix_seed(seed: int, number: int) -> int:
    """32 bits that depend on both `seed` and `number`: the seed of an epoch, or of a second stream. The same pairs are
    keys elsewhere, see `draws.Purpose`.

    Not seed + number: epoch 1 of seed 0 would be epoch 0 of seed 1, and two runs would share most of their order.
    """
    return int(_sequence(seed, number).generate_state(1)[0])


@lru_cache(maxsize=256)
def _small_epoch(seed: int, epoch: int, count: int) -> np.ndarray:
    # By SeedSequence, whose bits numpy keeps from version to version; those of `Generator.permutation` it may change.
    return np.argsort(_sequence(seed, epoch).generate_state(count, np.uint64), kind="stable").astype(np.int32)


def _sequence(seed: int, number: int) -> np.random.SeedSequence:
    if seed < 0:
        raise InputError(f"a seed is 0 or more, got {seed}; set --seed")
    return np.random.SeedSequence([seed, number])
