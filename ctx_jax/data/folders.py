"""Folders and files that are there whole or not at all, whoever asks for them and wherever a process is killed.

Each is made under another name beside its place and renamed. A folder that several processes ask for is made by one of
them. One that is there is checked first, side by side with others that ask; it may lie where nobody may write.
"""

import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """A temporary folder beside `folder` to write into; left without an error it takes that name, else it is removed.

    Raises FileExistsError where `folder` exists and is not empty, naming what it holds.
    """
    folder = Path(folder).resolve()
    if folder.exists():
        held = sorted(path.name for path in folder.iterdir())[:4] if folder.is_dir() else [folder.name]
        if held:
            raise FileExistsError(f"{folder} exists and is not empty ({', '.join(held)}): give a new folder")
    partial = _partial(folder)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """A new text file beside `path`; left without an error it takes that name, else it is removed."""
    partial = _partial(path)
    try:
        with partial.open("x", encoding="utf-8") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}")


def find_or_build(
    target: Path,
    check: Callable[[Path], object],
    build: Callable[[Path], None],
    *,
    again: str,
    report: Callable[[str], None],
) -> bool:
    """Has `target` built unless an intact one is there; returns whether it was.

    Args:
      check: raises ValueError or FileNotFoundError where the folder it is given is not what was built.
      build: fills the empty folder it is given.
      again: what is done about a damaged one, which `report` hears of behind the damage.
    """
    folder, name = target.parent, target.name

    def intact(say: Callable[[str], None]) -> bool:
        if not target.exists():
            return False
        try:
            check(target)
        except (ValueError, FileNotFoundError) as damage:
            say(f"{damage}; {again}")
            return False
        return True

    lock = folder / f".{name}.lock"
    if not os.access(folder if folder.exists() else folder.parent, os.W_OK) and intact(report):
        return True
    folder.mkdir(parents=True, exist_ok=True)
    with locked(lock, fcntl.LOCK_SH):
        if intact(lambda damage: None):
            return True
    with locked(lock, fcntl.LOCK_EX):
        if intact(report):  # another process built it while we waited
            return True
        if target.exists():
            shutil.rmtree(target)
        for stale in folder.glob(f".{name}.partial-*"):  # of a process that was killed: we hold the lock
            shutil.rmtree(stale)
        with whole_folder(target) as building:
            build(building)
    return False


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(path: Path, kind: int) -> Iterator[None]:
    """Holds a lock among processes, of a `kind` of `fcntl.flock`; the system lets go of it when its holder dies.

    BlockingIOError where `kind` has LOCK_NB and another process holds it.
    """
    with path.open("a") as file:
        fcntl.flock(file, kind)
        yield
