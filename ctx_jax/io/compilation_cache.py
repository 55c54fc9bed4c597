"""The compiled programs of the command line: kept on disk by jax, so that the next process need not compile them.

jax's key of a program holds the versions of jax and jaxlib, the flags of XLA and the kind of device; for a CPU that is
its name and instruction sets (jaxlib 0.10.2 and 0.12: the topology's fingerprint changes with `--xla_cpu_max_isa`). So
machines that share a home directory do not run each other's instructions.
"""

import logging
import os
import re
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

LOG = logging.getLogger("ctx_jax")
VARIABLE, JAX_VARIABLE = "CTX_JAX_CACHE", "JAX_COMPILATION_CACHE_DIR"
MOST_BYTES = 2 << 30
"""Above this, `enable` removes the oldest programs of the default folder until half of it is left: jax alone would let
it grow."""

_NAMES = re.compile(r"(?P<program>.+)-[0-9a-f]{64}-(cache|atime)")  # of jax's files
_WARNING = re.compile(r"Error (reading|writing) persistent compilation cache entry for '(?P<program>[^']+)'")


class _File(NamedTuple):
    path: Path
    size: int
    modified: float


class Programs(NamedTuple):
    """What a folder holds: the number of programs, and their size in bytes."""

    number: int
    size: int


def folder() -> Path | None:
    """The folder that the environment names: $CTX_JAX_CACHE, else $JAX_COMPILATION_CACHE_DIR, else `ctx_jax/compiled`
    in the user's cache folder. None if the first that is set is empty or a URL, or if there is no home directory."""
    value = _given()
    if value is None:
        return _default()
    return Path(value).expanduser().absolute() if value and "://" not in value else None


def enable() -> None:
    """Let jax keep its compiled programs in `folder()`, before anything is compiled. A folder that cannot be written
    to is said in one line, and nothing is kept. A URL is left to jax."""
    import jax  # here: `ctx-jax cache` and `ctx-jax --help` need none

    path, value = folder(), _given()
    if path is not None and not _writable(path):
        LOG.warning(
            "compiled programs are not kept, because %s cannot be written to: set %s to another folder, or to nothing "
            "to do without",
            path,
            VARIABLE,
        )
        path = None
    place = str(path) if path else value if value and "://" in value else None
    jax.config.update("jax_compilation_cache_dir", place)
    for setting, chosen in (
        # By default jax keeps what took a second to compile; those of an encoder take less each, and many seconds all.
        ("jax_persistent_cache_min_compile_time_secs", 0.0),
        # Else XLA's choices of GPU kernels would go there too, instead of into the directory of a deterministic run.
        ("jax_persistent_cache_enable_xla_caches", "none"),
    ):
        if setting.upper() not in os.environ:
            jax.config.update(setting, chosen)
    if path is not None:
        if _given() is None:
            trim(path)
        _mend_damage()


def disable_default() -> None:
    """Keep nothing in the default folder, for a job of several processes. Those on other machines may see another home
    directory: where one process finds a program and another has to compile it, the two would wait for each other."""
    import jax

    if _given() is None:
        jax.config.update("jax_compilation_cache_dir", None)


def programs(path: Path) -> Programs:
    """What is in a folder, which need not exist."""
    files = _files(path)
    return Programs(sum(file.path.name.endswith("-cache") for file in files), sum(file.size for file in files))


def clear(path: Path) -> Programs:
    """Remove jax's files from a folder, and no others; returns what was removed."""
    removed = programs(path)
    for file in _files(path):
        file.path.unlink(missing_ok=True)
    return removed


def trim(path: Path, most: int = MOST_BYTES) -> None:
    """If the files take more than `most` bytes, remove the oldest until they take at most half of it."""
    files = sorted(_files(path), key=lambda file: file.modified)
    total = sum(file.size for file in files)
    if total > most:
        for file in files:
            if total <= most // 2:
                break
            file.path.unlink(missing_ok=True)
            total -= file.size


def _given() -> str | None:
    return next((os.environ[name] for name in (VARIABLE, JAX_VARIABLE) if name in os.environ), None)


def _default() -> Path | None:
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        # A relative path counts as unset (the XDG Base Directory Specification).
        cache = Path(given) if given.startswith("/") else Path.home() / ".cache"
    except RuntimeError:  # no home directory
        return None
    return cache / "ctx_jax" / "compiled"


def _writable(path: Path) -> bool:
    """Whether the folder can be written to, or made. Nothing is made: jax does so when it has a program to keep."""
    # `os.access`, because `Path.exists` raises below a folder that may not be entered, such as another user's home.
    there = next(parent for parent in (path, *path.parents) if os.access(parent, os.F_OK))
    return there.is_dir() and os.access(there, os.R_OK | os.W_OK | os.X_OK)


def _files(path: Path) -> list[_File]:
    """jax's files in a folder, without those that another process removes at this moment."""
    found = []
    if path.is_dir():
        for file in path.iterdir():
            if _NAMES.fullmatch(file.name):
                with suppress(FileNotFoundError):
                    status = file.stat()
                    found.append(_File(file, status.st_size, status.st_mtime))
    return found


def _mend_damage() -> None:
    """From now on, remove a program that jax warns it could not read or write, in place of the warning.

    A killed process or a full disk leaves a part of a program's file. jax compiles the program again then, but never
    writes over the file, and would warn at each start.
    """
    show = warnings.showwarning
    if show.__module__ == __name__:  # enabled before
        return

    def showwarning(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        path, found = folder(), _WARNING.match(str(message))
        if path is None or not found:
            show(message, category, *where, **more)
            return
        LOG.info("%s", message)
        for file in _files(path):
            name = _NAMES.fullmatch(file.path.name)
            if name and name["program"] == found["program"]:
                file.path.unlink(missing_ok=True)

    warnings.showwarning = showwarning
