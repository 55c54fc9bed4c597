"""`ctx-jax embed`: its three formats, and what it reads and refuses."""

import gzip
import io
import json
import lzma
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from embedded_files import ENCODER, LINES, TINY, contents, quiet, same
from sentence_folders import write_folder

import ctx_jax
from ctx_jax import cli
from ctx_jax.data import zstd
from ctx_jax.data.text_files import LineReader
from ctx_jax.embedding import text_parts
from ctx_jax.embedding.embed_file import embed_file
from ctx_jax.io.errors import ConfigError, InputError, MissingPackageError, RunError


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


@pytest.mark.usefixtures("small_parts")
def test_hdf5_is_read_as_that_of_allennlp(tmp_path: Path, text: Path) -> None:
    """A dataset a line under its number, and one JSON string that says which line holds a sentence."""
    embed_file(ENCODER, text, tmp_path / "out.hdf5", log=quiet)
    expected = list(ENCODER.encode(LINES))
    with h5py.File(tmp_path / "out.hdf5", "r") as file:
        assert {*file} == {*map(str, range(len(LINES))), "sentence_to_index"}
        index = json.loads(file["sentence_to_index"][0])
        assert file["sentence_to_index"].shape == (1,)
        for number, line in enumerate(LINES):
            found = file[str(number)]
            assert found.dtype == np.float32 and found.shape == (3, len(line.split()), TINY.width)
            np.testing.assert_allclose(found[...], expected[number], atol=1e-5)
    assert index["the cat sat ."] == "4" and index["dogs/cats sat"] == "7" and index[""] == "6", "the last of equals"


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("layers", [None, "last"])
def test_npz_and_parquet_hold_the_lines_of_encode(tmp_path: Path, text: Path, layers: Any) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    expected = list(ENCODER.encode(LINES, layers=layers))
    for name in ("out.npz", "out.parquet"):
        done = embed_file(ENCODER, text, tmp_path / name, layers=layers, dtype="float16", log=quiet)
        assert done.sentences == len(LINES) and done.shape[-2:] == (sum(len(line.split()) for line in LINES), 10)
    found = contents(tmp_path / "out.npz")
    table = pq.read_table(tmp_path / "out.parquet")
    assert found["vectors"].dtype == np.float16 and table["text"].to_pylist() == LINES
    for number, rows in enumerate(table["vectors"].to_pylist()):
        start, stop = found["offsets"][number : number + 2]
        vectors = found["vectors"][..., start:stop, :]
        np.testing.assert_allclose(vectors, expected[number], atol=1e-2)
        np.testing.assert_array_equal(np.array(rows, np.float16).reshape(vectors.shape), vectors)


@pytest.mark.usefixtures("small_parts")
def test_sentence_vectors_are_one_matrix(tmp_path: Path, text: Path, folder: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    encoder = ctx_jax.load(folder)
    expected = np.stack(list(encoder.encode(LINES, level="sentence")))
    for name in ("out.npz", "out.h5", "out.parquet"):
        assert cli.main(["embed", str(folder), str(text), str(tmp_path / name), "--level", "sentence"]) == 0
    rows = np.array(pq.read_table(tmp_path / "out.parquet")["vectors"].to_pylist(), np.float32)
    for found in (contents(tmp_path / "out.npz")["vectors"], contents(tmp_path / "out.h5")["vectors"], rows):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not list(tmp_path.glob("*.partial"))


def test_text_may_be_compressed_or_standard_input(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embed_file(ENCODER, text, tmp_path / "plain.npz", log=quiet)
    data = text.read_bytes()
    (tmp_path / "text.txt.gz").write_bytes(gzip.compress(data[:9]) + gzip.compress(data[9:]))
    (tmp_path / "text.txt.xz").write_bytes(lzma.compress(data))
    for name in ("text.txt.gz", "text.txt.xz"):
        embed_file(ENCODER, tmp_path / name, tmp_path / f"{name}.npz", log=quiet)
        assert same(tmp_path / "plain.npz", tmp_path / f"{name}.npz")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    embed_file(ENCODER, "-", tmp_path / "stdin.npz", log=quiet)
    assert same(tmp_path / "plain.npz", tmp_path / "stdin.npz")


def test_zstandard_frames_are_read_to_the_last_and_a_cut_one_is_an_error(tmp_path: Path, text: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    data = text.read_bytes()
    path = tmp_path / "text.txt.zst"
    path.write_bytes(zstandard.compress(data[:20]) + zstandard.compress(data[20:]))
    with zstd.open_zstd(path) as file:
        assert file.read() == data
    embed_file(ENCODER, text, tmp_path / "plain.npz", log=quiet)
    embed_file(ENCODER, path, tmp_path / "zst.npz", log=quiet)
    assert same(tmp_path / "plain.npz", tmp_path / "zst.npz")
    for damaged in (path.read_bytes()[:-3], b"no frame at all", data):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"text\.txt\.zst"):
            embed_file(ENCODER, path, tmp_path / "cut.npz", log=quiet)


@pytest.mark.parametrize("package, name", [("pyarrow", "out.parquet"), ("zstandard", "out.npz")])
def test_an_optional_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, name: str) -> None:
    if package == "zstandard" and sys.version_info >= (3, 14):
        pytest.skip("needs a Python before 3.14: this one reads .zst without a package")
    (tmp_path / "text.zst").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=package):
        embed_file(ENCODER, tmp_path / "text.zst", tmp_path / name, log=quiet)


@pytest.mark.parametrize(
    "arguments, part",
    [
        (["{folder}", "{tmp}/text.txt", "{tmp}/out.txt"], ".npz"),
        (["{folder}", "{tmp}/text.txt", "{tmp}/none/out.npz"], "none"),
        (["{folder}", "{tmp}/missing.txt", "{tmp}/out.npz"], "missing.txt does not exist"),
        (["{folder}", "{tmp}", "{tmp}/out.npz"], "is a folder"),
        (["{folder}", "{tmp}/empty.txt", "{tmp}/out.npz"], "empty.txt is empty"),
        (["{folder}", "{tmp}/bytes.txt", "{tmp}/out.npz"], "bytes.txt, line 2"),
        (["{folder}", "{tmp}/nul.txt", "{tmp}/out.npz"], "nul.txt, line 3"),
        (["{folder}", "{tmp}/text.txt", "{tmp}/there.npz"], "there.npz exists"),
        (["{tmp}", "{tmp}/text.txt", "{tmp}/out.npz"], "is no encoder"),
        (["bert-base-uncased", "{tmp}/text.txt", "{tmp}/out.npz"], "hf://bert-base-uncased"),
        (["{folder}", "{tmp}/text.txt", "{tmp}/out.npz", "--mix", "{tmp}/mix.json"], "--mix"),
        (["{folder}", "{tmp}/text.txt", "{tmp}/out.npz", "--layers", "top"], "--layers"),
    ],
)
def test_what_cannot_be_used_is_one_line_that_names_it(
    folder: Path, tmp_path: Path, text: Path, arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, data in {"empty": b"", "bytes": b"a\n\xff\n", "nul": b"a\nb\n\0\n"}.items():
        (tmp_path / f"{name}.txt").write_bytes(data)
    (tmp_path / "there.npz").touch()
    (tmp_path / "mix.json").write_text('{"weights": [0, 0], "gamma": 1}')
    assert cli.main(["embed", *(argument.format(folder=folder, tmp=tmp_path) for argument in arguments)]) == 1
    printed = capsys.readouterr().err
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and part in errors[0] and "Traceback" not in printed
    assert not list(tmp_path.glob("out.npz*"))


def test_bytes_that_are_not_utf8_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "bytes.txt").write_bytes(b"a\r\n\xff\n")
    embed_file(ENCODER, tmp_path / "bytes.txt", tmp_path / "out.hdf5", errors="replace", log=quiet)
    assert json.loads(contents(tmp_path / "out.hdf5")["sentence_to_index"][0]) == {"a": "0", "\ufffd": "1"}


def test_a_mix_is_applied(tmp_path: Path, text: Path) -> None:
    mixing = {"weights": np.array([0.0, 1.0, 2.0], np.float32), "gamma": np.float32(2)}
    embed_file(ENCODER, text, tmp_path / "out.npz", layers="mix", mix=mixing, log=quiet)
    expected = np.concatenate(list(ENCODER.encode(LINES, layers="mix", mix=mixing)))
    np.testing.assert_allclose(contents(tmp_path / "out.npz")["vectors"], expected, atol=1e-5)
    with pytest.raises(ConfigError, match="mix"):
        embed_file(ENCODER, text, tmp_path / "no.npz", mix={"weights": [1.0], "gamma": 1.0}, log=quiet)


@pytest.mark.usefixtures("small_parts")
def test_that_texts_are_cut_is_said_once_with_the_number_in_the_whole_text(
    tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{'cat ' * size}\n" for size in (1, 1, 1, 1, 40, 1, 50, 60)))
    embed_file(ctx_jax.load(folder), text, tmp_path / "out.npz", level="sentence", log=quiet)
    (said,) = [record.getMessage() for record in caplog.records if record.name == "ctx_jax"]
    assert said.startswith("sentence 4 ")


def test_one_process_writes_a_file(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctx_jax.embedding.line_vectors.process_share", lambda: (1, 2))
    with pytest.raises(RunError, match="one process"):
        embed_file(ENCODER, text, tmp_path / "out.npz", log=quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_how_much_of_a_file_is_read_is_known_to_its_end(text: Path, tmp_path: Path) -> None:
    (tmp_path / "long.txt.gz").write_bytes(gzip.compress(np.random.default_rng(0).bytes(1 << 20).hex().encode()))
    for path in (text, tmp_path / "long.txt.gz"):
        reader = LineReader(path)
        assert reader.fraction is None
        fractions = [reader.fraction for _ in reader]
        assert fractions == sorted(fractions) and reader.fraction == 1.0  # type: ignore[type-var]
