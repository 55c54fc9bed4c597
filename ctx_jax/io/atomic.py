"""Folders and files that are there whole or not at all, wherever a process is killed or the power fails.

Each is made under another name beside its place, forced to disk and renamed.
"""

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from ctx_jax.io.errors import ExistingFileError


@contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """A temporary folder beside `folder` to write into; left without an error it takes that name, else it is removed.

    Raises FileExistsError where `folder` exists and is not empty, naming what it holds.
    """
    folder = Path(folder).resolve()
    if folder.exists():
        held = sorted(path.name for path in folder.iterdir())[:4] if folder.is_dir() else [folder.name]
        if held:
            raise ExistingFileError(f"{folder} exists and is not empty ({', '.join(held)}): give a new folder")
    partial = _partial(folder)
    try:
        with naming_full_disk(folder):
            partial.mkdir(parents=True)
            yield partial
            for path in (*partial.rglob("*"), partial):
                to_disk(path)
            _take_name(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """A new text file beside `path`; left without an error it takes that name, else it is removed."""
    partial = _partial(path)
    try:
        with naming_full_disk(path):
            with partial.open("x", encoding="utf-8", newline="") as file:  # line ends as they are given
                yield file
            to_disk(partial)
            _take_name(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def naming_full_disk(path: Path, *, otherwise: str = "") -> Iterator[None]:
    """Errors of a disk without space, which name no file, name `path`, and what to do `otherwise`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            advice = "a limit on files is set there" if error.errno == errno.EFBIG else "make space there"
            advice += f", or {otherwise}" if otherwise else ""
            raise OSError(error.errno, f"{os.strerror(error.errno)}: {advice}", str(path)) from error
        raise


def write_whole(path: Path, text: str) -> None:
    """Write a file's text: whoever looks sees the old file or all of the new one."""
    with whole_file(path) as file:
        file.write(text)


def leftovers(folder: Path, name: str) -> list[Path]:
    """What killed processes left of a file or folder of that `name` (a glob); none may be at work on it now."""
    return sorted(folder.glob(f".{name}.partial-*"))


def to_disk(path: Path) -> None:
    """Force what was written to a file, or a folder's list of names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}")


def _take_name(partial: Path, path: Path) -> None:
    partial.replace(path)
    to_disk(path.parent)
