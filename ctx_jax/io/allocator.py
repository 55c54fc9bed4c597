"""How the C library's allocator treats freed memory."""

import ctypes

# <malloc.h> of glibc
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Let the process keep the memory that it frees, for its next allocation; whether the C library can (glibc).

    XLA takes the temporary memory of each step on a CPU from malloc. By default glibc maps such blocks anew every time,
    and the kernel clears every page of them. All threads share one arena, because only the first can keep blocks of
    any size. For the rest of the process.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return all(mallopt(option, value) for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_ARENA_MAX, 1)))
