"""Headers of labelled files: what is one, and the warning where a first row may be one."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import pytest
from label_files import give, pairs, put

from ctx_jax.data.columns import Columns
from ctx_jax.data.labelled import read_sentences, read_texts
from ctx_jax.io.errors import InputError

TEXTS = Columns.parse("text,label", "text")
WORDS = Columns.parse("form,upos", "form")
ROWS = [("a great film", "pos"), ("no, thanks", "neg"), ("fine", "pos"), ("dull", "neg")]


def table(name: str, rows: Sequence[tuple[str, ...]]) -> str:
    """The rows as a .csv, a .tsv, or in columns between white space."""
    out = io.StringIO()
    delimiter = {".csv": ",", ".tsv": "\t"}.get(Path(name).suffix)
    if delimiter is None:
        return "".join(" ".join(row) + "\n" for row in rows)
    csv.writer(out, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return out.getvalue()


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt"])
@pytest.mark.parametrize("header", [("Text", "Label"), ("TEXT", "label")])
def test_the_case_of_a_header_does_not_count(tmp_path: Path, name: str, header: tuple[str, ...]) -> None:
    path = put(tmp_path, name, table(name, [header, *ROWS]))
    assert pairs(read_texts(path, TEXTS)) == ROWS


@pytest.mark.parametrize("header", [("text", " label"), (" Text ", " Label"), ("text", "label ")])
def test_spaces_around_the_names_of_a_header_do_not_count(tmp_path: Path, header: tuple[str, ...]) -> None:
    path = put(tmp_path, "a.csv", table("a.csv", [header, *ROWS]))
    for labels in (True, False):
        assert pairs(read_texts(path, TEXTS, labels=labels)) == ROWS


def test_a_name_as_it_is_set_goes_before_one_in_another_case(tmp_path: Path) -> None:
    rows = [("Text", "text", "label"), *(("other", *row) for row in ROWS)]
    assert pairs(read_texts(put(tmp_path, "a.tsv", table("a.tsv", rows)), TEXTS)) == ROWS


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records if record.name == "ctx_jax"]
    caplog.clear()
    return found


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt"])
@pytest.mark.parametrize("header", [("sentence", "sentiment"), ("Review", "Label"), ("text", "gold_label")])
def test_a_first_row_that_may_be_a_header_is_an_example_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, header: tuple[str, ...]
) -> None:
    path = put(tmp_path, name, table(name, [header, *ROWS]))
    assert pairs(read_texts(path, TEXTS)) == [header, *ROWS]
    (message,) = warned(caplog)
    assert f"{path}, line 1" in message
    named = Columns.parse(message.rpartition(" ")[2], "text")  # what it says to set
    assert pairs(read_texts(path, named)) == ROWS and not warned(caplog)


@pytest.mark.parametrize(
    "rows",
    [
        ROWS,
        ROWS[:1],
        [("a", "x"), ("b", "y"), ("c", "z")],  # no label recurs
        [("a", "7"), ("b", "0"), ("c", "0")],  # a number is no name
        [("text", "pos"), *ROWS],
    ],
)
def test_no_warning_for_rows_that_may_well_be_examples(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rows: list[tuple[str, str]]
) -> None:
    for name in ("a.csv", "a.tsv"):
        assert pairs(read_texts(put(tmp_path, name, table(name, rows)), TEXTS)) == rows
    assert not warned(caplog)


def test_a_row_of_several_labels_may_be_the_only_one_with_all_of_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [("a", "funny;sad"), ("b", "sad"), ("c", ""), ("d", "dark"), ("e", "dark")]
    path = put(tmp_path, "a.tsv", table("a.tsv", rows))
    assert pairs(read_texts(path, TEXTS, empty_labels=True)) == rows and not warned(caplog)
    path = put(tmp_path, "b.tsv", "sentence\tgenres\n" + table("a.tsv", rows))
    list(read_texts(path, TEXTS, empty_labels=True))
    assert len(warned(caplog)) == 1


def test_a_header_of_words_under_other_names_is_warned_of_and_a_rare_label_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = "I PRON\nsee VERB\n\nyou PRON\n"
    (one, _) = read_sentences(put(tmp_path, "a.txt", "Word Tag\n" + words), WORDS)
    assert one.item == ["Word", "I", "see"] and len(warned(caplog)) == 1
    found = pairs(read_sentences(put(tmp_path, "b.txt", "Form UPOS\n" + words), WORDS))
    assert found == [(["I", "see"], ["PRON", "VERB"]), (["you"], ["PRON"])]
    list(read_sentences(put(tmp_path, "c.txt", "Alas INTJ\n" + words), WORDS))
    rows = [("1", "Word", "word", "X"), ("2", "a", "a", "DET"), ("3", "the", "the", "DET")]
    conllu = "".join("\t".join([*row, *"______"]) + "\n" for row in rows)
    ((item, _),) = pairs(read_sentences(put(tmp_path, "d.conllu", conllu), WORDS))
    assert item == ["Word", "a", "the"]
    assert not warned(caplog)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize("header", [("text", "id"), ("Text", "id"), ("id", "text"), ("text", "id", "split"), ("text",)])
def test_a_header_may_lack_the_label_where_none_is_needed(tmp_path: Path, name: str, header: tuple[str, ...]) -> None:
    rows = [tuple(text if key in ("text", "Text") else "7" for key in header) for text, _ in ROWS]
    path = put(tmp_path, name, table(name, [header, *rows]))
    found = read_texts(path, TEXTS, labels=False, is_label={"pos", "neg"}.__contains__)
    assert [each.item for each in found] == [text for text, _ in ROWS]


def test_a_text_that_is_a_name_beside_a_label_is_no_header(tmp_path: Path) -> None:
    path = put(tmp_path, "a.tsv", table("a.tsv", [("text", "pos"), *ROWS]))
    found = read_texts(path, TEXTS, labels=False, is_label={"pos", "neg"}.__contains__)
    assert pairs(found) == [("text", "pos"), *ROWS]


@pytest.mark.parametrize("last", ["pos 7 a film without this text", "neg 8"])
def test_a_header_of_columns_between_spaces_counts_whatever_a_text_ends_in(tmp_path: Path, last: str) -> None:
    rows = ["pos 1 a fine film", "neg 2 a poor plot", "pos 3 it was great", "neg 4 it was bad"]
    path = put(tmp_path, "a.txt", "\n".join(["label id text", *rows, last, ""]))
    columns = Columns.parse("text,label", "text")
    if len(last.split()) == 2:
        with pytest.raises(InputError, match="line 6"):  # it has no text
            list(read_texts(path, columns))
    else:
        assert pairs(read_texts(path, columns)) == [
            (line.split(" ", 2)[2], line.split(" ")[0]) for line in (*rows, last)
        ]


LINE = "Please label this text"


@pytest.mark.parametrize("first", [LINE, "label this text", "the text has a label here"])
def test_a_text_that_holds_the_names_is_no_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str) -> None:
    is_label = {"pos", "neg"}.__contains__
    for others in (["one two three four"], ["fine"], []):
        text = "\n".join([first, *others]) + "\n"
        give(monkeypatch, text)
        for path in ("-", put(tmp_path, "a.txt", text)):
            found = read_texts(path, TEXTS, labels=False, is_label=is_label)
            assert [each.item for each in found] == [first, *others]
    long = [(f"{text} and so on and on", label) for text, label in ROWS]
    for columns, order in (("text,label", 1), ("label,text", -1)):
        rows = [row[::order] for row in [(first, "pos"), *long]]
        path = put(tmp_path, "a.txt", table("a.txt", rows))
        for labels in (True, False):
            found = read_texts(path, Columns.parse(columns, "text"), labels=labels, is_label=is_label)
            assert pairs(found) == [(first, "pos"), *long]
