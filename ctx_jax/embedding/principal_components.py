"""The principal components of many vectors, in bounded memory.

Letters: N vectors, I their width, D width of the projection.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from ctx_jax.io.errors import InputError

_ROWS = 1024  # vectors of one update


def principal_components(arrays: Iterable[np.ndarray], width: int) -> tuple[np.ndarray, np.ndarray]:
    """(kernel [I, D], bias [D]) of x @ kernel + bias, the coordinates of x - mean along the D = `width` directions of
    greatest variance, in that order, of vectors in arrays [..., I].

    If I < D, the last D - I coordinates are 0. Of the two signs of a direction the one is taken whose largest number is
    positive. InputError for fewer than min(I, D) + 1 vectors, and for NaN or infinity.
    """
    count, mean, scatter = 0, np.zeros(0), np.zeros((0, 0))
    for block in _blocks(arrays):
        if not count:
            mean, scatter = np.zeros(block.shape[1]), np.zeros((block.shape[1], block.shape[1]))
        # Chan et al. 1979: the moments of two parts to those of both, without the cancellation of a sum of squares.
        total, own = count + len(block), block.mean(axis=0)
        centred, moved = block - own, own - mean
        scatter += centred.T @ centred + np.outer(moved, moved) * (count * len(block) / total)
        mean += moved * (len(block) / total)
        count = total
    kept = min(len(mean), width)
    if count <= kept:
        raise InputError(f"{kept} principal components need more than {kept} vectors, got {count}: give more text")
    if not np.isfinite(scatter).all():
        raise InputError("principal components need finite vectors, got NaN or infinity")
    directions = np.linalg.eigh(scatter)[1][:, ::-1][:, :kept]  # [I, kept], by falling variance
    largest = directions[np.abs(directions).argmax(axis=0), np.arange(kept)]
    kernel = np.zeros((len(mean), width))
    kernel[:, :kept] = directions * np.where(largest < 0, -1.0, 1.0)
    return kernel.astype(np.float32), (-mean @ kernel).astype(np.float32)


def _blocks(arrays: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The vectors [n, I] in float64, about `_ROWS` at a time."""
    waiting: list[np.ndarray] = []
    for array in arrays:
        waiting.append(np.asarray(array, np.float64).reshape(-1, array.shape[-1]))
        if sum(map(len, waiting)) >= _ROWS:
            yield np.concatenate(waiting)
            waiting = []
    if sum(map(len, waiting)):
        yield np.concatenate(waiting)
