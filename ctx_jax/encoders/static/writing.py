"""Write a table as word2vec's or GloVe's text, or as word2vec's binary.

Letters: V words of the table, D width.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctx_jax.encoders.static.inputs import check_words
from ctx_jax.encoders.static.reading import holds_numbers
from ctx_jax.io.errors import InputError
from ctx_jax.io.files import atomic_binary_file

_ROWS = 1024  # written at once


def write_text(path: str | Path, words: Sequence[str], vectors: Any, *, header: bool = True) -> None:
    """Write vectors [V, D] as lines "word 0.25 -1.5", after a line "V D" if `header` (word2vec, fastText) or without it
    (GloVe). Numbers have 9 digits, so that reading gives the same float32. The file appears atomically.

    InputError, naming the word, for words that could not be read back: empty, twice, with a line end, with white space
    at an end, with NUL, or with a last part after a space that looks like a number of the vector; without a header any
    part after a space.
    """
    vectors = _checked(Path(path), words, vectors)
    for word in words:
        unread = holds_numbers(word.encode().split(), header=header) or "\r" in word or "\0" in word
        if unread or word.encode().strip() != word.encode():
            raise InputError(f"{path}: the word {word!r} cannot be told from the numbers after it: leave it out")
    line = "%s" + " %.9g" * vectors.shape[1] + "\n"
    with atomic_binary_file(Path(path)) as file:
        if header:
            file.write(f"{len(vectors)} {vectors.shape[1]}\n".encode())
        for first, rows in _parts(vectors):
            own = words[first : first + _ROWS]
            file.write("".join(line % (word, *row) for word, row in zip(own, rows.tolist(), strict=True)).encode())


def write_binary(path: str | Path, words: Sequence[str], vectors: Any) -> None:
    """Write vectors [V, D] in word2vec's binary format: "V D", then each word, a space, D little-endian float32 and a
    line end. The file appears atomically.

    InputError, naming the word, for words that could not be read back: empty, twice, or with a space or a line end.
    """
    vectors = _checked(Path(path), words, vectors)
    if spaced := [word for word in words if " " in word or word.encode().strip() != word.encode()]:
        raise InputError(f"{path}: a space ends a word in word2vec's binary format, got {spaced[0]!r}: write text")
    with atomic_binary_file(Path(path)) as file:
        file.write(f"{len(vectors)} {vectors.shape[1]}\n".encode())
        for first, rows in _parts(vectors):
            own = words[first : first + _ROWS]
            file.write(
                b"".join(b"%s %s\n" % (word.encode(), row.tobytes()) for word, row in zip(own, rows, strict=True))
            )


def _checked(path: Path, words: Sequence[str], vectors: Any) -> np.ndarray:
    """The vectors as a matrix, if words and vectors can be written at all."""
    if path.suffix in (".gz", ".xz", ".zip"):
        raise InputError(f"{path}: tables are written plain: leave {path.suffix} out, and compress the file")
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or len(vectors) != len(words) or not vectors.shape[1]:
        raise InputError(f"{path}: {len(words)} words need vectors [{len(words)}, D], got shape {vectors.shape}")
    try:
        check_words(words)
        "".join(words).encode()
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    for first, rows in _parts(vectors):
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            word = words[first + int(np.argmin(finite))]
            raise InputError(f"{path}: the vector of {word!r} holds NaN or infinity, or a number beyond float32")
    return vectors


def _parts(vectors: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, float32 rows) in turn."""
    for first in range(0, len(vectors), _ROWS):
        with np.errstate(over="ignore"):  # an infinity, which is refused
            yield first, vectors[first : first + _ROWS].astype("<f4")
