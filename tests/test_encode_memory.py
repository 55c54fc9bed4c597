"""Memory of `encoder.encode` over a stream: it holds a block or two of sentences, however many come.

`benchmarks/encode_memory.py` measures the whole process over a million sentences.
"""

import tracemalloc
from collections import deque
from collections.abc import Iterator
from typing import Any

import jax
import pytest
from sentence_folders import BERT, PROCESSOR, random_params

import ctx_jax
from ctx_jax.embedding import encode
from ctx_jax.encoders.elmo import BiLM

ELMO = BiLM(character_dim=3, filters=((1, 4), (2, 4)), dim=8, projection=4)
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "dogs", "sat"]
BLOCK = 210  # sentences: small, so that the fewer sentences are several blocks too
FEW, MANY = 4 * BLOCK, 40 * BLOCK


def sentences(count: int, taken: list[int]) -> Iterator[str]:
    """Of 1 to 9 words; counts in `taken` how many have been asked for."""
    for number in range(count):
        taken[0] += 1
        yield " ".join(WORDS[number % 7 :] + WORDS[: number % 3])


def encoder_of(family: str) -> ctx_jax.Encoder:
    if family == "bert":
        return ctx_jax.Encoder(BERT, random_params(BERT), PROCESSOR)
    return ctx_jax.Encoder(ELMO, jax.jit(ELMO.init)(jax.random.key(0)), ELMO.inputs())


def held(encoder: ctx_jax.Encoder, count: int, **settings: Any) -> tuple[int, int]:
    """The most bytes of Python and numpy at once, and the most sentences taken but not yet given back."""
    taken, ahead = [0], 0
    tracemalloc.start()
    try:
        for given, _ in enumerate(encoder.encode(sentences(count, taken), **settings), start=1):
            ahead = max(ahead, taken[0] - given)
        assert given == count
        return tracemalloc.get_traced_memory()[1], ahead
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize("family, level", [("bert", "words"), ("bert", "sentence"), ("elmo", "words")])
def test_memory_does_not_grow_with_the_stream(monkeypatch: pytest.MonkeyPatch, family: str, level: str) -> None:
    monkeypatch.setattr(encode, "BLOCK_SENTENCES", BLOCK)
    encoder = encoder_of(family)
    with jax.default_device(jax.devices()[0]):
        deque(encoder.encode(sentences(FEW, [0]), level=level), maxlen=0)  # compiles
        shapes = encoder.compiled_shapes
        memory, _ = held(encoder, FEW, level=level)
        more_memory, ahead = held(encoder, MANY, level=level)
    assert more_memory < 2 * memory  # ten times as much where results are kept
    assert ahead <= 3 * BLOCK
    assert encoder.compiled_shapes == shapes
