"""`ctx-jax cache [--clear]`: where the compiled programs of the command line are, how many, and their size."""

from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from ctx_jax.io import compilation_cache


@dataclass(frozen=True)
class Cache:
    """Say where compiled programs are kept, so that the next command need not compile them, and their size.

    The folder is $CTX_JAX_CACHE, else $JAX_COMPILATION_CACHE_DIR, else ctx_jax/compiled in the user's cache folder; an
    empty value keeps nothing. Whoever can write to it can run code as you: do not share it with others."""

    clear: bool = False
    """Remove the programs."""


def main(arguments: Sequence[str]) -> int:
    """Print what is kept, or remove it; 0 when done."""
    options = tyro.cli(Cache, args=list(arguments), prog="ctx-jax cache")
    path = compilation_cache.folder()
    if path is None:
        print(f"no compiled programs are kept: set {compilation_cache.VARIABLE} to a folder")
        return 0
    held = compilation_cache.clear(path) if options.clear else compilation_cache.programs(path)
    print(f"{path}: {'removed ' if options.clear else ''}{held.number:,} programs, {held.size / 1e6:,.1f} MB")
    return 0
