"""Two texts in one row, against the tokenizer's own layout, and files of pairs."""

import itertools
import json
from pathlib import Path

import pytest

from ctx_jax.data.columns import Columns
from ctx_jax.data.labelled_pairs import read_text_pairs
from ctx_jax.data.text_pairs import read_pairs
from ctx_jax.encoders.static import StaticTable
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.encoders.transformer.inputs import SubwordInputs
from ctx_jax.encoders.transformer.pair_inputs import PairInputs
from ctx_jax.io.errors import ConfigError, InputError, SentenceError
from ctx_jax.tokenizers.subword_training import train
from ctx_jax.tokenizers.subwords import Subwords

TEXT = ["the cat sat on the mat", "a dog ran to the tree"] * 4
PAIRS = [["the cat", "a dog ran"], ["", "the tree"], ["the mat sat", ""], ["", ""]]


def made(kind: str = "wordpiece", token_types: int = 2) -> tuple[PairInputs, Subwords]:
    subwords = train(TEXT, kind, 300)  # type: ignore[arg-type]
    model = Transformer(len(subwords), dim=8, heads=2, depth=1, max_positions=16, token_types=token_types)
    return PairInputs.of(SubwordInputs(subwords, model.longest), model), subwords


@pytest.mark.parametrize("kind, types", [("wordpiece", 2), ("wordpiece", 0), ("bpe", 2), ("bpe", 1)])
def test_rows_are_those_of_the_tokenizer(kind: str, types: int) -> None:
    inputs, subwords = made(kind, types)
    assert inputs.layout.separators == (2 if kind == "bpe" else 1)
    split = inputs.split(PAIRS)
    arrays = inputs.pad(split, 5, 16)
    assert ("token_types" in arrays) == (types == 2)
    for row, ((first, second), size) in enumerate(zip(PAIRS, inputs.sizes(split), strict=True)):
        expected = subwords.tokenizer.encode(first, second)
        assert arrays["token_ids"][row, :size].tolist() == expected.ids
        assert arrays["token_mask"][row].tolist() == [True] * size + [False] * (16 - size)
        if types == 2:
            assert arrays["token_types"][row, :size].tolist() == expected.type_ids
    assert not arrays["token_mask"][4].any()


def test_the_longer_text_is_cut_first() -> None:
    """As `tokenizers` and transformers do: "longest_first"."""
    pytest.importorskip("transformers")
    from transformers import PreTrainedTokenizerFast

    inputs, subwords = made()
    special = subwords.special
    slow = PreTrainedTokenizerFast(
        tokenizer_object=subwords.tokenizer, pad_token=special.pad, unk_token=special.unknown
    )
    texts = ["the cat sat on the mat the cat", "a dog", "the", "a dog ran to the tree"]
    for first in texts:
        for second in texts:
            for length in range(4, 16):
                (split,) = inputs.split([[first, second]])
                ours = inputs.cut(split, length)
                theirs = slow(first, second, truncation="longest_first", max_length=length)
                row = inputs.pad([ours], 1, length)
                assert row["token_ids"][0][row["token_mask"][0]].tolist() == theirs["input_ids"], (
                    first,
                    second,
                    length,
                )


def test_what_has_no_layout_is_refused() -> None:
    table = StaticTable(3, 4)
    with pytest.raises(InputError, match="StaticTable"):
        PairInputs.of(object(), table)  # type: ignore[arg-type]
    inputs, _ = made()
    with pytest.raises(SentenceError, match="room for 4"):
        inputs.pad(inputs.split(PAIRS[:1]), 1, 4)


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a"])
@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_pairs_of_empty_texts_keep_their_place_where_no_label_is_needed(tmp_path: Path, name: str, end: str) -> None:
    rows = [("", ""), ("the cat", "a dog"), ("", ""), ("", "the tree"), ("", "")]
    delimiter = "," if name == "a.csv" else "\t"
    (tmp_path / name).write_text("\n".join(delimiter.join(row) for row in rows) + end)
    columns = Columns.parse("first,second,label", "first", "second")
    assert [each.item for each in read_text_pairs(str(tmp_path / name), columns, labels=False)] == rows
    found = read_pairs(str(tmp_path / name))
    assert list(zip(found.first, found.second, strict=True)) == rows
    (tmp_path / "labelled").write_text("the cat\ta dog\t1\n\t\t\nthe tree\t\t0\n")
    kept = [("the cat", "a dog"), ("the tree", "")]
    assert [each.item for each in read_text_pairs(str(tmp_path / "labelled"), columns)] == kept
    gold = read_pairs(str(tmp_path / "labelled"))
    assert list(zip(gold.first, gold.second, strict=True)) == kept and gold.gold == [1, 0]


@pytest.mark.parametrize("empty", [1, 2, 4])
def test_rows_of_separators_alone_do_not_say_how_many_columns_there_are(tmp_path: Path, empty: int) -> None:
    """As spreadsheets write them."""
    text = f"{',' * (empty - 1)}\n"
    for rows, gold in (("a,b,1\nc,d,0\n", [1, 0]), ("a,b\nc,d\n", None)):
        (tmp_path / "a.csv").write_text(text + rows + text)
        found = read_pairs(str(tmp_path / "a.csv"))
        pairs = [pair for pair in zip(found.first, found.second, strict=True) if any(pair)]
        assert pairs == [("a", "b"), ("c", "d")] and found.gold == gold
        assert len(found.first) == (4 if empty == 2 and gold is None else 2)
    columns = Columns.parse("first,second", "first", "second", label=False)
    (tmp_path / "a.csv").write_text("a,b\n" + text)
    assert len(list(read_text_pairs(str(tmp_path / "a.csv"), columns, labels=False))) == (2 if empty == 2 else 1)


def test_files_of_pairs(tmp_path: Path) -> None:
    columns = Columns.parse("first,second,label", "first", "second")
    (tmp_path / "a.tsv").write_text("the cat\ta dog\tyes\n\tthe tree\tno\n")
    (tmp_path / "b.csv").write_text('label,second,first\nyes,"a, dog",the cat\n')
    assert [each[:2] for each in read_text_pairs(str(tmp_path / "a.tsv"), columns)] == [
        (("the cat", "a dog"), "yes"),
        (("", "the tree"), "no"),
    ]
    assert [each[:2] for each in read_text_pairs(str(tmp_path / "b.csv"), columns)] == [(("the cat", "a, dog"), "yes")]
    row = {"label": "yes", "first": "the cat", "second": "a dog"}
    (tmp_path / "d.jsonl").write_text(json.dumps(row))
    for names in itertools.permutations(row):
        for labels in (True, False):
            swapped = Columns.parse(",".join(names), "first", "second")
            (found,) = read_text_pairs(str(tmp_path / "d.jsonl"), swapped, labels=labels)
            assert found[:2] == (("the cat", "a dog"), "yes")
    twice = Columns.parse("first=label,second=label,label=first", "first", "second")
    for labels in (True, False):
        (found,) = read_text_pairs(str(tmp_path / "d.jsonl"), twice, labels=labels)
        assert found[:2] == (("yes", "yes"), "the cat")
    for header in ("first\tsecond\tid", "First\tSecond\tID", "second\tid\tfirst"):
        (tmp_path / "e.tsv").write_text(
            header + "\n" + "\t".join(row.get(key, "7") for key in header.lower().split("\t"))
        )
        (found,) = read_text_pairs(str(tmp_path / "e.tsv"), columns, labels=False)
        assert found.item == ("the cat", "a dog")
    (tmp_path / "c.tsv").write_text("the cat\ta dog\n")
    bare = Columns.parse("first,second", "first", "second", label=False)
    for known in (columns, bare):
        (found,) = read_text_pairs(str(tmp_path / "c.tsv"), known, labels=False)
        assert found[:2] == (("the cat", "a dog"), None)
    with pytest.raises(InputError, match=r"c.tsv, line 1.*first, second, label"):
        list(read_text_pairs(str(tmp_path / "c.tsv"), columns))
    for text, label in (("first,label", True), ("first,second", True), ("first,second,label", False)):
        with pytest.raises(ConfigError) as caught:
            Columns.parse(text, "first", "second", label=label)
        assert caught.value.field == "data.columns"
