"""The vectors of a text's lines, computed in parts that are kept on disk: what was stopped goes on with the next part.

    <folder>/
      settings.json    what the vectors depend on besides the text
      0/ 1/ ...        neighbouring lines (`data.array_folder`)
        vectors.bin    [L, M, D] or [M, D]: the M words, tokens or sentences of these lines one after the other
        offsets.bin    int64 [N + 1], the first of each line's vectors
        text.bin       the lines themselves, UTF-8, between line ends

Which lines make a part depends on text and settings alone, and each part is encoded by a call of its own, so that a
stopped and resumed job computes what an uninterrupted one does.

Letters: L layers, N lines of a part, M their words or tokens, T those of one line, D width.
"""

import fcntl
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ctx_jax.data.array_folder import ArrayWriter, build_arrays, open_arrays
from ctx_jax.io.build_once import locked
from ctx_jax.io.errors import ExistingFileError, InputError, RunError, brief
from ctx_jax.io.files import atomic_write
from ctx_jax.io.sealed_json import read_sealed, sealed_text
from ctx_jax.typing import Log

VERSION = 1  # of the layout above
SETTINGS = "settings.json"
PART_LINES = 1 << 12  # what a stopped job does again: two minutes of a BERT-base on two CPU cores
PART_CHARACTERS = 1 << 20
PART_BYTES = 1 << 27  # of vectors, estimated before they are computed
_CHARACTERS = 4  # of a word or token, for that estimate
_LOCK = ".lock"

Encode = Callable[[list[str]], Iterator[np.ndarray]]
"""One array a line: [L, T, D] or [T, D]; T = 1 where a line has one vector."""


class Part(NamedTuple):
    """Some neighbouring lines."""

    texts: list[str]
    vectors: np.ndarray  # [L, M, D] or [M, D], memory-mapped
    offsets: np.ndarray  # int64 [N + 1]

    def lines(self) -> Iterator[np.ndarray]:
        """The vectors of each line: [L, T, D] or [T, D]."""
        for start, stop in zip(self.offsets[:-1], self.offsets[1:], strict=True):
            yield self.vectors[..., start:stop, :]


class TextParts:
    """All parts of a text, in order."""

    def __init__(self, folders: list[Path]) -> None:
        self.folders = folders
        shapes = [open_arrays(folder).facts["shape"] for folder in folders]
        self.shape: tuple[int, ...] = (*shapes[0][:-2], sum(shape[-2] for shape in shapes), shapes[0][-1])
        """Of all vectors together."""

    def __iter__(self) -> Iterator[Part]:
        return map(read_part, self.folders)

    @property
    def dtype(self) -> np.dtype:
        return open_arrays(self.folders[0]).arrays["vectors"].dtype

    @property
    def nbytes(self) -> int:
        """Bytes of all vectors."""
        return int(np.prod(self.shape)) * self.dtype.itemsize


def read_part(folder: Path) -> Part:
    """One part of `store_parts`."""
    arrays, _, facts = open_arrays(folder)
    return Part(_texts(arrays), arrays["vectors"].reshape(facts["shape"]), arrays["offsets"])


@contextmanager
def parts_folder(folder: Path, settings: Mapping[str, Any], *, replace: bool) -> Iterator[Path]:
    """The folder, locked, for parts that depend on `settings` (JSON). Parts of other settings are removed with
    `replace`; else ExistingFileError names the settings that differ. RunError while another process has it."""
    settings = {"layout": VERSION, "part": [PART_LINES, PART_CHARACTERS, PART_BYTES], **settings}
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder / _LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB):
            _begin(folder, settings, replace)
            yield folder
    except BlockingIOError as error:
        raise RunError(f"another process is writing {folder}: wait for it, or name another place") from error


def _begin(folder: Path, settings: dict[str, Any], replace: bool) -> None:
    path = folder / SETTINGS
    names = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
    if path.exists():
        try:
            before = read_sealed(path)
        except InputError:
            if not replace:
                raise
            before = {}
        differing = [name for name in {**before, **settings} if before.get(name) != settings.get(name)]
        if not differing:
            return
        if not replace:
            shown = [f"{name} ({brief(before.get(name))}, now {brief(settings.get(name))})" for name in differing]
            raise ExistingFileError(
                f"{folder} was begun with other settings: {', '.join(shown)}. Give those again to go on, or overwrite "
                "to begin anew"
            )
        for name in names:
            if name.isdecimal():
                shutil.rmtree(folder / name)
    elif names:
        raise ExistingFileError(f"{folder} holds other files ({', '.join(sorted(names)[:4])}): give a new name")
    atomic_write(path, sealed_text(settings))


def store_parts(
    folder: Path, texts: Iterable[list[str]], encode: Encode, dtype: str, *, replace: bool, log: Log
) -> Iterator[Path]:
    """The folder of each part, computed if it is not there yet; `texts` is from `in_parts`.

    A part of another text is computed anew with `replace`; else InputError says which lines differ. So are parts
    behind the last.
    """
    number = first = 0
    for number, lines in enumerate(texts, start=1):
        target = folder / str(number - 1)
        build = partial(
            build_arrays,
            target,
            {"vectors": np.dtype(dtype), "offsets": np.dtype(np.int64), "text": np.dtype(np.uint8)},
            partial(_write, lines, encode),
            again="computing it again",
            log=log,
        )
        if build() and _texts(open_arrays(target).arrays) != lines:
            if not replace:
                raise InputError(
                    f"the input differs from that which {folder} was begun with, in the lines {first + 1} to "
                    f"{first + len(lines)}: give the same one to go on, or overwrite to begin anew"
                )
            shutil.rmtree(target)
            build()
        yield target
        first += len(lines)
    beyond = [path for path in folder.iterdir() if path.name.isdecimal() and int(path.name) >= number]
    if beyond and not replace:
        raise InputError(
            f"the input ends at line {first}, and that which {folder} was begun with has more: give the same one, or "
            "overwrite to begin anew"
        )
    for path in beyond:
        shutil.rmtree(path)


def in_parts(lines: Iterable[str], line_bytes: int, item_bytes: int) -> Iterator[list[str]]:
    """The lines of each part; `line_bytes` and `item_bytes` are those of the vectors of a line, and of each of its
    words or tokens."""
    taken: list[str] = []
    characters = size = 0
    for line in lines:
        taken.append(line)
        characters += len(line)
        size += line_bytes + item_bytes * (len(line) // _CHARACTERS + 1)
        if len(taken) >= PART_LINES or characters >= PART_CHARACTERS or size >= PART_BYTES:
            yield taken
            taken, characters, size = [], 0, 0
    if taken:
        yield taken


def _write(lines: list[str], encode: Encode, writer: ArrayWriter) -> None:
    arrays = list(encode(lines))
    vectors = np.concatenate(arrays, axis=-2)
    writer.append("vectors", vectors)
    writer.append("offsets", np.cumsum([0, *(array.shape[-2] for array in arrays)]))
    writer.append("text", "\n".join(lines).encode())
    writer.facts["shape"] = list(vectors.shape)


def _texts(arrays: Mapping[str, np.ndarray]) -> list[str]:
    return arrays["text"].tobytes().decode().split("\n")
