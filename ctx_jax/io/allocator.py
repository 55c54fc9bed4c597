"""How the C library's allocator treats freed memory.

XLA takes the temporary memory of each step on a CPU from malloc. By default glibc maps such blocks anew every time, and
the kernel clears every page of them. Blocks of any size can be kept by the first arena alone, so all threads have to
share it, and a thread stays with the arena of its first allocation: `share_one_arena` comes before XLA starts its
threads, that is before the first call that asks for devices, and `keep_freed_memory` once the device is known to be a
CPU.
"""

import ctypes

# <malloc.h> of glibc
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def share_one_arena(shared: bool = True) -> bool:
    """Let threads that start from now on allocate from the first arena, or each from one of its own again, as is the C
    library's default; whether it can be told so (glibc)."""
    return _set((_ARENA_MAX, int(shared)))


def keep_freed_memory() -> bool:
    """Let the process keep the memory that it frees, for its next allocation; whether the C library can (glibc). For
    the rest of the process."""
    return _set((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1))


def _set(*options: tuple[int, int]) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return all(mallopt(option, value) for option, value in options)
