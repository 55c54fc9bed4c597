"""Vocabularies: counts against collections.Counter, ids against bilm-tf, malformed files refused by line."""

import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ctx_jax.io.errors import MissingFileError
from ctx_jax.tokenizers import vocabulary as vocabularies
from ctx_jax.tokenizers.vocabulary import MARKERS, Vocabulary, build, count_words


def _sentences(number: int = 150) -> list[list[str]]:
    draws = np.random.default_rng(0).zipf(1.3, (number, 8)) % 997
    return [[f"w{draw}" for draw in row] for row in draws] + [["é", "日本", "\u2028x", "z\x85z"], []]


@pytest.mark.parametrize("limit", [1, 5, 100, 10**6])
def test_counts_equal_a_counter_whether_or_not_they_spill(limit: int) -> None:
    sentences = _sentences()
    counted = list(count_words(iter(sentences), limit=limit))
    assert counted == sorted(Counter(word for sentence in sentences for word in sentence).items())


def test_counting_merges_runs_and_cleans_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(vocabularies, "_FAN", 3)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    most = 0
    counts = count_words(_sentences(), limit=40)
    for _ in counts:
        most = max(most, len(list(tmp_path.glob("*/*"))))
    assert 0 < most <= 3
    assert not list(tmp_path.iterdir())


def test_build_orders_by_count_then_alphabet() -> None:
    sentences = [["b", "a", "c"], ["b", "a", "<UNK>"], ["b", "</S>", "d"]]
    assert build(sentences, size=None).words == (*MARKERS, "b", "a", "c", "d")
    assert build(sentences, size=5).words == (*MARKERS, "b", "a")
    assert build(sentences, size=None, minimum_count=2).words == (*MARKERS, "b", "a")
    assert build(_sentences(), size=50, limit=7) == build(_sentences(), size=50)
    expected = sorted(Counter(w for s in _sentences() for w in s).items(), key=lambda item: (-item[1], item[0]))[:47]
    with pytest.raises(ValueError, match="white space"):
        build(_sentences(), size=None)  # a word that holds a line separator
    assert build(_sentences(), size=50).words[3:] == tuple(word for word, _ in expected)


def test_build_refuses_what_leaves_no_words() -> None:
    with pytest.raises(ValueError, match=r"data\.vocabulary_size must be above the 3"):
        build([["a"]], size=3)
    with pytest.raises(ValueError, match=r"data\.minimum_count .* 2 times"):
        build([["a"]], size=None, minimum_count=2)


def test_ids_match_bilm_tf(golden: Path) -> None:
    pinned = json.loads((golden / "packing" / "ids_and_packing.json").read_text())
    vocabulary = Vocabulary(tuple(pinned["vocab"]))
    ids = vocabulary.ids(pinned["words"])
    assert ids.dtype == np.int32
    assert ids.tolist() == pinned["word_ids"]


def test_reads_a_bilm_tf_file(shared: Path) -> None:
    path = shared / "fixtures/elmo/bilm_tf_train_text/vocab.txt"
    vocabulary = Vocabulary.read(path)
    assert list(vocabulary.words) == path.read_text().split()
    assert (vocabulary.begin, vocabulary.end, vocabulary.unknown) == (0, 1, 2)


def test_writing_and_reading_round_trips(tmp_path: Path) -> None:
    vocabulary = build([["naïve", "日本", "a"]], size=None)
    vocabulary.write(tmp_path / "vocabulary.txt")
    assert Vocabulary.read(tmp_path / "vocabulary.txt") == vocabulary
    assert (tmp_path / "vocabulary.txt").read_text(encoding="utf-8") == vocabulary.text()
    assert vocabulary != build([["a"]], size=None)
    assert len(vocabulary) == 6


def test_reads_windows_line_ends_and_the_skipped_line(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.txt"
    path.write_bytes(b"\xef\xbb\xbf</S>\r\n<S>\r\n!!!MAXTERMID\r\n<UNK>\r\na")
    assert Vocabulary.read(path).words == ("</S>", "<S>", "<UNK>", "a")
    assert Vocabulary.read(path).begin == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"the\n<UNK>\na\n", r"vocabulary\.txt: .*missing: <S>, </S>\."),
        (b"<S>\n</S>\nthe\n", "missing: <UNK>"),
        (b"", "missing: <S>, </S>, <UNK>"),
        (b"<S>\n</S>\n<UNK>\nthe\na\nthe\n", "line 6: 'the' .*line 4"),
        (b"<S>\n</S>\n\n<UNK>\n", "line 3: empty"),
        (b"<S>\n</S>\n<UNK>\ncaf\xe9\n", "line 4: not UTF-8"),
        (b"<S>\n</S>\n<UNK>\na b\n", "white space"),
    ],
)
def test_bad_files_are_refused_and_left_alone(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "vocabulary.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Vocabulary.read(path)
    assert path.read_bytes() == content
    with pytest.raises(MissingFileError, match=r"none\.txt"):
        Vocabulary.read(tmp_path / "none.txt")
