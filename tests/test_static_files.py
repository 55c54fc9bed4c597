"""Tables of word vectors in files: every format in every compression against a few lines of numpy, and every error.

Letters: V words, D width.
"""

import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from safetensors.numpy import save

import ctx_jax
from ctx_jax.encoders.static import read, reading, sources, write_binary, write_text

SPACED = (". . .", "at name@domain.com", "figure 1")  # GloVe's 840B has the first two
WORDS = ("the", "The", "Été", "42", "0.5", "日本", "\u00a0", "a\u2028b", "</s>", "x" * 3000, *SPACED)
VECTORS = np.random.default_rng(0).standard_normal((len(WORDS), 3)).astype(np.float32)
VECTORS[1] = [0.0, -0.0, 1e-45]
VECTORS[2] = [np.finfo(np.float32).max, np.finfo(np.float32).tiny, -1 / 3]


def text(words: Sequence[str], vectors: np.ndarray, header: bool, separator: str = " ", end: str = "\n") -> bytes:
    lines = [f"{len(words)} {vectors.shape[1]}{end}"] * header
    lines += [separator.join([word, *map(repr, row.tolist())]) + end for word, row in zip(words, vectors, strict=True)]
    return "".join(lines).encode()


def binary(words: Sequence[str], vectors: np.ndarray, end: bytes = b"\n") -> bytes:
    entries = [word.encode() + b" " + row.tobytes() + end for word, row in zip(words, vectors, strict=True)]
    return f"{len(words)} {vectors.shape[1]}\n".encode() + b"".join(entries)


def zipped(content: bytes, **more: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("table", content)
        archive.writestr("__MACOSX/._table", b"of no use")
        for name, other in more.items():
            archive.writestr(name, other)
    return file.getvalue()


BARE = len(WORDS) - len(SPACED)  # a space ends a word in a binary file
FORMATS = {
    "glove": (len(WORDS), text(WORDS, VECTORS, header=False)),
    "header": (len(WORDS), text(WORDS, VECTORS, header=True)),
    "trailing_spaces": (len(WORDS), text(WORDS, VECTORS, header=True, end=" \n")),
    "windows": (len(WORDS), text(WORDS, VECTORS, header=True, end="\r\n")),
    "tabs": (len(WORDS), text(WORDS, VECTORS, header=False, separator="\t")),
    "uneven_spaces": (len(WORDS), text(WORDS, VECTORS, header=False, separator="  ")),
    "no_last_line_end": (len(WORDS), text(WORDS, VECTORS, header=False)[:-1]),
    "empty_lines_at_the_end": (len(WORDS), text(WORDS, VECTORS, header=True) + b"\n \n"),
    "byte_order_mark": (len(WORDS), b"\xef\xbb\xbf" + text(WORDS, VECTORS, header=True)),
    "binary": (BARE, binary(WORDS[:BARE], VECTORS[:BARE])),
    "binary_without_line_ends": (BARE, binary(WORDS[:BARE], VECTORS[:BARE], end=b"")),
}
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda content: content,
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "zip": zipped,
}


def table(path: Path | str, **options: Any) -> tuple[list[str], np.ndarray]:
    """Words and vectors [V, D] of a file that is a table; after them stands one row for all other words."""
    found = read(path, **options)
    assert found is not None
    vectors = np.asarray(found.params["words"]["embedding"])
    words = list(found.processor.words)  # type: ignore[attr-defined]
    assert vectors.dtype == np.float32 and vectors.shape == (len(words) + 1, found.model.dim)
    assert found.model.vocabulary == len(words)
    return words, vectors[:-1]


def same_bits(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("form", FORMATS)
def test_every_format_in_every_compression(tmp_path: Path, form: str, compression: str) -> None:
    count, content = FORMATS[form]
    (tmp_path / "vectors").write_bytes(COMPRESSIONS[compression](content))  # no suffix says what it is
    words, vectors = table(tmp_path / "vectors")
    assert words == list(WORDS[:count])
    same_bits(vectors, VECTORS[:count])


@pytest.mark.parametrize("form", FORMATS)
def test_the_parts_in_which_a_file_is_read_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(sources, "PREFIX", 3100)
    monkeypatch.setattr(sources, "_CHUNK", 5)
    monkeypatch.setattr(reading, "_BLOCK", 60)
    count, content = FORMATS[form]
    (tmp_path / "table.gz").write_bytes(content)  # not compressed, whatever its name
    words, vectors = table(tmp_path / "table.gz")
    assert words == list(WORDS[:count])
    same_bits(vectors, VECTORS[:count])


def parsed(lines: Sequence[bytes], width: int) -> tuple[list[str], np.ndarray]:
    fields = [line.rstrip(b" ").rsplit(b" ", width) for line in lines]
    return [row[0].decode() for row in fields], np.array([list(map(float, row[1:])) for row in fields], np.float32)


@pytest.mark.parametrize(
    "name, width",
    [
        ("fake_embeddings.5d.txt", 5),
        ("gensim_test_glove.txt", 50),
        ("gensim_toy-model.vec", 5),
        ("gensim_word2vec_pre_kv_c", 10),
        ("glove.6B.100d.sample.txt.gz", 100),
        ("glove.6B.300d.sample.txt.gz", 300),
        ("torchtext_glove.840B.300d.zip", 300),
        ("torchtext_glove.6B.zip/glove.6B.50d.txt", 50),
        ("torchtext_glove.6B.zip/glove.6B.200d.txt", 200),
    ],
)
def test_published_files(shared: Path, name: str, width: int) -> None:
    path = shared / "fixtures" / "vectors" / name
    if ".zip" in name:
        archive, _, member = str(path).partition(".zip")
        with zipfile.ZipFile(archive + ".zip") as file:
            content = file.read(member[1:] or file.namelist()[0])
    else:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    lines = content.removesuffix(b"\n").split(b"\n")
    if len(lines[0].split()) == 2:
        assert int(lines[0].split()[0]) == len(lines) - 1
        lines = lines[1:]
    words, vectors = table(path)
    expected_words, expected = parsed(lines, width)
    assert words == expected_words
    same_bits(vectors, expected)


@pytest.mark.parametrize(
    "name, named",
    [
        ("torchtext_wiki.en.vec", ["2519370", "99"]),  # its header is that of the whole file
        ("gensim_toy-model.bin", ["fastText", ".vec"]),
        ("torchtext_glove.6B.zip", ["glove.6B.zip/glove.6B.100d.txt", "glove.6B.300d.txt"]),
        ("torchtext_glove.6B.zip/glove.txt", ["glove.txt", "glove.6B.300d.txt"]),
    ],
)
def test_published_files_that_are_refused(shared: Path, name: str, named: Sequence[str]) -> None:
    with pytest.raises(ValueError) as caught:
        ctx_jax.load(shared / "fixtures" / "vectors" / name)
    for part in (name.partition(".zip/")[0], *named):
        assert part in str(caught.value)


def changed(content: bytes, at: int) -> bytes:
    """With one byte another one."""
    copy = bytearray(content)
    copy[at] ^= 0xFF
    return bytes(copy)


GOOD = binary(["one", "two"], VECTORS[:2])
BROKEN = {
    "empty": (b"", ["empty"]),
    "empty_gzip": (gzip.compress(b""), ["empty"]),
    "header_of_more_words": (b"3 2\na 1 2\nb 3 4\n", ["3", "2"]),
    "header_of_fewer_words": (b"1 2\na 1 2\nb 3 4\n", ["1", "2"]),
    "header_alone": (b"3 2\n", ["3", "0"]),
    "header_of_no_words": (b"0 2\n", ["line 1", "0"]),
    "header_of_no_width": (b"2 0\na\nb\n", ["line 1", "0"]),
    "header_beyond_memory": (b"2 999999999\na 1 2\n", ["line 1", "999999999"]),
    "header_of_more_numbers": (b"2 3\na 1 2\nb 3 4\n", ["line 2", "2", "3", "'a'"]),
    "header_of_fewer_numbers": (b"2 2\na 1.5 2.5 3.5\nb 1.5 2.5 3.5\n", ["line 2", "3", "2", "'a'"]),
    "width_that_falls": (b"a 1 2\nb 3\nc 5 6\n", ["line 2", "1", "'b'"]),
    "width_that_grows": (b"a 1.0 2.0\nb 3.0 4.0\nc 5.0 6.0 7.0\n", ["line 3", "3", "'c'"]),
    "width_that_grows_by_exponents": (b"a 1.0 2.0\nb 3.0 4.0\nc 5e-05 6.0 7.0\n", ["line 3", "3", "'c'"]),
    "empty_line_within": (b"a 1 2\n\nb 3 4\n", ["line 2", "0"]),
    "endless_empty_lines": (b"1 2\na 1 2" + b"\n" * (1 << 23), ["line 3", "longer"]),
    "no_word": (b"a 1 2\n 3 4\n", ["line 2"]),
    "word_twice": (b"a 1 2\nb 3 4\na 5 6\n", ["line 3", "line 1", "'a'"]),
    "word_twice_after_a_header": (b"3 2\na 1 2\nb 3 4\na 5 6\n", ["line 4", "line 2", "'a'"]),
    "nan": (b"2 2\na 1 2\nb nan 4\n", ["line 3", "'b'", "NaN"]),
    "infinity": (b"a 1 2\nb 3 -inf\n", ["line 2", "'b'", "infinity"]),
    "beyond_float32": (b"a 1 2\nb 3 1e39\n", ["line 2", "'b'", "float32"]),
    "no_number": (b"a 1 2\nb 3 4x\nc 5 6\n", ["line 2", "'4x'", "'b'"]),
    "no_number_at_first": (b"3 2\na one 2\nb 3 4\nc 5 6\n", ["line 2", "'one'", "'a'"]),
    "two_numbers_in_one": (b"a 1 2\nb 3.0.5 4\n", ["line 2", "'3.0.5'", "'b'"]),
    # As many numbers as two lines of two: none may take another's place.
    "a_number_of_another_line": (b"a 1 2\nb 3.0.5 4\nc 5  \nd 7 8\n", ["line 3", "1", "'c'"]),
    "a_decimal_comma": (b"a 1 2\nb 3,5 4\nc 1 2\n", ["line 2", "'3,5'", "'b'"]),
    "not_utf8": (b"a 1 2\n\xe9t\xe9 3 4\n", ["line 2", "UTF-8"]),
    "endless_line": (b"1 2\n" + b"a" * (1 << 23), ["line 2", "longer"]),
    "endless_word": (b"a 1 2\n" + b"b" * (1 << 17) + b" 3 4\n", ["line 2", "65536"]),
    "binary_cut_short": (GOOD[:-3], ["entry 2", "2"]),
    "binary_without_its_last_entry": (GOOD[: len(GOOD) - 17], ["2", "1"]),
    "binary_with_bytes_left_over": (GOOD + b"more", ["left over", "2"]),
    "binary_with_a_nan": (
        binary(["one", "two"], np.float32([[1, 2], [3, np.nan]])),
        ["entry 2", "'two'", "NaN"],
    ),
    "binary_word_twice": (binary(["one", "two", "one"], VECTORS[:3]), ["entry 3", "entry 1", "'one'"]),
    "binary_not_utf8": (GOOD.replace(b"two", b"\xe9t\xe9"), ["entry 2", "UTF-8"]),
    "binary_without_a_word": (GOOD.replace(b"two", b""), ["entry 2"]),
    "binary_endless_word": (b"2 1\n" + bytes(1 << 17), ["entry 1", "65536"]),
    "gzip_cut_short": (gzip.compress(FORMATS["glove"][1])[:-20], ["damaged"]),
    "gzip_changed": (changed(gzip.compress(FORMATS["glove"][1]), -6), ["damaged"]),
    "xz_cut_short": (lzma.compress(FORMATS["glove"][1])[:-20], ["damaged"]),
    "zip_cut_short": (zipped(FORMATS["glove"][1])[:-40], ["damaged"]),
    "zip_changed": (changed(zipped(FORMATS["glove"][1]), 100), ["damaged"]),
    "zip_of_several": (zipped(b"a 1 2\n", other=b"b 3 4\n"), ["broken/table", "other"]),
    "zip_of_a_table_and_a_text": (zipped(b"a 1 2\n", readme=b"About it.\n"), ["broken/table", "readme"]),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_damaged_file_is_an_error_that_names_the_file_and_the_place(tmp_path: Path, fault: str) -> None:
    content, named = BROKEN[fault]
    (tmp_path / "broken").write_bytes(content)
    with pytest.raises(ValueError) as caught:
        ctx_jax.load(tmp_path / "broken")
    for part in (str(tmp_path / "broken"), *named):
        assert part in str(caught.value)


def test_a_damaged_header_does_not_take_memory_or_time(tmp_path: Path) -> None:
    (tmp_path / "table").write_bytes(b"999999999999 60000\na 1 2\n")
    with pytest.raises(ValueError, match="line 2"):
        read(tmp_path / "table")


def hdf5() -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as content:
        content["x"] = VECTORS
    return file.getvalue()


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, words=VECTORS, more=VECTORS)
    return file.getvalue()


NO_TABLES = {
    "hdf5": hdf5(),
    "npz": npz(),
    "safetensors": save({"x": VECTORS}),
    "json": json.dumps({"model_type": "bert", "sizes": [1, 2, 3]}, indent=1).encode(),
    "prose": b"The river has two banks.\nOne of them is a bank of 3\nor 4 people.\n",
    "words": b"the\ncat\nsat\n",
    "zipped_prose": zipped(b"The river has two banks.\n"),
    "zip_of_nothing": b"PK\x05\x06" + bytes(18),
}


@pytest.mark.parametrize("kind", NO_TABLES)
def test_other_files_are_no_tables(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_bytes(NO_TABLES[kind])
    assert read(tmp_path / "file") is None
    with pytest.raises(FileNotFoundError, match="file"):
        ctx_jax.load(tmp_path / "file")


def test_a_member_of_an_archive_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "tables.zip").write_bytes(zipped(b"a 1 2\n", other=b"b 3 4\n"))
    assert table(tmp_path / "tables.zip" / "other")[0] == ["b"]
    with pytest.raises(ValueError, match="step"):
        ctx_jax.load(tmp_path / "tables.zip" / "other", step=3)


def test_folders_and_absent_files_are_no_tables(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a 1 2\n")
    for path in (tmp_path, tmp_path / "absent", tmp_path / "file" / "member"):
        assert read(path) is None
        with pytest.raises(FileNotFoundError):
            ctx_jax.load(path)


@pytest.mark.parametrize("header", [True, False])
def test_text_is_read_as_it_was_written(tmp_path: Path, header: bool) -> None:
    bits = np.random.default_rng(1).integers(0, 1 << 32, (3000, 4), np.uint32)  # floats of every size
    vectors = np.where(np.isfinite(bits.view(np.float32)), bits.view(np.float32), np.float32(0))
    words = [*WORDS, *(f"w{number}" for number in range(3000 - len(WORDS)))]
    write_text(tmp_path / "table.vec", words, vectors, header=header)
    found, read_vectors = table(tmp_path / "table.vec")
    assert found == words
    same_bits(read_vectors, vectors)
    assert (tmp_path / "table.vec").read_bytes().startswith(b"3000 4\nthe " if header else b"the ")


def test_binary_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_binary(tmp_path / "table.bin", WORDS[:BARE], VECTORS[:BARE])
    assert (tmp_path / "table.bin").read_bytes() == binary(WORDS[:BARE], VECTORS[:BARE])
    found, vectors = table(tmp_path / "table.bin")
    assert found == list(WORDS[:BARE])
    same_bits(vectors, VECTORS[:BARE])


@pytest.mark.parametrize("write", [write_text, write_binary])
@pytest.mark.parametrize(
    "words, vectors, named",
    [
        (["a", "b"], VECTORS[:3], "2"),
        (["a", ""], VECTORS[:2], "''"),
        (["a", "a"], VECTORS[:2], "'a'"),
        (["a", "b\nc"], VECTORS[:2], "b.*c"),
        (["a", " b"], VECTORS[:2], "' b'"),
        (["a", "b 0.5"], VECTORS[:2], "'b 0.5'"),
        (["a", "\ud800"], VECTORS[:2], "surrogate"),
        (["a", "b"], [[1.0, 2.0], [3.0, np.nan]], "'b'"),
        (["a", "b"], np.array([[1.0, 2.0], [3.0, 1e39]]), "'b'"),
        ([], np.zeros((0, 3)), "0|none"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(
    tmp_path: Path, write: Callable[..., None], words: list[str], vectors: Any, named: str
) -> None:
    with pytest.raises(ValueError, match=f"table.*({named})"):
        write(tmp_path / "table", words, vectors)
    assert not list(tmp_path.iterdir())


def test_a_word_with_a_space_is_not_written_as_binary(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'a lot'"):
        write_binary(tmp_path / "table", ["a lot"], VECTORS[:1])


def test_nothing_plain_is_written_under_the_name_of_an_archive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.gz"):
        write_text(tmp_path / "table.vec.gz", ["a"], VECTORS[:1])
