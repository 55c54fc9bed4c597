"""Files and folders that appear complete or not at all, temporary folders, JSON objects, digests.

An atomic file or folder is written under another name beside its place, fsynced and renamed, so that neither a killed
process nor a power failure leaves a partial one.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from ctx_jax.io.errors import ExistingFileError, InputError, MissingFileError

DEEPEST = 200  # lists and objects within each other in a JSON file


@contextmanager
def atomic_folder(folder: str | Path) -> Iterator[Path]:
    """A temporary folder beside `folder` to write into; renamed to `folder` on success, removed on an error.

    Raises ExistingFileError if `folder` exists and is not empty, and names what it holds.
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
                fsync(path)
            _rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def atomic_file(path: Path) -> Iterator[TextIO]:
    """A temporary text file beside `path` to write into; renamed to `path` on success, removed on an error."""
    # Line ends are written as given.
    with _renamed(path) as partial, partial.open("x", encoding="utf-8", newline="") as file:
        yield file


@contextmanager
def atomic_binary_file(path: Path) -> Iterator[BinaryIO]:
    """As `atomic_file`, for bytes."""
    with _renamed(path) as partial, partial.open("xb") as file:
        yield file


@contextmanager
def naming_full_disk(path: Path, *, otherwise: str = "") -> Iterator[None]:
    """Adds `path` and advice, which may end with `otherwise`, to the OSError of a full disk, which names no file."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            advice = "a limit on files is set there" if error.errno == errno.EFBIG else "make space there"
            advice += f", or {otherwise}" if otherwise else ""
            raise OSError(error.errno, f"{os.strerror(error.errno)}: {advice}", str(path)) from error
        raise


def atomic_write(path: Path, text: str) -> None:
    """Replace a file's text atomically: a reader sees the old text or all of the new one."""
    with atomic_file(path) as file:
        file.write(text)


def leftovers(folder: Path, name: str) -> list[Path]:
    """The partial files or folders that killed processes left of `name` (a glob). Call it while nobody writes them."""
    return sorted(folder.glob(f".{name}.partial-*"))


def fsync(path: Path) -> None:
    """fsync a file, or a folder's list of names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def temporary_folder(purpose: str) -> Iterator[Path]:
    """A new folder among the system's temporary files, removed at exit. The error of a full disk mentions TMPDIR."""
    place = tempfile.gettempdir()
    with (
        naming_full_disk(Path(place), otherwise="set TMPDIR to a folder on another disk"),
        tempfile.TemporaryDirectory(prefix=f"ctx-jax-{purpose}-", dir=place) as folder,
    ):
        yield Path(folder)


def read_text(path: Path) -> str:
    """The text of a UTF-8 file with its line ends. MissingFileError; InputError naming the line that is not UTF-8."""
    try:
        content = path.read_bytes()
        return content.decode()
    except FileNotFoundError as error:
        raise MissingFileError(f"{path}: No such file") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: not UTF-8 ({error.reason}); save the file as UTF-8") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds; InputError naming the file if it is not JSON, nested hundreds of levels deep,
    or not an object. NaN and infinity pass, as in Python's own reader: whoever reads a number checks it."""
    content = _json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object, got a {type(content).__name__}")
    return content


def read_json_list(path: Path) -> list[Any]:
    """The list that a JSON file holds; InputError as `read_json`."""
    content = _json(path)
    if not isinstance(content, list):
        raise InputError(f"{path} must hold a JSON list, got a {type(content).__name__}")
    return content


def _json(path: Path) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not _is_shallow(content):  # how deep Python itself reads depends on its version
            raise RecursionError
        return content
    except RecursionError as error:
        raise InputError(f"{path} is nested too deep to be read: copy the file again") from error
    except ValueError as error:  # no JSON, no UTF-8, or an integer of more than 4,300 digits
        raise InputError(f"{path} is not JSON ({error}): copy the file again") from error


def _is_shallow(content: Any) -> bool:
    """Whether lists and objects lie at most `DEEPEST` within each other."""
    level = [content]
    for _ in range(DEEPEST):
        level = [
            inner
            for each in level
            if isinstance(each, list | dict)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return True
    return False


def is_same(path: Path, before: os.stat_result) -> bool:
    """Whether a path still names the file or folder that it named when `before` was its `stat`."""
    try:
        return os.path.samestat(path.stat(), before)
    except FileNotFoundError:
        return False


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _renamed(path: Path) -> Iterator[Path]:
    """The name of a file to write; forced to disk and renamed to `path` on success, removed on an error."""
    partial = _partial(path)
    try:
        with naming_full_disk(path):
            yield partial
            fsync(partial)
            _rename(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}")


def _rename(partial: Path, path: Path) -> None:
    partial.replace(path)
    fsync(path.parent)
