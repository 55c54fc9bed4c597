"""An index of a text: one vector a line, kept on disk and searched by cosine.

    <corpus>.index/vectors-<key>/    parts of the text (`text_parts`); the key is a digest of encoder and settings
      index.json                     the corpus's SHA-256 and the number of parts; written last

Letters: Q queries, N lines, D width, k results a query.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ctx_jax.data.array_folder import folder_name, open_arrays
from ctx_jax.data.text_files import STANDARD_INPUT, Errors, LineReader
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.embedding.line_vectors import LineVectors
from ctx_jax.embedding.search import top_k
from ctx_jax.embedding.similarity import document_prompt
from ctx_jax.embedding.text_parts import Part, TextParts, parts_folder, read_part, store_parts
from ctx_jax.io.errors import InputError
from ctx_jax.io.files import atomic_write, file_digest, naming_full_disk
from ctx_jax.io.sealed_json import read_sealed, sealed_text
from ctx_jax.typing import Log

FOLDER = ".index"
COMPLETE = "index.json"

_LOGGER = logging.getLogger("ctx_jax")


class Hit(NamedTuple):
    """A line of a text that is near to a query."""

    score: float
    """The cosine."""
    line: int
    """Its number, from 1."""
    text: str


class TextIndex:
    """The lines of a text and their vectors. Blank lines are never found."""

    def __init__(self, parts: TextParts) -> None:
        self._parts = parts
        self._starts: list[tuple[int, int]] = []  # of each part: the lines and the filled lines before it

    def search(self, queries: np.ndarray, k: int) -> list[list[Hit]]:
        """The k lines nearest to each of the queries [Q, D], best first; fewer if the text has fewer."""
        scores, indices = top_k(queries, self._vectors(), k)
        return [[self._hit(*pair) for pair in zip(*row, strict=True)] for row in zip(scores, indices, strict=True)]

    def _vectors(self) -> Iterator[np.ndarray]:
        """[C, D] of the lines of each part that are not blank."""
        self._starts = []
        lines = filled = 0
        for part in self._parts:
            self._starts.append((lines, filled))
            kept = _filled(part)
            yield part.vectors if len(kept) == len(part.texts) else part.vectors[kept]
            lines, filled = lines + len(part.texts), filled + len(kept)

    def _hit(self, score: float, index: int) -> Hit:
        number = int(np.searchsorted([filled for _, filled in self._starts], index, side="right")) - 1
        part = read_part(self._parts.folders[number])
        lines, filled = self._starts[number]
        line = int(_filled(part)[index - filled])
        return Hit(float(score), lines + line + 1, part.texts[line])


def open_index(
    encoder: Encoder,
    corpus: str | Path,
    folder: str | Path | None = None,
    *,
    errors: Errors = "strict",
    log: Log = _LOGGER.info,
    **settings: Any,
) -> TextIndex:
    """The index of a text with a sentence a line, in `folder` (default: `<corpus>.index`); built unless it is there.

        index = open_index(encoder, "text.txt")
        index.search(encoder.encode_array(["a bank"]), 5)     # [[Hit, Hit, ...]]

    `settings` are those of `Encoder.encode` for the lines. Without a prompt or the name of one, it is the folder's for
    documents, if it has one. An index that was stopped, or whose text has changed, is built anew as far as it has to
    be; `log` gets a line that says what is done. Raises as `embed_file`.
    """
    if str(corpus) == STANDARD_INPUT:
        raise InputError("an index is of a file, which it lies beside: give the file's name instead of -")
    corpus = Path(corpus)
    reader = LineReader(corpus, errors)
    if settings.get("prompt") is None and settings.get("prompt_name") is None:
        settings["prompt_name"] = document_prompt(encoder)
    vectors = LineVectors(encoder, reader, log, level="sentence", dtype="float32", **settings)
    stated = {**vectors.stated_settings(), "errors": errors}
    place = corpus.with_name(corpus.name + FOLDER) if folder is None else Path(folder)
    target = place / folder_name("vectors", stated)
    digest = file_digest(corpus)
    if (found := _complete(target, digest, log)) is not None:
        log(f"using the index {target}")
        return TextIndex(found)
    log(f"building the index {target}")
    with naming_full_disk(target, otherwise="name another folder"), parts_folder(target, stated, replace=True):
        (target / COMPLETE).unlink(missing_ok=True)
        done = list(store_parts(target, vectors.texts(), vectors.encode, "float32", replace=True, log=log))
        atomic_write(target / COMPLETE, sealed_text({"corpus": digest, "parts": len(done)}))
    return TextIndex(TextParts(done))


def _complete(target: Path, digest: str, log: Log) -> TextParts | None:
    """The parts of an intact index of a corpus with this digest."""
    if not (target / COMPLETE).exists():
        return None
    try:
        facts = read_sealed(target / COMPLETE)
        if facts["corpus"] != digest:
            log(f"the text has changed since {target} was built")
            return None
        folders = [target / str(number) for number in range(facts["parts"])]
        for folder in folders:
            open_arrays(folder, hashed=True)
    except (InputError, FileNotFoundError) as damage:
        log(f"{damage}")
        return None
    return TextParts(folders)


def _filled(part: Part) -> np.ndarray:
    """The numbers of a part's lines that are not blank."""
    return np.flatnonzero([bool(text.strip()) for text in part.texts])
