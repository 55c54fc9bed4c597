"""Freed memory stays with the process, in a process of its own: the setting is for the rest of it."""

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, resource, sys, threading
from ctx_jax.io.allocator import keep_freed_memory, share_one_arena

library = ctypes.CDLL(None)
library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
library.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def faults(size):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = library.malloc(size)
    library.memset(block, 1, size)
    library.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

started, told = threading.Event(), threading.Event()
found = []

def worker():  # as one of XLA's threads: it runs before the kind of device is known
    faults(1)
    found.extend(faults(128 << 20) for _ in range(2))
    started.set()
    told.wait()
    found.extend(faults(128 << 20) for _ in range(2))

if sys.argv[1] == "shared":
    share_one_arena()
thread = threading.Thread(target=worker)
thread.start()
started.wait()
kept = keep_freed_memory()
told.set()
thread.join()
print(kept, *found)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: mallopt and malloc_trim are of its C library, glibc")
@pytest.mark.parametrize("order", ["shared", "late"])
def test_a_thread_takes_a_freed_block_again_if_it_shares_the_arena(order: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, order], capture_output=True, text=True, check=True)
    kept, *faults = done.stdout.split()
    if kept != "True":
        pytest.skip("needs glibc: this Linux has another C library, without mallopt")
    before, again = [*map(int, faults[:2])], int(faults[3])
    assert min(before) > 1_000  # the kernel maps every block anew
    assert (again < 10) == (order == "shared")


HOLES = """
import ctypes
from ctx_jax.io.allocator import KeptMemory, keep_freed_memory, resident_memory

library = ctypes.CDLL(None)
library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
library.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def taken(size):
    block = library.malloc(size)
    library.memset(block, 1, size)
    return block

kept = keep_freed_memory()
start = resident_memory()
blocks = [(taken(size << 20), taken(1 << 20)) for size in range(10, 30)]  # holes between what stays
for hole, _ in blocks:
    library.free(hole)
before = resident_memory() - start
memory = KeptMemory(start + (100 << 20))
found = [memory.give_back(), resident_memory() - start, memory.give_back(), KeptMemory(1 << 50).give_back()]
print(kept, before >> 20, found[0], found[1] >> 20, *found[2:])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: mallopt and malloc_trim are of its C library, glibc")
def test_holes_are_given_back_where_the_process_holds_much() -> None:
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    kept, before, first, after, again, below = done.stdout.split()
    if kept != "True":
        pytest.skip("needs glibc: this Linux has another C library, without mallopt")
    assert int(before) > 350, "megabytes of holes are kept"
    assert first == "True" and int(after) < 60, "20 of them are in use"
    assert again == "False" and below == "False", "below the limit nothing is done"
