"""Folders for other programs that appear whole or not at all."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """A temporary folder beside `folder` to write into; left without an error it takes that name, else it is removed.

    Raises FileExistsError where `folder` exists and is not empty, naming what it holds.
    """
    folder = Path(folder).resolve()
    if folder.exists():
        held = sorted(path.name for path in folder.iterdir())[:4] if folder.is_dir() else [folder.name]
        if held:
            raise FileExistsError(f"{folder} exists and is not empty ({', '.join(held)}): give a new folder")
    partial = folder.with_name(f".{folder.name}.partial-{secrets.token_hex(4)}")
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
