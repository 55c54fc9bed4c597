"""Correlations of scores with gold scores. Letters: N pairs of scores."""

import numpy as np
from numpy.typing import ArrayLike

from ctx_jax.io.errors import InputError


def pearson(first: ArrayLike, second: ArrayLike) -> float:
    """Pearson's correlation of two lists of N numbers; NaN if one of them is constant or has a NaN."""
    columns = [np.asarray(values, np.float64) for values in (first, second)]
    if columns[0].ndim != 1 or columns[0].shape != columns[1].shape or len(columns[0]) < 2:
        raise InputError(f"a correlation needs two lists of 2 or more numbers, got {[c.shape for c in columns]}")
    if any((column == column[0]).all() for column in columns):  # its rounded mean may be another number
        return float("nan")
    centred = [column - column.mean() for column in columns]
    scale = np.sqrt(np.prod([np.sum(np.square(column)) for column in centred]))
    return float(np.sum(centred[0] * centred[1]) / scale) if scale else float("nan")


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Spearman's correlation: Pearson's of the ranks, of which equal numbers share the mean; NaN as of `pearson`."""
    if any(np.isnan(np.asarray(values, np.float64)).any() for values in (first, second)):  # they have no rank
        return float("nan")
    return pearson(_ranks(first), _ranks(second))


def _ranks(values: ArrayLike) -> np.ndarray:
    _, which, counts = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[which]
