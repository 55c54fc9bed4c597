"""Tables of word vectors in other programs' files: read one, write one.

Letters: V words of the table, D width.
"""

import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np

from ctx_jax.encoders.base import Imported
from ctx_jax.encoders.facts import Facts
from ctx_jax.encoders.static.inputs import StaticInputs, UnknownWords
from ctx_jax.encoders.static.layouts import is_table, layout_of
from ctx_jax.encoders.static.model import StaticTable
from ctx_jax.encoders.static.reading import read_table
from ctx_jax.encoders.static.sources import opened
from ctx_jax.encoders.static.writing import write_binary, write_text
from ctx_jax.io.errors import InputError, InputTypeError
from ctx_jax.io.files import atomic_folder

TEXT, BINARY = "table.vec", "table.bin"


def read(path: str | Path, *, lowercase: bool = False, unknown: UnknownWords = "zero") -> Imported | None:
    """The encoder of a file of word vectors; None for a folder and for a file of another kind.

    GloVe's text, word2vec's text and binary, fastText's `.vec`; plain, gzip, xz, or a zip archive of one member, which
    `glove.zip/glove.6B.50d.txt` names if there are several. The content decides, not the name.

    Args:
      lowercase: lower-case the words of a text before they are looked up; the table stays as it is.
      unknown: the vector of words that the table does not have: "zero", "mean" (of the table's rows), or "error".

    Raises:
      InputError, naming the file, the line or entry, and the word: a header whose number of words or width is not the
        file's, a width that changes, a word twice, a number that is none or not finite, text that is not UTF-8, a
        binary file cut short or with bytes left over, a damaged archive, an empty file, fastText's own `.bin`.
    """
    if unknown not in get_args(UnknownWords):
        raise InputError(f"unknown must be one of {', '.join(get_args(UnknownWords))}, got {unknown!r}")
    if not isinstance(lowercase, bool):
        raise InputTypeError(f"lowercase must be True or False, got {lowercase!r}")
    with opened(Path(path), is_table) as source:
        if source is None:
            return None
        if not source.prefix:
            raise InputError(f"{source.name} is empty: it holds no word vectors")
        if (layout := layout_of(source)) is None:
            return None
        words, vectors = read_table(source, layout)
    if unknown == "mean":
        vectors[-1] = _mean(vectors)
    processor = StaticInputs(words, lowercase=lowercase, unknown=unknown)
    model = StaticTable(len(words), layout.width, lowercase, unknown, processor.words_digest)
    table = jax.device_put(vectors, may_alias=True)  # on a CPU the array itself, not a copy
    return Imported(model, {"words": {"embedding": table}}, processor, {})


def facts(path: Path) -> Facts | None:
    """How a file of word vectors is laid out; None for a folder, and for a path where nothing is."""
    file = next((place for place in (path, *path.parents) if place.is_file()), None)
    if file is None:
        return None

    def layout() -> dict[str, Any] | None:
        with opened(path, is_table) as source:
            found = None if source is None else layout_of(source)
        return None if found is None else asdict(found)

    return {
        "format": lambda: "word vectors" if layout() else None,
        "layout": layout,
        "files": lambda: [file.name],
    }


def write_folder(folder: Path, encoder: Imported, run_dir: Path) -> None:
    """Write `table.vec` (text with a header) and `table.bin` (word2vec's binary) into a new folder.

    A warning says what they cannot hold: heads, a vector of unknown words that was trained, and in `table.bin` words
    with spaces, for which it is left out.
    """
    model, processor, heads = encoder.model, encoder.processor, encoder.heads
    assert isinstance(processor, StaticInputs)
    vectors = np.asarray(encoder.params["words"]["embedding"], np.float32)
    words = processor.words
    if heads:
        warnings.warn(f"a table of word vectors holds no heads, left out: {', '.join(heads)}", stacklevel=2)
    initial = _mean(vectors) if model.unknown == "mean" else np.zeros(model.dim, np.float32)
    if not np.allclose(vectors[-1], initial, rtol=1e-5, atol=1e-7):
        warnings.warn("the trained vector of unknown words has no place in the files: left out", stacklevel=2)
    with atomic_folder(folder) as partial:
        write_text(partial / TEXT, words, vectors[:-1])
        if any(" " in word for word in words):
            warnings.warn(f"{BINARY} cannot hold words with spaces: only {TEXT} is written", stacklevel=2)
        else:
            write_binary(partial / BINARY, words, vectors[:-1])


def _mean(vectors: np.ndarray) -> np.ndarray:
    """The mean [D] of all rows but the last."""
    return vectors[:-1].mean(axis=0, dtype=np.float64).astype(np.float32)
