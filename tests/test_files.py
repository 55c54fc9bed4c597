"""Atomic files and folders: on disk before they are visible, and no partial output after an error."""

import errno
import os
import resource
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from ctx_jax.io import files
from ctx_jax.io.files import (
    atomic_binary_file,
    atomic_file,
    atomic_folder,
    atomic_write,
    file_digest,
    leftovers,
    read_json,
    temporary_folder,
)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is forced to disk and what takes a name, in order; temporary names without their random end."""
    done: list[str] = []
    replace, fsync = Path.replace, files.fsync

    def name(path: Path) -> str:
        return path.name.split("-")[0]

    monkeypatch.setattr(files, "fsync", lambda path: (fsync(path), done.append(f"disk {name(path)}")))
    monkeypatch.setattr(Path, "replace", lambda path, to: (replace(path, to), done.append(f"take {name(to)}")))
    return done


def test_bytes_are_on_disk_before_the_name_and_the_name_after(tmp_path: Path, recorded: list[str]) -> None:
    folder = tmp_path / "home"
    folder.mkdir()
    atomic_write(folder / "a.json", "{}\r\n")
    assert recorded == ["disk .a.json.partial", "take a.json", "disk home"]
    assert (folder / "a.json").read_bytes() == b"{}\r\n"
    recorded.clear()
    with atomic_folder(folder / "made") as partial:
        (partial / "sub").mkdir()
        (partial / "sub" / "file").write_text("x")
    assert recorded[-2:] == ["take made", "disk home"]
    assert sorted(recorded[:-2]) == ["disk .made.partial", "disk file", "disk sub"]
    assert (folder / "made" / "sub" / "file").read_text() == "x"


def test_what_fails_leaves_the_old_and_no_rest(tmp_path: Path) -> None:
    atomic_write(tmp_path / "a.txt", "old")
    before = file_digest(tmp_path / "a.txt")
    with pytest.raises(TypeError), atomic_file(tmp_path / "a.txt") as file:
        file.write(file.write("new"))  # type: ignore[arg-type]
    with pytest.raises(TypeError), atomic_binary_file(tmp_path / "a.txt") as binary_file:
        binary_file.write("new")  # type: ignore[arg-type]
    with atomic_folder(tmp_path / "made") as partial:
        assert leftovers(tmp_path, "made") == [partial] and not leftovers(tmp_path, "a.*")
    (tmp_path / "made").rmdir()
    with pytest.raises(FileNotFoundError, match="gone"), atomic_folder(tmp_path / "made") as partial:
        (partial / "gone").unlink()
    assert file_digest(tmp_path / "a.txt") == before
    assert list(tmp_path.iterdir()) == [tmp_path / "a.txt"]
    with pytest.raises(FileExistsError, match=r"not empty \(a\.txt\)"), atomic_folder(tmp_path):
        pass


def test_a_disk_that_takes_no_more_is_named_and_nothing_half_written_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    uncaught: list[int | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda raised: uncaught.append(getattr(raised.exc_value, "errno", None)))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="a limit on files") as of_file:
            atomic_write(tmp_path / "a.txt", "x" * 2000)
        with pytest.raises(OSError, match="a limit on files") as of_folder, atomic_folder(tmp_path / "made") as partial:
            (partial / "data").write_bytes(bytes(2000))
        with (
            pytest.raises(OSError, match=r"set there, or set TMPDIR .*") as of_temporary,
            temporary_folder("x") as folder,
        ):
            (folder / "data").write_bytes(bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert errno.EFBIG not in uncaught  # raised once
    assert [error.value.filename for error in (of_file, of_folder, of_temporary)] == [
        str(tmp_path / "a.txt"),
        str(tmp_path / "made"),
        str(tmp_path),
    ]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON"),
        (b'{"a": "\xff"}', "is not JSON"),
        (b"[1]", "a JSON object, got a list"),
        (b'{"a": ' + b"[" * 3000 + b"]" * 3000 + b"}", "is nested too deep"),
        (b'{"a": ' + b"1" * 5001 + b"}", "is not JSON"),
    ],
)
def test_json_that_is_no_object_is_refused_by_file(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "options.json"
    path.write_bytes(b'{"a": 1}')
    assert read_json(path) == {"a": 1}
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"options\.json .*{message}"):
        read_json(path)


def test_a_full_disk_is_explained_once_and_a_limit_is_no_full_disk(tmp_path: Path) -> None:
    def fail(number: int) -> None:
        with files.naming_full_disk(tmp_path / "outer"), files.naming_full_disk(tmp_path / "inner"):
            raise OSError(number, os.strerror(number))

    with pytest.raises(OSError, match=r"No space left on device: make space there: .*outer") as full:
        fail(errno.ENOSPC)
    assert str(full.value).count("make space") == 1
    with pytest.raises(OSError, match=r"File too large: a limit on files"):
        fail(errno.EFBIG)
