"""Folders that several processes need and one of them builds, and locks between processes."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ctx_jax.io.files import atomic_folder, leftovers


def build_once(
    target: Path,
    check: Callable[[Path], object],
    build: Callable[[Path], None],
    *,
    again: str,
    log: Callable[[str], object],
) -> bool:
    """Build the folder `target` unless an intact one exists; returns True if it existed.

    An existing build is verified under a shared lock, and read-only locations work too. `check` raises ValueError or
    FileNotFoundError if the folder it is given is damaged; `build` fills the empty one it is given. `again`, logged
    after the damage, says what happens then ("it is built again").
    """
    folder, name = target.parent, target.name

    def intact(log: Callable[[str], object]) -> bool:
        if not target.exists():
            return False
        try:
            check(target)
        except (ValueError, FileNotFoundError) as damage:
            log(f"{damage}; {again}")
            return False
        return True

    lock = folder / f".{name}.lock"
    if not os.access(folder if folder.exists() else folder.parent, os.W_OK) and intact(log):
        return True
    folder.mkdir(parents=True, exist_ok=True)
    with locked(lock, fcntl.LOCK_SH):
        if intact(lambda damage: None):
            return True
    with locked(lock, fcntl.LOCK_EX):
        if intact(log):  # another process built it while this one waited
            return True
        if target.exists():
            shutil.rmtree(target)
        for stale in leftovers(folder, name):  # nobody writes them: this process holds the lock
            shutil.rmtree(stale)
        with atomic_folder(target) as building:
            build(building)
    return False


@contextmanager
def locked(path: Path, kind: int) -> Iterator[None]:
    """Holds a file lock of a `kind` of `fcntl.flock`; the system releases it when the process dies.

    BlockingIOError if `kind` includes LOCK_NB and another process holds the lock.
    """
    with path.open("a") as file:
        fcntl.flock(file, kind)
        yield
