"""Corpora by name: what a spec reads, where documents begin, and the errors of bad input."""

import gzip
import lzma
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ctx_jax.data import python_docs, text_files
from ctx_jax.data.cache import build_cache
from ctx_jax.data.config import TextConfig
from ctx_jax.data.corpora import PythonDocs, Several, TextFiles, resolve, source_of
from ctx_jax.data.text_files import list_files, read_lines
from ctx_jax.io.errors import ConfigError
from ctx_jax.tokenizers.vocabulary import build


def _read(spec: str | Path, **settings: Any) -> list[list[str]]:
    return list(resolve(str(spec), "train", **settings).documents())


def test_plain_and_compressed_files_read_the_same(tmp_path: Path) -> None:
    content = "\ufeffthe cat .\r\n\n日本 naïve\nno end".encode()
    (tmp_path / "a.txt").write_bytes(content)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(content))
    (tmp_path / "c.txt.xz").write_bytes(lzma.compress(content))
    expected = [[], ["the", "cat", "."], [], ["日本", "naïve"], ["no", "end"]]
    assert _read(tmp_path / "a.txt") == expected
    assert _read(f"{tmp_path}/b.txt.gz, {tmp_path}/c*") == expected + expected
    assert _read(f"{tmp_path}/*.txt*") == expected * 3


def test_prose_is_split_into_sentences_and_words(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Dr. No isn't in. Is he?\n\nYes.\n")
    first, second = ["Dr.", "No", "is", "n't", "in", "."], ["Is", "he", "?"]
    assert _read(tmp_path / "a.txt", rule="prose", sentences="split") == [[], first, second, [], ["Yes", "."]]
    assert _read(tmp_path / "a.txt", rule="prose")[1] == first + second


def test_globs_are_sorted_and_must_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.txt", "a.txt", "[x].txt"):
        (tmp_path / name).write_text(name)
    assert [path.name for path in list_files(f"{tmp_path}/?.txt")] == ["a.txt", "b.txt"]
    assert [path.name for path in list_files(f"{tmp_path}/[x].txt")] == ["[x].txt"]  # a name before a pattern
    monkeypatch.chdir(tmp_path)
    assert list_files("b.txt,a.txt") == (Path("b.txt"), Path("a.txt"))
    with pytest.raises(FileNotFoundError, match=r"no file matches '.*\*\.text'.*python-docs"):
        list_files(f"a.txt,{tmp_path}/*.text")
    with pytest.raises(FileNotFoundError, match=rf"is a folder: name its files, as in '{tmp_path}/\*\.txt'"):
        list_files(f"{tmp_path}/")
    with pytest.raises(ValueError, match=r"named twice: .*a\.txt"):
        list_files("a.txt,?.txt")
    with pytest.raises(ValueError, match="no text file was named"):
        resolve(" , ", "train")


@pytest.mark.parametrize(
    ("line", "message", "replaced"),
    [
        (b"caf\xe9 x", r"a\.txt, line 3, byte 14 of the text: not UTF-8", "caf\ufffd x"),
        (b"ab\0c", r"a\.txt, line 3, byte 13 of the text: a NUL", "ab\ufffdc"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_bad_characters_are_named_or_replaced(
    tmp_path: Path, line: bytes, message: str, replaced: str, zipped: bool
) -> None:
    content = b"\xef\xbb\xbfone\n" + b"two\n" + line + b"\nlast\n"
    path = tmp_path / ("a.txt.gz" if zipped else "a.txt")
    path.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(ValueError, match=message.replace(r"a\.txt", path.name) + r"(?s:.*)errors set to replace"):
        _read(path)
    assert list(read_lines(path, "replace")) == ["one", "two", replaced, "last"]


def test_several_corpora_are_one_whose_texts_stay_apart(tmp_path: Path) -> None:
    for name, content in (("a.txt", "one two\nthree\n"), ("b.txt", "four\n")):
        (tmp_path / name).write_text(content)
    a, b = (resolve(str(tmp_path / name), "valid") for name in ("a.txt", "b.txt"))
    both = Several((a, b))
    assert (both.name, both.size) == ("a+b", len("one two\nthree\nfour\n"))
    sentences = build_cache(both, tmp_path / "cache", log=lambda line: None)
    assert list(sentences) == [["one", "two"], ["three"], ["four"]] and sentences.documents.tolist() == [0, 2]
    assert both.identity() != Several((b, a)).identity()
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"five\n"))
    assert Several((a, resolve(str(tmp_path / "c.txt.gz"), "valid"))).size is None


def test_a_file_that_vanishes_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a")
    source = resolve(str(path), "train")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.txt.*gone now"):
        list(source.documents())
    with pytest.raises(FileNotFoundError, match=r"a\.txt.*gone now"):
        source.identity()


def test_an_empty_file_and_a_damaged_archive_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "empty.gz").write_bytes(gzip.compress(b""))
    for name in ("empty.txt", "empty.gz"):
        with pytest.raises(ValueError, match=f"{name} is empty"):
            _read(tmp_path / name)
    whole = gzip.compress(os.urandom(5000).hex().encode())
    (tmp_path / "cut.gz").write_bytes(whole[:-100])
    (tmp_path / "no.xz").write_bytes(whole)
    for name in ("cut.gz", "no.xz"):
        with pytest.raises(ValueError, match=f"{name}.*damaged archive"):
            _read(tmp_path / name)


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "LONGEST_LINE", 1000)
    for name, opened in (("a.txt", open), ("a.gz", gzip.open), ("a.xz", lzma.open)):
        with opened(tmp_path / name, "wb") as file:
            file.write(b"x" * 999 + b"\n" + b"y" * 3_000_000)
        lines = read_lines(tmp_path / name, "strict")
        assert len(next(lines)) == 999
        with pytest.raises(ValueError, match=rf"{name}, line 2: over 1000 bytes without a line end"):
            next(lines)


@pytest.mark.parametrize("rule", ["whitespace", "prose"])
def test_a_line_of_a_million_characters(tmp_path: Path, rule: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text("abcd " * 100_000 + "x" * 500_000 + "\nend\n")
    words = _read(path, rule=rule)[1]
    assert len(words) == 100_001
    assert len(words[-1]) == 500_000


def test_identity_follows_the_files_and_the_rules(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a")
    first = resolve(str(path), "train").identity()
    assert resolve(str(path), "valid").identity() == first
    assert resolve(str(path), "train", rule="prose").identity() != first
    os.utime(path, (1, 1))
    assert resolve(str(path), "train").identity() != first


def test_where_validation_text_comes_from(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a")
    assert source_of(TextConfig(), "valid") == PythonDocs("valid")
    assert source_of(TextConfig(train=str(path)), "valid") is None
    given = source_of(TextConfig(valid=str(path)), "valid")
    assert isinstance(given, TextFiles)
    assert given.files == (path,)
    assert source_of(TextConfig(train=str(path), valid="python-docs"), "valid") == PythonDocs("valid")
    assert source_of(TextConfig(valid="python-docs:test"), "valid") == PythonDocs("test")
    with pytest.raises(ValueError, match="splits train, valid and test, not 'tset'"):
        resolve("python-docs:tset", "valid")
    with pytest.raises(ConfigError, match=r"^data\.train .*python-docs:test"):
        source_of(TextConfig(train="python-docs:test"), "train")


@pytest.fixture(scope="module")
def docs() -> dict[str, list[list[str]]]:
    return {split: list(PythonDocs(split).documents()) for split in ("train", "valid", "test")}


@pytest.mark.slow
def test_the_embedded_corpus_is_large_split_and_without_duplicates(docs: dict[str, list[list[str]]]) -> None:
    counts = {split: Counter(word for sentence in stream for word in sentence) for split, stream in docs.items()}
    assert counts["valid"].total() >= 12_000
    assert counts["test"].total() >= 12_000
    assert sum(count.total() for count in counts.values()) > 250_000
    assert counts["train"].total() > 0.85 * sum(count.total() for count in counts.values())
    sentences = [" ".join(sentence).lower() for stream in docs.values() for sentence in stream if sentence]
    assert len(set(sentences)) == len(sentences)
    # With the vocabulary of the quickstart, which prints this share of <UNK> when it ends: 4.14 % on Python 3.11.7.
    from ctx_jax.commands.train import find, load

    settings = load(find("quickstart"))[0].task.data
    assert settings.train == "python-docs" and not settings.vocabulary
    known = set(build(docs["train"], size=settings.vocabulary_size or None, minimum_count=settings.minimum_count).words)
    targets = counts["valid"].total() + sum(1 for sentence in docs["valid"] if sentence)
    assert sum(count for word, count in counts["valid"].items() if word not in known) <= 0.05 * targets
    assert counts["train"].most_common(1)[0][0] in {"the", "."}


@pytest.mark.slow
def test_the_embedded_corpus_is_prose(docs: dict[str, list[list[str]]]) -> None:
    text = "\n".join(" ".join(sentence) for sentence in docs["train"])
    assert not any(sign in text for sign in (">>>", "```", "|", "{", "\\", ":class:", " = "))
    assert "keys must be strings" in text or "dictionary" in text


def test_modules_in_c_give_their_own_docstrings() -> None:
    names = python_docs.modules_in_c()
    assert {"math", "time", "_socket"} <= {*names}
    assert not {"builtins", "readline", "_testcapi", "os"} & {*names}
    texts = python_docs._docstrings_of_module("math")
    assert texts[0] == math.__doc__
    assert math.sqrt.__doc__ in texts
    assert python_docs._docstrings_of_module("no_such_module") == []


def test_markup_goes_and_code_is_left_out() -> None:
    text = """spam(x, y) -> str

    Return the *best* ``spam`` of :class:`~menu.Spam` objects [1]_.  It is
    never empty, e.g. after close().

        >>> spam(1, 2)
        'The spam is here.'

    The code follows::

        this is the code of the example.

    - The first item is a sentence of its own.

    +------+ The table is not prose. +---+
    """
    assert list(python_docs._sentences(text)) == [
        "Return the best spam of Spam objects .",
        "It is never empty , e.g. after close .",
        "The code follows :",
        "The first item is a sentence of its own .",
    ]


def _texts() -> Iterator[tuple[str, dict[str, Any]]]:
    yield "0", {"text": "the cat .\n\nthe dog"}
    yield "1", {"text": "日本"}


@pytest.mark.slow
def test_a_prepared_tfds_set_is_read_without_tensorflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow_datasets as tfds  # takes seconds

    class CtxSmallTexts(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc, name-defined]
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> Any:
            features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, _: Any) -> Any:
            return {"train": _texts(), "validation": _texts()}

        def _generate_examples(self) -> Any:
            yield from _texts()

    class CtxUnvalidated(CtxSmallTexts):
        def _split_generators(self, _: Any) -> Any:
            return {"train": _texts(), "test": _texts()}

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"not prepared.*ctx-jax\[tfds\].*tfds\.builder\('ctx_small_texts', "):
        resolve("tfds:ctx_small_texts", "train")
    CtxSmallTexts(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    expected = Counter({("the", "cat", "."): 1, (): 3, ("the", "dog"): 1, ("日本",): 1})
    for spec in ("tfds:ctx_small_texts", "tfds:ctx_small_texts:validation", f"tfds:{tmp_path}/ctx_small_texts/1.0.0"):
        assert Counter(map(tuple, _read(spec))) == expected
    train, valid = (source_of(TextConfig(train="tfds:ctx_small_texts"), split) for split in ("train", "valid"))
    assert train is not None
    assert valid is not None
    assert (train.name, valid.name) == ("tfds-ctx_small_texts-train", "tfds-ctx_small_texts-validation")
    assert train.identity() != valid.identity()
    with pytest.raises(ValueError, match="no 'dev' split, only train, validation"):
        resolve("tfds:ctx_small_texts:dev", "train")
    with pytest.raises(FileNotFoundError, match="no data set 'ctx_nothing'"):
        resolve("tfds:ctx_nothing", "train")
    CtxUnvalidated(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    message = r"^ctx_unvalidated has no validation split, only train, test: .*tfds:ctx_unvalidated:test.*data\.valid"
    with pytest.raises(ValueError, match=message):
        source_of(TextConfig(train="tfds:ctx_unvalidated"), "valid")
    named = source_of(TextConfig(train="tfds:ctx_unvalidated", valid="tfds:ctx_unvalidated:test"), "valid")
    assert named is not None
    assert named.name == "tfds-ctx_unvalidated-test"
    assert source_of(TextConfig(train="tfds:ctx_unvalidated:train"), "valid") is None
    assert "tensorflow" not in sys.modules
