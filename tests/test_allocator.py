"""Freed memory stays with the process, in a process of its own: the setting is for the rest of it."""

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, resource
from ctx_jax.io.allocator import keep_freed_memory

library = ctypes.CDLL(None)
library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
library.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = library.malloc(64 << 20)
    library.memset(block, 1, 64 << 20)
    library.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults(), faults(), keep_freed_memory(), faults(), faults())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems' C libraries have no such setting")
def test_a_freed_block_is_taken_again_without_page_faults() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    *before, kept, first, again = done.stdout.split()
    if kept != "True":
        pytest.skip("needs glibc")
    assert min(map(int, before)) > 1_000  # the kernel maps every block anew
    assert int(first) > 1_000 and int(again) < 10
