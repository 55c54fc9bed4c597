"""Labelled files of the tests: how they are written, and what was read of them."""

import gzip
import io
import lzma
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest

from ctx_jax.data.labelled import Example


def put(folder: Path, name: str, text: str) -> str:
    path = folder / name
    opened = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    with opened(path, "wb") as file:
        file.write(text.encode())
    return str(path)


def pairs(examples: Iterable[Example]) -> list[tuple[object, object]]:
    return [(each.item, each.label) for each in examples]


def give(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Put a text on standard input."""
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(text.encode())))
