"""The vectors of a text file's lines, written to a file; a stopped job goes on where it was."""

import logging
import shutil
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ctx_jax.data.text_files import Errors, LineReader
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.embedding.line_vectors import LineVectors
from ctx_jax.embedding.text_parts import TextParts, parts_folder, store_parts
from ctx_jax.embedding.vector_files import writer
from ctx_jax.io.errors import DiskError, ExistingFileError, MissingFileError
from ctx_jax.io.files import fsync, naming_full_disk
from ctx_jax.typing import Log

PARTIAL = ".partial"

_LOGGER = logging.getLogger("ctx_jax")


class Embedded(NamedTuple):
    """What `embed_file` wrote."""

    sentences: int
    shape: tuple[int, ...]
    """Of the vectors of all lines together: [M, D], or [L, M, D] of several layers."""


def embed_file(
    encoder: Encoder,
    source: str | Path,
    output: str | Path,
    *,
    level: Literal["words", "tokens", "sentence"] = "words",
    dtype: Literal["float32", "float16"] = "float32",
    errors: Errors = "strict",
    overwrite: bool = False,
    log: Log = _LOGGER.info,
    **settings: Any,
) -> Embedded:
    """Write the vectors of each line of a text to `output`, in the format of its suffix (`embedding.vector_files`).

        embed_file(load("elmo"), "text.txt.gz", "text.hdf5", layers="last")

    A line is a sentence, and an empty one an empty sentence. `source` may be .gz, .xz, .zst or "-", standard input.
    `settings` are those of `Encoder.encode`. Finished parts lie in `<output>.partial/` until `output` appears whole, so
    that the same call goes on where a stopped one was; disk space for both is needed.

    Raises ExistingFileError for an output that exists, and for a partial one of other settings, unless `overwrite`;
    InputError for another text than the partial one's, and for bytes that are not UTF-8, by line; OSError naming
    `output` for a full disk, which keeps the finished parts.
    """
    output = Path(output)
    write = writer(output)
    if output.is_dir() or (output.exists() and not overwrite):
        raise ExistingFileError(f"{output} exists: give a new name, or overwrite it")
    if not output.parent.is_dir():
        raise MissingFileError(f"{output}: there is no folder {output.parent}, make it first")
    reader = LineReader(source, errors)
    vectors = LineVectors(encoder, reader, log, level=level, dtype=dtype, **settings)
    stated = {**vectors.stated_settings(), "errors": errors}
    folder = output.with_name(output.name + PARTIAL)
    with (
        naming_full_disk(output, otherwise=f"give another place; what is done is kept in {folder}"),
        parts_folder(folder, stated, replace=overwrite),
    ):
        try:
            done = list(store_parts(folder, vectors.texts(), vectors.encode, dtype, replace=overwrite, log=log))
            parts = TextParts(done)
            if (free := shutil.disk_usage(output.parent).free) < parts.nbytes:
                needed = f"{parts.nbytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
                raise DiskError(f"{output} needs {needed}: make space there; what is done is kept in {folder}")
            log(f"writing {output}")
            assembled = folder / f"whole{output.suffix}"
            write(assembled, parts, level == "sentence", log)
            fsync(assembled)
            assembled.replace(output)
            fsync(output.parent)
        except BaseException:
            if any(path.name.isdecimal() for path in folder.iterdir()):
                log(f"what is done is kept in {folder}: the same command goes on from there")
            else:
                shutil.rmtree(folder)
            raise
    shutil.rmtree(folder)
    return Embedded(vectors.sentences, parts.shape)
