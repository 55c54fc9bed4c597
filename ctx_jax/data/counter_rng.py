"""Random numbers of an example: a function of (seed, purpose, epoch, example), whoever asks and in whatever order."""

from enum import IntEnum, unique

import numpy as np

from ctx_jax.io.errors import ConfigError

ONE = 2.0**32
"""Numbers are uniform over 0 .. 2**32 - 1: `random_uint32(...) / ONE` is uniform over [0, 1)."""


@unique
class Purpose(IntEnum):
    """What random numbers are for: with a run's seed, `seed_sequence(seed, purpose)` is the key of a Philox stream.

    `permutation` uses the same pairs (seed, n), n an epoch or a second stream. That is no clash: what a sequence
    generates is sorted there, or seeds an epoch; here it is a key and never itself a random number.
    """

    MASKING = 1  # of a row in an epoch: what is predicted, and what stands there instead
    PAIR = 2  # of a pair in an epoch: where it is split, what its second text is
    PAIR_LENGTHS = 3  # of a text, once: which passages are cut short, and where
    PACKING = 4  # of a text, once: which sentences share a row; a stream of its own, not by `random_uint32`


def seed_sequence(seed: int, number: int) -> np.random.SeedSequence:
    """What random bits of (seed, number) come from; numpy keeps these bits from version to version."""
    if seed < 0:
        raise ConfigError("seed", f"must be at least 0, got {seed}")
    return np.random.SeedSequence([seed, number])


def random_uint32(seed: int, purpose: int, epochs: np.ndarray, examples: np.ndarray, count: int) -> np.ndarray:
    """`count` numbers for each of B examples, uint32 [B, count]; `epochs` and `examples` are int [B], 0 or more.

    From Philox, a generator that is keyed and counted (Salmon et al. 2011): the key is of (seed, purpose), the upper
    half of the counter is (example, epoch). Only raw bits are taken, which numpy keeps from version to version.
    """
    generator = np.random.Philox(key=seed_sequence(seed, purpose).generate_state(2, np.uint64))
    # One generator moved from place to place: making one for each example takes four times as long.
    state = generator.state
    state["buffer_pos"] = 4  # nothing left of the last place
    words = (count + 1) // 2
    raw = np.empty((len(examples), words), np.uint64)
    counter = state["state"]["counter"]
    for row, (epoch, example) in enumerate(zip(epochs.tolist(), examples.tolist(), strict=True)):
        counter[:] = (0, 0, example, epoch)
        generator.state = state
        raw[row] = generator.random_raw(words)
    return raw.view(np.uint32)[:, :count]
