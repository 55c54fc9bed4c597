"""The indexed cache: what was read comes back, unchanged text is not read again, nothing half-written stays."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctx_jax.data import array_folder
from ctx_jax.data.cache import Sentences, build_cache, load_sentences
from ctx_jax.data.config import TextConfig
from ctx_jax.io import build_once as building

STREAM = [[], ["the", "cat", "."], ["naïve", "日本"], [], [], ["a"], []]


@dataclass
class Made:
    """A source made here, which counts how often it was read."""

    stream: list[list[str]]
    name: str = "made"
    size: int | None = None
    read: int = 0
    fails: bool = False
    key: dict[str, Any] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        return self.key

    def documents(self) -> Iterator[list[str]]:
        self.read += 1
        yield from self.stream
        if self.fails:
            raise RuntimeError("the disk went away")


def _silent(line: str) -> None:
    assert line


def test_what_was_read_comes_back(tmp_path: Path) -> None:
    lines: list[str] = []
    sentences = build_cache(Made(STREAM), tmp_path, log=lines.append)
    kept = [sentence for sentence in STREAM if sentence]
    assert len(sentences) == 3
    assert sentences.words == 6
    assert [sentences[i] for i in range(3)] == kept == list(sentences)
    assert sentences[-1] == ["a"]
    assert sentences[np.int64(0)] == kept[0]
    assert sentences.documents.tolist() == [0, 2]
    assert sentences.documents.dtype == np.int64
    assert "6 words, 3 sentences, 2 documents" in lines[0]
    assert sentences.digest[:12] in lines[0]
    for index in (3, -4):
        with pytest.raises(IndexError, match="of a corpus of 3"):
            sentences[index]


def test_a_second_run_does_not_read_the_text(tmp_path: Path) -> None:
    source = Made(STREAM)
    first = build_cache(source, tmp_path, log=_silent)
    second = build_cache(source, tmp_path, log=_silent)
    assert source.read == 1
    assert second.digest == first.digest
    source.key = {"size": 7}
    build_cache(source, tmp_path, log=_silent)
    assert source.read == 2


def test_the_digest_is_of_words_sentences_and_documents(tmp_path: Path) -> None:
    joined = [["the", "cat", "."], ["naïve", "日本"], ["a"]]
    moved = [["the", "cat"], [".", "naïve", "日本"], [], ["a"]]
    streams = [STREAM, joined, moved]
    digests = [
        build_cache(Made(stream, key={"n": n}), tmp_path, log=_silent).digest for n, stream in enumerate(streams)
    ]
    assert len(set(digests)) == 3
    assert build_cache(Made(STREAM[1:], "other", key={"n": 9}), tmp_path, log=_silent).digest == digests[0]


def test_buffers_smaller_than_the_text_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_folder, "BUFFER", 64)
    stream = [[f"w{n}"] * (n % 5) for n in range(500)]
    sentences = build_cache(Made(stream), tmp_path, log=_silent)
    kept = [sentence for sentence in stream if sentence]
    assert list(sentences) == kept
    assert [sentences[n] for n in range(len(kept))] == kept


@pytest.mark.parametrize("name", ["text.bin", "offsets.bin", "documents.bin", "meta.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "flipped"])
def test_a_damaged_cache_is_named_and_rebuilt(tmp_path: Path, name: str, damage: str) -> None:
    source = Made(STREAM)
    folder = build_cache(source, tmp_path, log=_silent).folder
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    if damage == "cut":
        (folder / name).write_bytes(content[:-5])
    if damage == "flipped":  # what only reading all of it shows, which is done once a run
        (folder / name).write_bytes(bytes([content[0] ^ 1]) + content[1:])
    else:
        with pytest.raises((ValueError, FileNotFoundError), match=name):
            Sentences(folder)
    lines: list[str] = []
    assert list(build_cache(source, tmp_path, log=lines.append)) == [s for s in STREAM if s]
    assert source.read == 2
    assert name in lines[0]


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="went away"):
        build_cache(Made(STREAM, fails=True), tmp_path, log=_silent)
    with pytest.raises(ValueError, match="holds no word"):
        build_cache(Made([[], []]), tmp_path, log=_silent)
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    killed = f"""
import os
from ctx_jax.data.cache import build_cache
class Source:
    name, size = "made", None
    def identity(self): return {{}}
    def documents(self):
        yield ["a"]
        os.kill(os.getpid(), 9)
build_cache(Source(), {str(tmp_path)!r})
"""
    assert subprocess.run([sys.executable, "-c", killed], check=False).returncode == -9
    assert list(tmp_path.glob(".*.partial-*"))
    assert list(build_cache(Made(STREAM), tmp_path, log=_silent)) == [s for s in STREAM if s]
    assert not list(tmp_path.glob(".*.partial-*"))


def test_a_run_finds_its_sentences(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("a b\nc\n")
    config = TextConfig(train=str(text))
    train = load_sentences(config, "train", tmp_path / "run", log=_silent)
    assert train is not None
    assert list(train) == [["a", "b"], ["c"]]
    assert train.folder.parent == tmp_path / "run"
    assert load_sentences(config, "valid", tmp_path / "run", log=_silent) is None
    elsewhere = TextConfig(train=str(text), valid=str(text), cache=str(tmp_path / "cache"))
    valid = load_sentences(elsewhere, "valid", tmp_path / "run", log=_silent)
    assert valid is not None
    assert valid.folder.parent == tmp_path / "cache"
    assert valid.digest == train.digest
    text.write_text("a b\nc d\n")  # another size, so another key
    again = load_sentences(config, "train", tmp_path / "run", log=_silent)
    assert again is not None
    assert list(again) == [["a", "b"], ["c", "d"]]


def test_a_cache_where_nobody_may_write_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_cache(Made(STREAM), tmp_path, log=_silent)

    def refused(*arguments: object) -> None:
        raise PermissionError(f"no writing to {tmp_path}")

    monkeypatch.setattr(os, "access", lambda path, kind: False)  # chmod does not keep root out
    monkeypatch.setattr(building, "locked", refused)
    assert list(build_cache(Made(STREAM, fails=True), tmp_path, log=_silent)) == [s for s in STREAM if s]
    with pytest.raises(PermissionError):
        build_cache(Made(STREAM, key={"other": 1}), tmp_path, log=_silent)
