"""A text, an encoder, and how the files of `ctx-jax embed` are read, for its test files."""

from pathlib import Path

import h5py
import jax
import numpy as np

import ctx_jax
from ctx_jax.encoders.elmo import BiLM

TINY = BiLM(filters=((1, 4), (2, 8)), character_dim=4, highways=1, dim=6, projection=5, max_characters=9)
ENCODER = ctx_jax.Encoder(TINY, TINY.init(jax.random.key(0)), TINY.inputs())
LINES = ["the cat sat .", "", "a", "one two three four five", "the cat sat .", "été  naïve ", "  ", "dogs/cats sat"]


def contents(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file, by name."""
    if path.suffix == ".npz":
        with np.load(path) as file:
            return dict(file)
    with h5py.File(path) as file:
        return {name: file[name][()] for name in file}


def same(first: Path, second: Path) -> bool:
    one, other = contents(first), contents(second)
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def quiet(line: str) -> None:
    pass
