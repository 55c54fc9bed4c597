"""Subword tokenizers trained from text: one pass, saving, causal ones, and what transformers reads of them."""

from pathlib import Path

import numpy as np
import pytest

from ctx_jax.cli import main
from ctx_jax.tokenizers.subword_files import read
from ctx_jax.tokenizers.subword_training import Kind, train
from ctx_jax.tokenizers.templates import BERT, GPT2, ROBERTA, SpecialTokens

TEXT = ["the cat sat on the mat", "a dog and a cat", ["the", "dogs", "sat"], "mats and cats"] * 5
KINDS: list[tuple[Kind, int]] = [("wordpiece", 60), ("bpe", 290), ("unigram", 40)]
ZERO_WIDTH = "\u200b"
GPT2_ENDS = (GPT2.begin, GPT2.end, None)


@pytest.mark.parametrize("kind, size", KINDS)
def test_training_reads_once_and_saving_round_trips(kind: Kind, size: int, tmp_path: Path) -> None:
    subwords = train(iter(TEXT), kind, size)
    assert len(subwords) <= size
    assert subwords.special == (BERT if kind == "wordpiece" else ROBERTA)
    assert subwords.special_ids == set(range(5))
    text = subwords.tokenize_text(["the cat and a dog"])[0]
    assert subwords.unknown_id not in text and subwords.decode(text).strip() == "the cat and a dog"
    subwords.save(tmp_path)
    again = read(tmp_path)
    assert again.special == subwords.special and again.digest == subwords.digest and len(again) == len(subwords)
    assert again.add_special_tokens(text).tolist() == [subwords.begin_id, *text, subwords.end_id]
    assert {path.name for path in tmp_path.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}


@pytest.mark.parametrize("kind, size", KINDS)
def test_every_word_has_pieces_in_order(kind: Kind, size: int) -> None:
    subwords = train(iter(TEXT), kind, size)
    sentences = [["the", "dogs", "", "cat", " ", ZERO_WIDTH, "a b"], [], [""], ["mat"], ["\u0301", "sat", "été\n"]]
    for words, pieces in zip(sentences, subwords.tokenize_words(sentences), strict=True):
        assert sorted(set(pieces.words.tolist())) == list(range(len(words)))
        assert (np.diff(pieces.words) >= 0).all()
        assert len(pieces.ids) == len(pieces.words) and pieces.ids.dtype == pieces.words.dtype == np.int32
        for number, word in enumerate(words):
            if not word.strip():
                assert pieces.ids[pieces.words == number].tolist() == [subwords.unknown_id]
            elif word.isascii():
                # A word is cut as it would be alone, whatever is beside it.
                alone = subwords.tokenize_words([[word]])[0].ids
                assert pieces.ids[pieces.words == number].tolist() == alone.tolist()
    if kind != "bpe":  # bytes know every character; the others have nothing left of it, or no piece for it
        assert subwords.unknown_id in subwords.tokenize_words([[ZERO_WIDTH]])[0].ids


@pytest.mark.parametrize("kind, size", KINDS)
def test_a_causal_tokenizer_puts_nothing_around_a_text(kind: Kind, size: int, tmp_path: Path) -> None:
    subwords = train(iter(TEXT), kind, size, causal=True)
    assert len(subwords) <= size and subwords.special == (
        GPT2 if kind == "bpe" else SpecialTokens(GPT2.pad, "[UNK]" if kind == "wordpiece" else "<unk>", *GPT2_ENDS)
    )
    subwords.save(tmp_path)
    again = read(tmp_path)
    assert again.special == subwords.special and again.digest == subwords.digest
    assert (again.before, again.after) == ((), ())
    ids = again.tokenize_text(["the cat and a dog"])[0]
    assert again.add_special_tokens(ids).tolist() == ids.tolist() and not set(ids.tolist()) & again.special_ids
    assert again.unknown_id in again.tokenize_words([[""]])[0].ids
    # Any tokenizer can be read without its special tokens.
    around = train(iter(TEXT), kind, size)
    bare = around.without_special_tokens()
    assert (bare.before, bare.after, bare.special) == (
        (),
        (),
        around.special,
    ) and bare.without_special_tokens() is bare
    np.testing.assert_array_equal(bare.tokenize_text(["the cat"])[0], around.tokenize_text(["the cat"])[0])


def test_byte_level_training_repeats() -> None:
    assert train(TEXT, "bpe", 290).digest == train(iter(TEXT), "bpe", 290).digest


def test_lowercase_is_saved(tmp_path: Path) -> None:
    for kind, size in KINDS:
        train(TEXT, kind, size, lowercase=True).save(tmp_path / kind)
        lower = read(tmp_path / kind)
        np.testing.assert_array_equal(lower.tokenize_text(["The CAT"])[0], lower.tokenize_text(["the cat"])[0])


def test_training_refuses_bad_settings_and_empty_text() -> None:
    with pytest.raises(ValueError, match="no text"):
        train(["", "  "], "wordpiece", 50)
    with pytest.raises(ValueError, match=r"tokenizer\.size .*261"):
        train(TEXT, "bpe", 100)
    with pytest.raises(ValueError, match=r"tokenizer\.size .* 10;"):
        train(TEXT, "wordpiece", 10)
    with pytest.raises(ValueError, match=r"tokenizer\.kind must be"):
        train(TEXT, "bpee", 300)  # type: ignore[arg-type]


def test_the_command_trains_and_refuses_to_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text("\n".join(line for line in TEXT if isinstance(line, str)))
    line = ["tokenizer", str(tmp_path / "out"), "--train", str(tmp_path / "text.txt"), "--kind", "wordpiece"]
    assert main([*line, "--size", "50"]) == 0
    assert len(read(tmp_path / "out")) <= 50
    assert main(line) == 1
    assert "exists and is not empty" in capsys.readouterr().err


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind, size", KINDS)
def test_transformers_reads_what_we_save(kind: Kind, size: int, causal: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    subwords = train(TEXT, kind, size, causal=causal)
    subwords.save(tmp_path, {"model_max_length": 9})
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = subwords.add_special_tokens(subwords.tokenize_text(["the cats"])[0])
    assert theirs("the cats")["input_ids"] == ids.tolist()
    assert (theirs.pad_token_id, theirs.model_max_length) == (subwords.pad_id, 9)
    assert theirs.mask_token_id == (None if causal else subwords.mask_id)
