"""A sentence's vectors do not depend on what is encoded with it: every family, at each level."""

from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
from test_families import CASES, Case


def close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * max(1.0, np.abs(expected).max(initial=0)))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_vectors_do_not_depend_on_what_is_encoded_with_a_sentence(name: str) -> None:
    """To the bit in another order; beside others, in other batches, alone and on one device in place of eight but for
    rounding. The last sentences are longer than the Transformers take."""
    case: Case = CASES[name]
    random = np.random.default_rng(0)
    words = ["the", "cat", "sat", "dogs", "été", ""]
    lengths = [*random.integers(0, 9, 20).tolist(), 31, 40]
    sentences, others = ([random.choice(words, length).tolist() for length in lengths] for _ in range(2))
    encoder, order = case.encoder, random.permutation(len(lengths))
    levels: list[dict[str, Any]] = [{}, {"level": "tokens"}, {"level": "sentence", "long": "windows"}]
    if name == "stack_added":  # its members' pieces differ
        del levels[1]
    for settings in levels:
        encode = partial(encoder.encode, layers="last", **settings)
        with jax.default_device(jax.devices()[1]):
            expected = list(encode(sentences))
            for found, number in zip(encode([sentences[number] for number in order]), order, strict=True):
                np.testing.assert_array_equal(found, expected[number])
            for index in (0, 7, 21):
                close(list(encode([*others[:index], sentences[index], *others[index + 1 :]]))[index], expected[index])
            for number in (3, 21):
                close(next(iter(encode(sentences[number : number + 1]))), expected[number])
        for found, own in zip(encode(sentences, batch_tokens=64), expected, strict=True):
            close(found, own)
