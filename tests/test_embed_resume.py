"""`ctx-jax embed` that is stopped, killed or out of disk goes on where it was, and refuses what does not belong."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import pytest
from embedded_files import ENCODER, LINES, TINY, contents, quiet, same
from sentence_folders import write_folder

import ctx_jax
from ctx_jax import cli
from ctx_jax.embedding import embed_file as module
from ctx_jax.embedding import line_vectors, text_parts
from ctx_jax.embedding.embed_file import embed_file
from ctx_jax.io.errors import ExistingFileError, InputError, RunError


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(LINES) + "\n")
    return path


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_parts, "PART_LINES", 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("encoder") / "st")


KILLED = """
import os, signal, sys
import jax
jax.config.update("jax_num_cpu_devices", 8)  # as here: the devices that share a batch are part of its shape
import ctx_jax
from ctx_jax.embedding import embed_file as module, line_vectors, text_parts
text_parts.PART_LINES = 3
folder, text, output, at = sys.argv[1:]
encode, calls = line_vectors.encode_sentences, 0
def kill(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)
def killed(*arguments):
    global calls
    calls += 1
    for number, vectors in enumerate(encode(*arguments)):
        if at == "encoding" and (calls, number) == (2, 1):
            kill()
        yield vectors
line_vectors.encode_sentences = killed
if at == "writing":
    module.fsync = kill
module.embed_file(ctx_jax.load(folder), text, output, log=print)
"""


@pytest.mark.slow
@pytest.mark.parametrize("at", ["encoding", "writing"])
@pytest.mark.usefixtures("small_parts")
def test_killed_and_resumed_is_uninterrupted_bit_for_bit(tmp_path: Path, text: Path, folder: Path, at: str) -> None:
    output = tmp_path / "killed.hdf5"
    command = [sys.executable, "-c", KILLED, str(folder), str(text), str(output), at]
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    parts = [path.name for path in Path(f"{output}.partial").iterdir() if path.name.isdecimal()]
    assert not output.exists() and len(parts) == (1 if at == "encoding" else 3)
    encoder = ctx_jax.load(folder)
    with counted() as calls:
        embed_file(encoder, text, output, log=quiet)
    assert len(calls) == 3 - len(parts) and not Path(f"{output}.partial").exists()
    embed_file(encoder, text, tmp_path / "whole.hdf5", log=quiet)
    assert same(output, tmp_path / "whole.hdf5")


@contextmanager
def counted(before: Callable[[int], None] = lambda call: None) -> Iterator[list[int]]:
    """How many texts each part has that is encoded; `before` is called at each."""
    calls: list[int] = []
    encode = line_vectors.encode_sentences

    def counting(numbered: Iterator[Any], job: Any) -> Iterator[Any]:
        before(len(calls))
        texts = list(numbered)
        calls.append(len(texts))
        return encode(iter(texts), job)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_vectors, "encode_sentences", counting)
        yield calls


def stopped_at(call: int, how: BaseException) -> Any:
    def stop(number: int) -> None:
        if number == call:
            raise how

    return counted(stop)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("how", [KeyboardInterrupt(), SystemExit(143), OSError(28, "No space left on device")])
def test_what_is_done_is_kept_and_said(tmp_path: Path, text: Path, how: BaseException) -> None:
    said: list[str] = []
    output = tmp_path / "out.npz"
    with pytest.raises(type(how)) as caught, stopped_at(2, how):
        embed_file(ENCODER, text, output, log=said.append)
    assert "out.npz.partial" in said[-1] and not output.exists()
    if isinstance(how, OSError):
        assert caught.value.filename == str(output) and caught.value.errno == 28  # type: ignore[attr-defined]
    with counted() as calls:
        embed_file(ENCODER, text, output, log=quiet)
    assert calls == [2]


@pytest.mark.slow
@pytest.mark.usefixtures("small_parts")
def test_parts_of_another_text_or_other_settings_are_refused_by_name(tmp_path: Path, text: Path) -> None:
    output = tmp_path / "out.npz"

    def begin(**settings: Any) -> None:
        with pytest.raises(KeyboardInterrupt), stopped_at(2, KeyboardInterrupt()):
            embed_file(ENCODER, text, output, log=quiet, **settings)

    begin()
    with pytest.raises(ExistingFileError, match=r"layers .*last"):
        embed_file(ENCODER, text, output, layers="last", log=quiet)
    with pytest.raises(ExistingFileError, match="dtype"):
        embed_file(ENCODER, text, output, dtype="float16", log=quiet)
    other = ctx_jax.Encoder(TINY, TINY.init(jax.random.key(1)), TINY.inputs())
    with pytest.raises(ExistingFileError, match="encoder"):
        embed_file(other, text, output, log=quiet)
    text.write_text("\n".join([*LINES[:4], "another", *LINES[5:]]))
    with pytest.raises(InputError, match="lines 4 to 6"):
        embed_file(ENCODER, text, output, log=quiet)
    text.write_text("\n".join(LINES[:3]))
    with pytest.raises(InputError, match="ends at line 3"):
        embed_file(ENCODER, text, output, log=quiet)
    with counted() as calls:
        embed_file(ENCODER, text, output, overwrite=True, log=quiet)
    assert calls == [], "the first part is of the same text"
    text.write_text("\n".join(LINES))
    with pytest.raises(ExistingFileError, match=r"out\.npz"):
        embed_file(ENCODER, text, output, log=quiet)
    embed_file(ENCODER, text, output, layers="last", overwrite=True, log=quiet)
    assert contents(output)["vectors"].ndim == 2


def test_one_process_writes_a_file(tmp_path: Path, text: Path) -> None:
    def again(call: int) -> None:
        embed_file(ENCODER, text, tmp_path / "out.npz", log=quiet)

    with pytest.raises(RunError, match="another process"), counted(again):
        embed_file(ENCODER, text, tmp_path / "out.npz", log=quiet)


FULL = """
import random, resource, sys
from pathlib import Path
import ctx_jax
from ctx_jax.embedding import line_vectors, text_parts
from ctx_jax.embedding.embed_file import embed_file
text_parts.PART_LINES = 50
encoder = ctx_jax.load(sys.argv[1])
place = Path(sys.argv[2])
words = random.Random(0).choices("the cat sat on mat dogs".split(), k=6000)
(place / "text.txt").write_text("".join(" ".join(words[i : i + 6]) + "\\n" for i in range(0, len(words), 6)))
for name in sys.argv[3:]:
    output = place / name
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, -1))
    try:
        embed_file(encoder, place / "text.txt", output, log=lambda line: None)
    except OSError as error:
        assert error.filename == str(output), error
    else:
        raise AssertionError(name)
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    assert not output.exists() and len(list(output.with_name(name + ".partial").glob("[0-9]*"))) == 20
    embed_file(encoder, place / "text.txt", output, log=lambda line: None)
    print(name)
"""


@pytest.mark.slow
def test_a_full_disk_names_the_output_and_keeps_the_parts(tmp_path: Path, folder: Path) -> None:
    """By a limit on the size of files, while the output is put together; HDF5 alone would end in a segmentation
    fault."""
    pytest.importorskip("pyarrow")
    names = ["out.hdf5", "out.npz", "out.parquet"]
    command = [sys.executable, "-c", FULL, str(folder), str(tmp_path), *names]
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ran.returncode == 0 and ran.stderr == "", ran.stderr
    assert ran.stdout.split() == names


def test_a_disk_without_room_for_the_output_is_named_before_it_is_written(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(OSError, match=r"out\.npz"):
        embed_file(ENCODER, text, tmp_path / "out.npz", log=quiet)
    monkeypatch.undo()
    with counted() as calls:
        embed_file(ENCODER, text, tmp_path / "out.npz", log=quiet)
    assert calls == []


@pytest.mark.slow
def test_sigterm_keeps_the_parts(
    tmp_path: Path, text: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, small_parts: None
) -> None:
    """The command itself, stopped as a job's scheduler does it, and started again."""
    real = text_parts.build_arrays

    def terminated(target: Path, *arguments: Any, **choices: Any) -> bool:
        if target.name == "2":
            os.kill(os.getpid(), signal.SIGTERM)
        return real(target, *arguments, **choices)

    monkeypatch.setattr(text_parts, "build_arrays", terminated)
    command = ["embed", str(folder), str(text), str(tmp_path / "out.npz"), "--layers", "last"]
    with pytest.raises(SystemExit):
        cli.main(command)
    assert {path.name for path in (tmp_path / "out.npz.partial").glob("[0-9]*")} == {"0", "1"}
    monkeypatch.setattr(text_parts, "build_arrays", real)
    assert cli.main(command) == 0 and (tmp_path / "out.npz").exists()
