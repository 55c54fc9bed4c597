"""Folders for what is needed while something runs, among the system's temporary files."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ctx_jax.io.atomic import naming_full_disk


@contextmanager
def temporary_folder(purpose: str) -> Iterator[Path]:
    """A new folder, gone when it is left; an error of a disk without space says how to choose another disk."""
    place = tempfile.gettempdir()
    with (
        naming_full_disk(Path(place), otherwise="set TMPDIR to a folder on another disk"),
        tempfile.TemporaryDirectory(prefix=f"ctx-jax-{purpose}-", dir=place) as folder,
    ):
        yield Path(folder)
