"""The vectors nearest to a query by cosine.

Letters: Q queries, N vectors, C those of a chunk, D width, k results a query.
"""

from collections.abc import Iterable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ctx_jax.io.errors import InputError

CHUNK_BYTES = 1 << 26
_SHORTEST = 1e-12  # the least length that a vector is divided by


def top_k(
    queries: np.ndarray | jax.Array, vectors: np.ndarray | Iterable[np.ndarray], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k vectors nearest to each query by cosine: scores float32 [Q, k], best first, and their indices int64 [Q, k].

        scores, indices = top_k(encoder.encode_array(["a bank"]), corpus, 5)

    queries [Q, D]; vectors [N, D], or chunks of them in order, [C, D] each, of which one at a time is held in memory.
    Of equal scores the lower index comes first. A vector 0 has the cosine 0. With fewer than k vectors k is N.
    """
    queries = np.asarray(queries, np.float32)
    if queries.ndim != 2 or k < 1:
        raise InputError(f"top_k needs queries [Q, D] and k of at least 1, got {queries.shape} and k={k}")
    scores: np.ndarray = np.zeros((len(queries), 0), np.float32)
    indices: np.ndarray = np.zeros((len(queries), 0), np.int64)
    first = 0
    for chunk in _pieces(vectors, *queries.shape):
        size = 1 << (len(chunk) - 1).bit_length()  # few shapes
        padded = np.zeros((size, chunk.shape[1]), np.float32)
        padded[: len(chunk)] = chunk
        found, places = _nearest(queries, padded, np.int32(len(chunk)), min(k, size))
        kept = min(k, len(chunk))
        scores = np.concatenate([scores, np.asarray(found)[:, :kept]], axis=1)
        indices = np.concatenate([indices, first + np.asarray(places, np.int64)[:, :kept]], axis=1)
        # Stable, and earlier chunks stand first: the lower of equal indices is kept.
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores, indices = (np.take_along_axis(array, order, axis=1) for array in (scores, indices))
        first += len(chunk)
    return scores, indices


@partial(jax.jit, static_argnums=3)
def _nearest(queries: jax.Array, chunk: jax.Array, count: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    unit = [array / jnp.maximum(jnp.linalg.norm(array, axis=1, keepdims=True), _SHORTEST) for array in (queries, chunk)]
    scores = jnp.einsum("qd,cd->qc", *unit, precision=jax.lax.Precision.HIGHEST)
    real = jnp.arange(len(chunk), dtype=jnp.int32)[None, :] < count
    found, places = jax.lax.top_k(jnp.where(real, scores, -jnp.inf), k)  # of equal scores the lower index first
    return found, places


def _pieces(vectors: np.ndarray | Iterable[np.ndarray], queries: int, width: int) -> Iterator[np.ndarray]:
    """Chunks [C, D] of bounded size: of the vectors, and of their scores."""
    most = 1 << max(0, (CHUNK_BYTES // (4 * max(1, queries, width))).bit_length() - 1)
    for chunk in [vectors] if isinstance(vectors, np.ndarray) else vectors:
        if chunk.ndim != 2 or chunk.shape[1] != width:
            raise InputError(f"queries have {width} numbers each, vectors must be [N, {width}], got {chunk.shape}")
        yield from (chunk[start : start + most] for start in range(0, len(chunk), most))
