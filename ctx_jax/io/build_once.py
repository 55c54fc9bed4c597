"""Folders that several processes ask for, and one of them makes.

One that is there is checked first, side by side with others that ask; it may lie where nobody may write.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ctx_jax.io.atomic import leftovers, whole_folder


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
        for stale in leftovers(folder, name):  # we hold the lock
            shutil.rmtree(stale)
        with whole_folder(target) as building:
            build(building)
    return False


@contextmanager
def locked(path: Path, kind: int) -> Iterator[None]:
    """Holds a lock among processes, of a `kind` of `fcntl.flock`; the system lets go of it when its holder dies.

    BlockingIOError where `kind` has LOCK_NB and another process holds it.
    """
    with path.open("a") as file:
        fcntl.flock(file, kind)
        yield
