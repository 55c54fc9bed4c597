"""Files of labelled texts and words, in each format, against what they say."""

import gzip
import json
import lzma
from pathlib import Path

import pytest
from label_files import give, pairs, put

from ctx_jax.data.columns import Columns
from ctx_jax.data.labelled import Example, LabelledData, digest, read_sentences, read_texts
from ctx_jax.io.errors import ConfigError, InputError, MissingFileError

TEXTS = Columns.parse("text,label", "text")
WORDS = Columns.parse("form,upos", "form")
CONLLU = """# text = don't go
1-2\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
1\tdo\tdo\tAUX\t_\t_\t0\troot\t_\t_
2\tn't\tnot\tPART\t_\t_\t1\tadvmod\t_\t_
2.1\tgone\tgo\tVERB\t_\t_\t_\t_\t_\t_
3\tgo\tgo\tVERB\t_\t_\t1\txcomp\t_\t_

1\tNo\tno\tINTJ\t_\t_\t0\troot\t_\t_
"""
NEGATIVE = '{"text": "no, thanks", "label": "neg"}\n'
GREAT_OBJECT = """{"gold": "pos", "sentence": "a \\"great\\" film", "text": 1}
{"gold": "neg", "sentence": "no, thanks", "text": 2}"""
SENTENCES = [(["do", "n't", "go"], ["AUX", "PART", "VERB"]), (["No"], ["INTJ"])]


@pytest.mark.parametrize("compression", ["", ".gz", ".xz"])
@pytest.mark.parametrize(
    "name, columns, text",
    [
        ("a.tsv", "text,label", 'a "great" film\tpos\nno, thanks\tneg\n'),
        ("a.tsv", "label,_,text", 'pos\t1\ta "great" film\r\n\nneg\t2\tno, thanks\r\n'),
        ("a.tsv", "text,label", 'label\tid\ttext\npos\t7\ta "great" film\nneg\t8\tno, thanks\n'),
        ("a.csv", "text,label", '"a ""great"" film",pos\r\n"no, thanks",neg\r\n'),
        ("a.csv", "text,label", 'label,text\npos,"a ""great"" film"\nneg,"no, thanks"\n'),
        ("a.txt", "text,label", 'a "great" film pos\nno, thanks neg\n'),
        ("a", "_,label,text", '1 pos a "great" film\n2  neg  no, thanks\n'),
        ("a", "text,label", 'label id text\npos 1 a "great" film\nneg 2 no, thanks\n'),
        ("a.tsv", "text=sentence,label=gold", 'gold\tlabel\tsentence\npos\t7\ta "great" film\nneg\t8\tno, thanks\n'),
        ("a.jsonl", "text,label", '{"label": "pos", "id": 7, "text": "a \\"great\\" film"}\n\n' + NEGATIVE),
        ("a.jsonl", "text=sentence,label=gold", GREAT_OBJECT),
    ],
)
def test_texts_of_every_format(tmp_path: Path, compression: str, name: str, columns: str, text: str) -> None:
    path = put(tmp_path, name + compression, text)
    found = read_texts(path, Columns.parse(columns, "text"))
    assert pairs(found) == [('a "great" film', "pos"), ("no, thanks", "neg")]


@pytest.mark.parametrize("compression", ["", ".gz", ".xz"])
@pytest.mark.parametrize(
    "name, columns, text",
    [
        ("a.conllu", "form,upos", CONLLU),
        ("a.txt", "form,upos", "do AUX\nn't PART\ngo VERB\n\n\nNo INTJ"),
        ("a", "_,form,_,ner", "1 do - AUX\n2 n't - PART\n3 go - VERB\n \n1 No - INTJ\n"),
        ("a.tsv", "upos,form", "AUX\tdo\nPART\tn't\nVERB\tgo\n\nINTJ\tNo\n"),
        ("a.csv", "form,upos", "upos,form\nAUX,do\nPART,n't\nVERB,go\n\nINTJ,No\n"),
    ],
)
def test_sentences_of_every_format(tmp_path: Path, compression: str, name: str, columns: str, text: str) -> None:
    path = put(tmp_path, name + compression, text)
    assert pairs(read_sentences(path, Columns.parse(columns, "form"))) == SENTENCES


@pytest.mark.parametrize("name", ["a.TSV", "a.Tsv.GZ", "a.tsv.Xz"])
def test_the_case_of_a_suffix_does_not_count(tmp_path: Path, name: str) -> None:
    packed = {".gz": gzip.compress, ".xz": lzma.compress}.get(Path(name).suffix.lower(), bytes)
    (tmp_path / name).write_bytes(packed(b"a great film\tpos\nno, thanks\tneg\n"))
    assert pairs(read_texts(str(tmp_path / name), TEXTS)) == [("a great film", "pos"), ("no, thanks", "neg")]


@pytest.mark.parametrize("name", ["a.JSONL", "a.ndjson", "a.json", "a.json.gz"])
def test_json_lines_of_every_suffix(tmp_path: Path, name: str) -> None:
    rows = [("a great film", "pos"), ("no, thanks", "neg")]
    path = put(tmp_path, name, "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    assert pairs(read_texts(path, TEXTS)) == rows


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("name", ["a.txt", "a", "-"])
def test_json_lines_without_their_suffix_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, labels: bool
) -> None:
    for read, columns in ((read_texts, TEXTS), (read_sentences, WORDS)):
        give(monkeypatch, "\n" + NEGATIVE)
        path = name if name == "-" else put(tmp_path, name, "\n" + NEGATIVE)
        with pytest.raises(InputError, match="line 2"):
            list(read(path, columns, labels=labels))  # type: ignore[operator]
    braces = put(tmp_path, "braces", "{} PUNCT\n{ PUNCT\n")
    assert pairs(read_sentences(braces, WORDS)) == [(["{}", "{"], ["PUNCT", "PUNCT"])]


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_array_is_refused_with_what_to_do(tmp_path: Path, indent: int | None) -> None:
    path = put(tmp_path, "a.json", json.dumps([{"text": "no, thanks", "label": "neg"}], indent=indent))
    with pytest.raises(InputError, match=r"line 1.*jq -c"):
        list(read_texts(path, TEXTS))


CONLL_2003 = [["EU", "NNP", "B-ORG"], ["rejects", "VBZ", "O"]], [["Peter", "NNP", "B-PER"]]


@pytest.mark.parametrize("name, between", [("a.txt", " "), ("a.tsv", "\t"), ("a.csv", ",")])
@pytest.mark.parametrize("start", [["-DOCSTART-", "-X-", "O"], ["-DOCSTART-", "-X-", "-X-", "O"], ["-DOCSTART-"]])
@pytest.mark.parametrize("after", ["\n", ""])
def test_document_starts_are_no_words(tmp_path: Path, name: str, between: str, start: list[str], after: str) -> None:
    mark = between.join(start) + "\n" + after
    text = "".join(mark + "".join(between.join(row) + "\n" for row in sentence) + "\n" for sentence in CONLL_2003)
    path = put(tmp_path, name, text)
    expected = [([row[0] for row in sentence], [row[2] for row in sentence]) for sentence in CONLL_2003]
    for labels in (True, False):
        assert pairs(read_sentences(path, Columns.parse("form,_,ner", "form"), labels=labels)) == expected
    path = put(tmp_path, "headed.tsv", "-DOCSTART-\n\nner\tform\nO\tEU\n")
    assert pairs(read_sentences(path, Columns.parse("form,ner", "form"))) == [(["EU"], ["O"])]


@pytest.mark.parametrize("comment", ["# id 5-e\tdomain=en", "# sent_id = 7", "# newdoc", "# text = a b c", "# x ="])
def test_comments_before_a_sentence_are_no_words(tmp_path: Path, comment: str) -> None:
    text = f"\n{comment}\n# id 8 domain=en\na _ _ O\nb _ _ B-X\n\n\n{comment}\nc _ _ O\n"
    expected = [(["a", "b"], ["O", "B-X"]), (["c"], ["O"])]
    columns = Columns.parse("form,_,_,ner", "form")
    assert pairs(read_sentences(put(tmp_path, "a.conll", text), columns)) == expected
    path = put(tmp_path, "words.txt", f"{comment}\na\nb\n\nc\n")
    assert [each.item for each in read_sentences(path, columns, labels=False)] == [["a", "b"], ["c"]]


@pytest.mark.parametrize("second", ["NOUN", "SYM", "_", "#", "O", "Foreign=Yes", "="])
def test_a_sentence_may_begin_with_a_number_sign(tmp_path: Path, second: str) -> None:
    for name, between in (("a.txt", " "), ("a.tsv", "\t"), ("a.csv", ",")):
        rows = [("#", second, "X"), ("#", second, "X"), ("=", "_", "Y")]
        path = put(tmp_path, name, "".join(between.join(row) + "\n" for row in rows))
        found = pairs(read_sentences(path, Columns.parse("form,_,upos", "form")))
        assert found == [(["#", "#", "="], ["X", "X", "Y"])]


def test_a_csv_field_may_hold_line_ends_and_be_long(tmp_path: Path) -> None:
    long = "word " * 50_000
    path = put(tmp_path, "a.csv", f'"two\nlines",a\n"{long}",b\n')
    assert pairs(read_texts(path, TEXTS)) == [("two\nlines", "a"), (long, "b")]


def test_a_prefix_is_stripped(tmp_path: Path) -> None:
    path = put(tmp_path, "a", "en:New B-LOC\nen:en:York I-LOC\nplain O\n")
    (example,) = read_sentences(path, Columns.parse("form,ner", "form"), prefix="en:")
    assert example.item == ["New", "en:York", "plain"]


def test_a_first_row_is_a_header_only_if_it_holds_every_name(tmp_path: Path) -> None:
    path = put(tmp_path, "a.tsv", "text\tpositive\nlabel\ttext\n")
    assert pairs(read_texts(path, TEXTS)) == [("text", "positive"), ("label", "text")]


@pytest.mark.parametrize(
    "name, columns, text",
    [
        ("a.tsv", "text,label", "one two\n\nthree\n"),
        ("a.tsv", "text,label", "text\none two\n\nthree\n"),
        ("a.csv", "label,_,text", "one two\n\nthree\n"),
        ("a.csv", "_,label,text", "id,text\n1,one two\n2,\n3,three\n"),
        ("a.csv", "text,label", "one two,\n,pos\nthree,\n"),
        ("a.txt", "text,label", "one two\n\nthree\n"),
        ("a.txt", "label,text", "pos one two\n\npos three\n"),
        ("a.txt", "text,label", "label text\npos one two\n\npos three\n"),
    ],
)
def test_texts_may_lack_labels_where_none_are_needed_and_an_empty_row_is_a_text(
    tmp_path: Path, name: str, columns: str, text: str
) -> None:
    path = put(tmp_path, name, text)
    found = read_texts(path, Columns.parse(columns, "text"), labels=False, is_label={"pos"}.__contains__)
    assert [each.item for each in found] == ["one two", "", "three"]


def test_a_file_in_which_only_most_lines_have_a_label_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path, "a.txt", "one two pos\nthree pos\nfour new\n")
    with pytest.raises(InputError, match="line 3"):
        list(read_texts(path, TEXTS, labels=False, is_label={"pos"}.__contains__))


def test_objects_may_lack_labels_and_numbers_are_labels(tmp_path: Path) -> None:
    path = put(tmp_path, "a.jsonl", '{"text": "one"}\n{"text": "two", "label": "neg"}\n')
    assert pairs(read_texts(path, TEXTS, labels=False)) == [("one", None), ("two", "neg")]
    path = put(tmp_path, "null.jsonl", '{"text": "one", "label": "neg"}\n{"text": "two", "label": null}\n{"text": "3"}')
    assert pairs(read_texts(path, TEXTS, labels=False)) == [("one", "neg"), ("two", None), ("3", None)]
    path = put(tmp_path, "b.jsonl", '{"text": "one", "label": 0}\n{"text": "two", "label": true}\n')
    assert pairs(read_texts(path, TEXTS)) == [("one", "0"), ("two", "true")]
    with pytest.raises(InputError, match="conllu"):
        list(read_sentences(path, WORDS))


def test_words_may_lack_labels_where_none_are_needed(tmp_path: Path) -> None:
    path = put(tmp_path, "a", "one\ntwo\n\nthree\n")
    assert pairs(read_sentences(path, WORDS, labels=False)) == [(["one", "two"], None), (["three"], None)]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, "a text\n\nanother\tpos\ntext\n")
    assert [each.item for each in read_texts("-", TEXTS, labels=False)] == ["a text", "", "another", "text"]
    give(monkeypatch, CONLLU)
    assert pairs(read_sentences("-", WORDS, like="train.conllu.gz")) == SENTENCES
    give(monkeypatch, "a\nb\n\nc\n")
    assert [each.item for each in read_sentences("-", WORDS, labels=False)] == [["a", "b"], ["c"]]


@pytest.mark.parametrize("start", ["", "\n", "# text = don't go\n", "#tag\n", "#\n"])
def test_words_alone_may_stand_in_place_of_conllu_where_no_label_is_needed(
    monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    first = [start.strip()] if start in ("#tag\n", "#\n") else []
    give(monkeypatch, f"{start}do\nn't\ngo\n\nNo\n")
    found = pairs(read_sentences("-", WORDS, labels=False, like="train.conllu"))
    assert found == [([*first, *SENTENCES[0][0]], None), (SENTENCES[1][0], None)]
    give(monkeypatch, f"{start}{CONLLU}")
    assert pairs(read_sentences("-", WORDS, labels=False, like="train.conllu")) == SENTENCES
    give(monkeypatch, "do\nn't\n")
    with pytest.raises(InputError, match="line 1"):
        list(read_sentences("-", WORDS, like="train.conllu"))


@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_standard_input_loses_a_byte_order_mark_and_an_empty_one_is_refused_as_files_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    text = f"{start}text\tlabel\none\tpos\n"
    give(monkeypatch, text)
    assert pairs(read_sentences("-", Columns.parse("text,label", "text"), like="a.tsv")) == [(["one"], ["pos"])]
    assert pairs(read_texts(put(tmp_path, "a.tsv", text), TEXTS)) == [("one", "pos")]
    give(monkeypatch, f"{start}one\n")
    assert [each.item for each in read_texts("-", TEXTS, labels=False)] == ["one"]
    for path in ("-", put(tmp_path, "empty.txt", "")):
        give(monkeypatch, "")
        with pytest.raises(InputError, match="empty"):
            list(read_texts(path, TEXTS, labels=False))


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("a.tsv", "one\tpos\ntwo\n", "line 2"),
        ("a.tsv", "one\tpos\ntwo\tneg\tmore\n", "line 2"),
        ("a.tsv", "one\tpos\ntwo\t\n", "line 2"),
        ("a.csv", 'one,pos\n"two,neg\n', "line 2"),
        ("a.csv", 'one,pos\n"two" x,neg\n', "line 2"),
        ("a.conllu", CONLLU, "CoNLL-U"),
        ("a.tsv", "", "empty"),
        ("a.txt", "one pos\ntwo\n", "line 2"),
        ("a.tsv", "text\tlabel\tlabel\none\ta\tb\n", "line 1"),
        ("a.jsonl", NEGATIVE + '{"text": "two"}', "line 2.*label"),
        ("a.jsonl", NEGATIVE + '{"text": "two", "label": null}', "line 2.*label.*null"),
        ("a.jsonl", NEGATIVE + '{"text": "two", "label": ""}', "line 2.*label"),
        ("a.jsonl", NEGATIVE + '{"text": ["two"], "label": "neg"}', "line 2.*text"),
        ("a.jsonl", NEGATIVE + "{", "line 2"),
        ("a.jsonl", "[]", "line 1"),
    ],
)
def test_what_is_wrong_with_a_file_of_texts_is_said_with_its_line(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    path = put(tmp_path, name, text)
    with pytest.raises(InputError, match=said) as caught:
        list(read_texts(path, TEXTS))
    assert path in str(caught.value)


def test_what_is_wrong_with_a_file_of_words_is_said_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 2"):
        list(read_sentences(put(tmp_path, "a.conllu", "1\tdo\tdo\tAUX\t_\t_\t0\troot\t_\t_\n2\tgo\n"), WORDS))
    with pytest.raises(ConfigError, match="wordclass"):
        list(read_sentences(put(tmp_path, "b.conllu", CONLLU), Columns.parse("form,wordclass", "form")))
    with pytest.raises(InputError, match="line 1"):
        list(read_sentences(put(tmp_path, "a.txt", "one two three\n"), WORDS))
    with pytest.raises(InputError, match="line 2"):
        list(read_sentences(put(tmp_path, "b.txt", "en:a X\nen: Y\n"), WORDS, prefix="en:"))
    (odd,) = read_sentences(put(tmp_path, "c.txt", "10\u00a0000 NUM\n"), WORDS)
    assert odd.item == ["10\u00a0000"]
    with pytest.raises(MissingFileError):
        list(read_sentences(str(tmp_path / "none.conllu"), WORDS))


@pytest.mark.parametrize("columns", ["", "text", "label,other", "text,text", "text,label,more", "form,upos"])
def test_columns_that_do_not_name_a_text_and_a_label_are_refused(columns: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Columns.parse(columns, "text")
    assert caught.value.field == "data.columns"


def test_an_empty_separator_of_labels_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        LabelledData(separator="")
    assert caught.value.field == "data.separator"


def test_the_digest_is_of_texts_and_labels() -> None:
    one, other = Example("a", "x", ""), Example("a", "y", "elsewhere")
    assert digest([one]) != digest([other]) and digest([one], labels=False) == digest([other], labels=False)
    assert digest([one, other]) != digest([other, one])
