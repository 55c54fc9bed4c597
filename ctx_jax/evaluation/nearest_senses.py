"""The sense whose vectors are nearest, by the cosine.

Letters: N training vectors, M queries, K senses, D width.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

TIE = 1e-6
"""Cosines this close are equal: then the more frequent sense is the answer, as it is where a layer knows no context."""
_AT_ONCE = 2**22  # cosines in memory


def by_frequency(senses: Sequence[str]) -> list[str]:
    """The distinct senses, the most frequent first; of equals the one that comes first."""
    return [sense for sense, _ in Counter(senses).most_common()]


def nearest_centroid(train: np.ndarray, senses: Sequence[str], queries: np.ndarray) -> list[str]:
    """For each query [M, D] the sense with the nearest mean of its training vectors [N, D]; `senses` are their N."""
    order = by_frequency(senses)
    labels = np.array(senses)
    centroids = np.stack([train[labels == sense].mean(axis=0, dtype=np.float64) for sense in order])
    return [order[number] for number in nearest(queries, centroids)]


def nearest_neighbour(train: np.ndarray, senses: Sequence[str], queries: np.ndarray) -> list[str]:
    """For each query [M, D] the sense of the nearest of the training vectors [N, D]; `senses` are their N."""
    rank = {sense: number for number, sense in enumerate(by_frequency(senses))}
    order = sorted(range(len(senses)), key=lambda number: rank[senses[number]])
    return [senses[order[number]] for number in nearest(queries, train[order])]


def nearest(queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """The number of the key [K, D] with the greatest cosine to each query [M, D]; of equal ones (`TIE`) the first."""
    unit = _unit_rows(keys)
    found = [np.zeros(0, np.int64)]
    for block in _blocks(queries, max(1, _AT_ONCE // len(keys))):
        cosines = _unit_rows(block) @ unit.T
        found.append(np.argmax(cosines >= cosines.max(axis=1, keepdims=True) - TIE, axis=1))
    return np.concatenate(found)


def cosine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The cosines of rows of the same number, float64 [M]; 0 where one is all zeros."""
    return np.sum(_unit_rows(first) * _unit_rows(second), axis=1)


def _unit_rows(vectors: np.ndarray) -> np.ndarray:
    wide = vectors.astype(np.float64)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)


def _blocks(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (rows[start : start + size] for start in range(0, len(rows), size))
