"""How the C library's allocator treats freed memory.

XLA takes the temporary memory of each step on a CPU from malloc. By default glibc maps such blocks anew every time, and
the kernel clears every page of them. Blocks of any size can be kept by the first arena alone, so all threads have to
share it, and a thread stays with the arena of its first allocation: `share_one_arena` comes before XLA starts its
threads, that is before the first call that asks for devices, and `keep_freed_memory` once the device is known to be a
CPU.

Steps of several shapes leave holes of several sizes, between which others stay, so that together they may hold several
times the memory of the largest step: `KeptMemory` gives it back where that is much of the machine's.
"""

import ctypes
import os
from pathlib import Path

# <malloc.h> of glibc
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_STATISTICS, _CONTAINER = Path("/proc/self/statm"), Path("/sys/fs/cgroup/memory.max")


def share_one_arena(shared: bool = True) -> bool:
    """Let threads that start from now on allocate from the first arena, or each from one of its own again, as is the C
    library's default; whether it can be told so (glibc)."""
    return _set((_ARENA_MAX, int(shared)))


def keep_freed_memory() -> bool:
    """Let the process keep the memory that it frees, for its next allocation; whether the C library can (glibc). For
    the rest of the process."""
    return _set((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1))


class KeptMemory:
    """Gives freed memory back to the system when the process holds much."""

    def __init__(self, limit: int | None = None) -> None:
        """`limit`: bytes that the process may hold before; None: half of what the machine, or the container, has."""
        self._limit = limit or machine_memory() // 2
        self._spare = self._limit // 2

    def give_back(self) -> bool:
        """Return what is free, if the process holds more than the limit; whether it did. What is in use and above
        the limit raises it, so that this is not tried at every step."""
        if resident_memory() <= self._limit or not (trimmed := _trim()):
            return False
        self._limit = max(self._limit, resident_memory() + self._spare)
        return trimmed


def machine_memory() -> int:
    """Bytes of the machine, or of the container if that has less."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(found, int(_CONTAINER.read_text()))
    except (OSError, ValueError):  # no container, or "max"
        return found


def resident_memory() -> int:
    """Bytes that the process holds; 0 where the system does not say (other than Linux)."""
    try:
        return int(_STATISTICS.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _trim() -> bool:
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (AttributeError, OSError, TypeError):  # another C library
        return False


def _set(*options: tuple[int, int]) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return all(mallopt(option, value) for option, value in options)
