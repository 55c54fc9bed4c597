"""Readers of sense-tagged text, pairs and archives: made-up data in each format, and the counts of the real sets."""

import json
import lzma
from collections import Counter
from pathlib import Path

import pytest
from evaluation_sets import (
    GOLD,
    PLACED,
    SEMCOR,
    write_blimp,
    write_coarse,
    write_framework,
    write_release,
    write_semcor,
    write_superglue,
    write_tar,
    write_wic,
)

from ctx_jax.data.archives import read_members
from ctx_jax.data.context_pairs import read_wic
from ctx_jax.data.pair_sets import read_blimp, read_similarity
from ctx_jax.data.sense_files import read_coarse_wsd, read_framework, read_semcor
from ctx_jax.io.errors import InputError, MissingFileError


def test_an_archive_reads_as_its_folder(tmp_path: Path) -> None:
    folder = write_coarse(tmp_path)
    assert read_coarse_wsd(write_tar(folder, tmp_path / "coarse.tar.xz")) == read_coarse_wsd(folder)
    names = [name for name, _ in read_members(folder, lambda name: name.endswith("gold.txt"))]
    assert names == sorted(names) and len(names) == 4
    with pytest.raises(MissingFileError, match="absent"):
        list(read_members(tmp_path / "absent", bool))
    with pytest.raises(InputError, match=r"coarse\.tar\.xz holds none"):
        list(read_members(tmp_path / "coarse.tar.xz", lambda name: False))
    data = (tmp_path / "coarse.tar.xz").read_bytes()
    (tmp_path / "coarse.tar.xz").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"coarse\.tar\.xz: damaged archive"):
        read_coarse_wsd(tmp_path / "coarse.tar.xz")


def test_coarse_wsd(tmp_path: Path) -> None:
    words = read_coarse_wsd(write_coarse(tmp_path))
    assert [word.word for word in words] == ["dax", "wug"]
    for word in words:
        assert (len(word.train), len(word.test)) == (12, 9)
        for sentence in (*word.train, *word.test):
            (tag,) = sentence.tags
            assert sentence.words[tag.start : tag.stop] == [word.word] and len(tag.senses) == 1


@pytest.mark.parametrize(
    "file, change, message",
    [
        ("test.data.txt", lambda text: text.replace("\t", " ", 1), r"wug/test\.data\.txt, line 1"),
        ("test.data.txt", lambda text: "99" + text, r"wug/test\.data\.txt, line 1"),
        ("test.gold.txt", lambda text: "7" + text, r"wug/test\.gold\.txt, line 1: '70' is none of"),
        ("train.gold.txt", lambda text: text + "\n0", "12 lines and train.gold.txt 13"),
        ("classes_map.txt", lambda text: text[:-1], r"wug/classes_map\.txt must be a JSON object"),
    ],
)
def test_what_is_wrong_with_coarse_wsd_is_named(tmp_path: Path, file: str, change: object, message: str) -> None:
    folder = write_coarse(tmp_path)
    path = folder / "wug" / file
    path.write_text(change(path.read_text()))  # type: ignore[operator]
    with pytest.raises(InputError, match=message):
        read_coarse_wsd(folder)
    path.unlink()
    with pytest.raises(InputError, match=f"'wug' lacks {file}"):
        read_coarse_wsd(folder)


def test_semcor_splits_expressions_and_leaves_out_lost_senses(tmp_path: Path) -> None:
    first, second = read_semcor(write_semcor(tmp_path))
    assert first.words == ["The", "wugs", "ran", "off", "."]
    assert [(tag.start, tag.stop, tag.lemma, tag.part_of_speech, tag.senses) for tag in first.tags] == [
        (1, 2, "wug", "NOUN", ("wug%1:05:00::",)),
        (2, 4, "run_off", "VERB", ("run_off%2:38:01::",)),
    ]
    assert second.words[:4] == ["Dax", "Wug", "Club", "red"]
    assert [(tag.start, tag.stop, tag.part_of_speech) for tag in second.tags] == [
        (0, 3, "NOUN"), (4, 5, "NOUN"), (5, 6, "ADJ"), (6, 7, "NOUN"),
    ]  # fmt: skip
    assert second.tags[1].senses == ("wug%1:06:00::", "wug%1:05:00::")
    path = tmp_path / "semcor3.0" / "brown1" / "tagfiles" / "br-x01"
    for old, new in (("</wf>", "</w>"), ("lexsn=1:05:00::", "lexsn=9"), ("wnsn=2;1", "wnsn=2")):
        path.write_text(SEMCOR.replace(old, new))
        with pytest.raises(InputError, match=r"brown1/tagfiles/br-x01, line \d+"):
            list(read_semcor(tmp_path / "semcor3.0"))


def test_the_framework(tmp_path: Path) -> None:
    first, second = read_framework(write_framework(tmp_path), "senseval2")
    assert first.words == ["The", "wug", "ran", "off", "."]
    assert [(tag.start, tag.stop, tag.identifier[-4:]) for tag in first.tags] == [(1, 2, "t000"), (2, 4, "t001")]
    assert first.tags[0].senses == ("wug%1:05:00::", "wug%1:09:00::") and len(second.tags) == 3
    with pytest.raises(MissingFileError, match=r"has no senseval3\.gold\.key\.txt"):
        read_framework(tmp_path, "senseval3")
    gold = tmp_path / "senseval2.gold.key.txt"
    for text, message in (
        (GOLD.replace("d000.s001.t002", "d000.s001.t009"), "instance 'd000.s001.t002' needs gold"),
        (GOLD + "d000.s001.t009 x%1:05:00::\n", r"6 instances.*5.*d000\.s001\.t009"),
        (GOLD + GOLD, r"gold\.key\.txt, line 6"),
    ):
        gold.write_text(text)
        with pytest.raises(InputError, match=message):
            read_framework(tmp_path, "senseval2")
    gold.write_text(GOLD)
    (tmp_path / "senseval2.data.xml.xz").write_bytes(lzma.compress(b"<corpus><text>"))
    with pytest.raises(InputError, match=r"senseval2\.data\.xml\.xz: no XML"):
        read_framework(tmp_path, "senseval2")


def test_wic(tmp_path: Path) -> None:
    path = write_wic(tmp_path / "wic.jsonl.xz", [("wug", "A wug . B", "Wugs. Sentence one .", 1), ("dax", "x", "y", 0)])
    first, second = read_wic(path)
    assert (first.word, first.first, first.second, first.same) == (
        "wug", ["A", "wug", ".", "B"], ["Wugs.", "Sentence", "one", "."], True,
    )  # fmt: skip
    assert not second.same
    for row in ({"label": 2, "text": "Word: a. Sentence 1: b Sentence 2: c"}, {"label": 1, "text": "a"}, [1]):
        (tmp_path / "bad.jsonl").write_text(json.dumps(row))
        with pytest.raises(InputError, match=r"bad\.jsonl, line 1"):
            read_wic(tmp_path / "bad.jsonl")


def test_the_release_of_wic(tmp_path: Path) -> None:
    folder = write_release(tmp_path / "WiC")
    assert read_wic(folder) == read_wic(write_tar(folder, tmp_path / "wic.tar.xz")) == PLACED
    (folder / "README.txt").write_text("words\n")
    data, gold = (folder / "dev" / f"dev.{part}.txt" for part in ("data", "gold"))
    whole = data.read_text()
    for old, new in (("1-1", "1-3"), ("1-1", "1"), ("\tN\t", "\t")):
        data.write_text(whole.replace(old, new, 1))
        with pytest.raises(InputError, match=r"dev\.data\.txt, line 1"):
            read_wic(folder)
    data.write_text(whole)
    for text in ("T\n", "T\nX\n"):
        gold.write_text(text)
        with pytest.raises(InputError, match=r"dev/dev\.data\.txt"):
            read_wic(folder)
    gold.unlink()
    with pytest.raises(InputError, match="is missing"):
        read_wic(folder)


def test_superglues_wic(tmp_path: Path) -> None:
    path = write_superglue(tmp_path / "val.jsonl")
    assert read_wic(path) == PLACED
    first, second = map(json.loads, path.read_text().splitlines())
    for change in ({"end2": 99}, {"start1": 3}, {"start1": 7}, {"start2": None}, {"word": 1}, {"label": -1}):
        path.write_text("".join(json.dumps(row) + "\n" for row in (first, second | change)))
        with pytest.raises(InputError, match=r"val\.jsonl, line 2"):
            read_wic(path)
    del first["label"]
    path.write_text(json.dumps(first))
    with pytest.raises(InputError, match="label"):
        read_wic(path)


def test_blimp(tmp_path: Path) -> None:
    pairs = {"b": [("x y", "y x")] * 3, "a": [("p q", "q p")]}
    folder = write_blimp(tmp_path / "blimp", pairs)
    assert read_blimp(folder) == read_blimp(write_tar(folder, tmp_path / "blimp.tar.xz")) == dict(sorted(pairs.items()))
    assert read_blimp(folder / "b.jsonl", limit=2) == {"b": pairs["b"][:2]}
    assert read_blimp(folder, paradigms=["a"]) == {"a": pairs["a"]}
    with pytest.raises(InputError, match="lacks the paradigms c"):
        read_blimp(folder, paradigms=["a", "c"])
    with pytest.raises(InputError, match="limit must be at least 1, got 0"):
        read_blimp(folder, limit=0)
    (folder / "a.jsonl").write_text('{"UID": "a", "sentence_good": "x"}')
    with pytest.raises(InputError, match=r"a\.jsonl, line 1"):
        read_blimp(folder)


def test_similarity_lists(tmp_path: Path) -> None:
    (tmp_path / "B.txt").write_text("wug dax 3.5\nwug\tfep\t1\n\n")
    (tmp_path / "A.txt").write_text("a b -1e3\n")
    assert read_similarity(tmp_path) == {"A": [("a", "b", -1000.0)], "B": [("wug", "dax", 3.5), ("wug", "fep", 1.0)]}
    for line in ("wug dax", "wug dax x", "a b nan", "a b c 1"):
        (tmp_path / "A.txt").write_text(f"a b 1\n{line}\n")
        with pytest.raises(InputError, match=r"A\.txt, line 2"):
            read_similarity(tmp_path)


def test_the_counts_of_the_real_sets(shared: Path) -> None:
    """Those that their README states. Of CoarseWSD-20 it counts line ends, of which the last line has none."""
    data = shared / "data"
    sizes = {"apple": (2357, 1031), "arm": (422, 163), "bank": (1106, 454), "bow": (522, 214), "chair": (270, 129),
             "crane": (371, 156), "deck": (169, 98), "hood": (170, 81), "pound": (185, 96), "spring": (1063, 456),
             "square": (507, 206), "trunk": (163, 76)}  # fmt: skip
    words = read_coarse_wsd(data / "wsd" / "coarsewsd20_part.tar.xz")
    assert {word.word: (len(word.train) - 1, len(word.test) - 1) for word in words} == sizes
    for word in words:
        assert all(each.words[each.tags[0].start] == word.word for each in (*word.train, *word.test))
    for name, instances, sentences in (("semeval2007", 455, 135), ("senseval2", 2282, 242), ("senseval3", 1850, 352)):
        found = read_framework(data / "wsd", name)
        assert (sum(len(sentence.tags) for sentence in found), len(found)) == (instances, sentences)
    pairs = read_wic(data / "wsd" / "wic_part_5228.jsonl.xz")
    assert len(pairs) == 5228
    assert {len(each) for each in read_blimp(data / "blimp" / "blimp_part.tar.xz").values()} == {1000}
    lists = read_similarity(data / "wordsim")
    assert Counter({name: len(each) for name, each in lists.items()}).most_common(1) == [("EN-MEN-TR-3k", 3000)]
    assert len(lists) == 10 and len(lists["EN-SIMLEX-999"]) == 999


@pytest.mark.slow
def test_the_count_of_semcor(shared: Path) -> None:
    sentences = read_semcor(shared / "data" / "wsd" / "semcor3.0.tar.xz")
    assert sum(len(sentence.tags) for sentence in sentences) == 226_005
