"""The order in which a text is read: a function of (seed, position), computed by index and never written out."""

from functools import lru_cache

import numpy as np

from ctx_jax.data.counter_rng import seed_sequence
from ctx_jax.io.errors import InputError

LARGEST_CORPUS = 2**31
"""Most sentences of a corpus: positions are saved as signed 32-bit integers."""

SMALL = 4096
"""Epochs of at most this many sentences are sorted by random keys. The cipher permutes at least 2**16 numbers, and
stepping through it until a number below a small count comes up would take milliseconds."""

_ROUNDS = 12
"""Of the Simon cipher. The 4 of TensorFlow and grain are too few: of 16 million sentences whole batches came from one
half of the text, and places 256 apart in 65,536 correlated by 0.73. From 12 on nothing showed. Another number is
another order of every run."""

_BLOCK = 1024  # neighbouring places are permuted together, in about a microsecond each


def permuted(position: int, count: int, seed: int, *, shuffle: bool = True) -> int:
    """The index of the sentence at `position` of an endless stream of epochs over `count` sentences.

    Each epoch, `position // count`, has its own permutation, determined by (seed, epoch) alone, so any process can
    compute any position of any epoch directly:

        count 3    position   0 1 2 | 3 4 5 | 6 ...
                   sentence   2 0 1 | 0 2 1 | 1 ...       (without shuffle: 0 1 2 | 0 1 2 | 0 ...)

    Raises InputError for a count that is not in 1..2**31 or a negative position, ConfigError for a negative seed.
    """
    if not 0 < count <= LARGEST_CORPUS:
        raise InputError(f"a text needs between 1 and {LARGEST_CORPUS} sentences, got {count}: set data.train")
    if position < 0:
        raise InputError(f"a position in the stream of sentences is 0 or more, got {position}")
    epoch, place = divmod(position, count)
    if not shuffle:
        return place
    if count <= SMALL:
        return int(_small_epoch(seed, epoch, count)[place])
    return int(_block_of_epoch(mix_seed(seed, epoch), count, place // _BLOCK)[place % _BLOCK])


@lru_cache(maxsize=64)
def mix_seed(seed: int, number: int) -> int:
    """32 bits that depend on both `seed` and `number`: the seed of an epoch, or of a second stream.

    Not seed + number: epoch 1 of seed 0 would be epoch 0 of seed 1, and two runs would share most of their order.
    """
    return int(seed_sequence(seed, number).generate_state(1)[0])


@lru_cache(maxsize=256)
def _small_epoch(seed: int, epoch: int, count: int) -> np.ndarray:
    # Not `Generator.permutation`, which numpy may change.
    return np.argsort(seed_sequence(seed, epoch).generate_state(count, np.uint64), kind="stable")


@lru_cache(maxsize=512)  # 2 MB; rows of a biLM's batch, which drift apart in the text, find theirs too
def _block_of_epoch(seed: int, count: int, block: int) -> np.ndarray:
    """The sentences at places block x 1024 and following, uint32.

    A cipher permutes 2**bits places; walking from place to place until one is below `count` makes it a permutation of
    `count` places (Black & Rogaway 2002). The cipher (Simon, Beaulieu et al. 2013), its keys and so the order are those
    of grain's `experimental.index_shuffle`, which may change, and whose order is no permutation at counts of 4**n + 1.
    """
    half = max(8, ((count - 1).bit_length() + 1) // 2)  # bits of either half of a place
    half_bits = np.uint64((1 << half) - 1)
    keys = [np.uint64(key) & half_bits for key in _round_keys(seed)]

    def rotated(values: np.ndarray, by: int) -> np.ndarray:
        return (values << np.uint64(by) | values >> np.uint64(half - by)) & half_bits

    def encrypted(places: np.ndarray) -> np.ndarray:
        left, right = places >> np.uint64(half), places & half_bits
        for key in keys:
            mixed = rotated(right, 1) & rotated(right, 8) ^ rotated(right, 2)
            left, right = right, left ^ mixed ^ key
        return left << np.uint64(half) | right

    places = encrypted(np.arange(block * _BLOCK, min((block + 1) * _BLOCK, count), dtype=np.uint64))
    while (outside := np.flatnonzero(places >= count)).size:
        places[outside] = encrypted(places[outside])
    return places.astype(np.uint32)


def _round_keys(seed: int) -> list[int]:
    """What C++'s `std::seed_seq{seed}.generate` gives ([rand.util.seedseq] of the standard), 32 bits each."""
    count, first, second = _ROUNDS, (_ROUNDS - 3) // 2, (_ROUNDS - 3) // 2 + 3
    keys = [0x8B8B8B8B] * count

    def mix(mixed: int, factor: int) -> int:
        return factor * (mixed ^ mixed >> 27) & 0xFFFFFFFF

    for step in range(count):
        drawn = mix(keys[step] ^ keys[(step + first) % count] ^ keys[step - 1], 1664525)
        own = drawn + {0: 1, 1: 1 + seed}.get(step, step) & 0xFFFFFFFF
        keys[(step + first) % count] = keys[(step + first) % count] + drawn & 0xFFFFFFFF
        keys[(step + second) % count] = keys[(step + second) % count] + own & 0xFFFFFFFF
        keys[step] = own
    for step in range(count):
        total = keys[step] + keys[(step + first) % count] + keys[step - 1] & 0xFFFFFFFF
        drawn = mix(total, 1566083941)
        own = drawn - step & 0xFFFFFFFF
        keys[(step + first) % count] ^= drawn
        keys[(step + second) % count] ^= own
        keys[step] = own
    return keys
