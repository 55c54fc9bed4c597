"""A folder of files that is there whole or not at all, whoever asks for it and wherever a process is killed.

One process builds it under another name beside its place and renames it. One that is there is checked first, side by
side with others that ask; it may lie where nobody may write.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_TEMPORARY = ".building-"


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
        for stale in folder.glob(f"{_TEMPORARY}{name}-*"):  # of a process that was killed: we hold the lock
            shutil.rmtree(stale)
        building = Path(tempfile.mkdtemp(prefix=f"{_TEMPORARY}{name}-", dir=folder))
        try:
            build(building)
            building.rename(target)
        except BaseException:
            shutil.rmtree(building)
            raise
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
