"""Random numbers of an example: a function of (seed, purpose, epoch, example), whoever asks and in whatever order."""

import numpy as np

ONE = 2.0**32
"""The draws are uniform over 0 .. 2**32 - 1: `draws / ONE` is uniform over [0, 1)."""


def draws(seed: int, purpose: int, epochs: np.ndarray, examples: np.ndarray, count: int) -> np.ndarray:
    """`count` numbers for each of B examples, uint32 [B, count]; `epochs` and `examples` are int [B], 0 or more.

    From Philox, a generator that is keyed and counted (Salmon et al. 2011): the key is of (seed, purpose), the upper
    half of the counter is (example, epoch). Only raw bits are taken, which numpy keeps from version to version.
    """
    if seed < 0:
        raise ValueError(f"a seed is 0 or more, got {seed}; set --seed")
    generator = np.random.Philox(key=np.random.SeedSequence([seed, purpose]).generate_state(2, np.uint64))
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
