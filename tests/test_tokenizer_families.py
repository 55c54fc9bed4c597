"""The tokenizers of newer families: each folder that transformers saves is cut as transformers cuts it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_tokenizer_classes import compare
from tiny_tokenizers import put
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from ctx_jax.tokenizers.subword_files import read_folder

TEXTS = ("the cats", "The  cat é", "a\tb\nthe", " a b ", "the, cat's ``12''", "ab<mask> a", "the</s>", "東")
PIECES = ("▁the", "▁", "t", "h", "e", "▁cat", "s", "a", "b", ",", "▁The", "é", '"', "'", "1", "2")
BYTES = ("a", "b", "t", "h", "e", "c", "s", "Ġ", "Ċ", ",", "'", "1", "2", "th", "the", "Ġthe")
END = "<|endoftext|>"
WORDS = ("the", "cat", "##s", "a", "b", ",", "'", "e", "12", "`")
MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the")]
GEMMA = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES)


def _scored(*special: str) -> list[tuple[str, float]]:
    return [(token, 0.0) for token in special] + [(piece, -2.0 - 0.1 * n) for n, piece in enumerate(PIECES)]


def _ids(*tokens: str) -> dict[str, int]:
    return {token: number for number, token in enumerate(tokens)}


def _around(single: list[str], ids: dict[str, int]) -> dict[str, Any]:
    """The post-processor of a tokenizer.json that puts `ids` around one text, "A", and around two."""

    def sequence(text: str) -> list[dict[str, Any]]:
        return [
            {"SpecialToken" if part in ids else "Sequence": {"id": part if part in ids else text, "type_id": 0}}
            for part in single
        ]

    tokens = {token: {"id": token, "ids": [number], "tokens": [token]} for token, number in ids.items()}
    pair = sequence("A") + sequence("B")
    return {"type": "TemplateProcessing", "single": sequence("A"), "pair": pair, "special_tokens": tokens}


# class: (its arguments, the model's type, the post-processor of its tokenizer.json; None: the class's own)
CLASSES: dict[str, tuple[dict[str, Any], str, dict[str, Any] | None]] = {
    "MPNetTokenizer": ({"vocab": _ids("<s>", "<pad>", "</s>", "[UNK]", "<mask>", *WORDS)}, "mpnet", None),
    "AlbertTokenizer": ({"vocab": _scored("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")}, "albert", None),
    "DebertaV2Tokenizer": ({"vocab": _scored("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")}, "deberta-v2", None),
    "T5Tokenizer": ({"vocab": _scored("<pad>", "</s>", "<unk>"), "extra_ids": 0}, "t5", None),
    "Qwen2Tokenizer": (
        {"vocab": _ids(*BYTES, END), "merges": MERGES},
        "qwen3",
        _around(["A", END], {END: len(BYTES)}),
    ),
    "GemmaTokenizer": (
        {"vocab": _ids(*GEMMA), "merges": []},
        "gemma3_text",
        _around(["<bos>", "A", "<eos>"], {"<bos>": 2, "<eos>": 1}),
    ),
}


def _saved(folder: Path, name: str) -> str:
    """Save a small tokenizer of the class; the model's type."""
    transformers = pytest.importorskip("transformers")
    arguments, model_type, processor = CLASSES[name]
    getattr(transformers, name)(**arguments).save_pretrained(folder)
    state = json.loads((folder / "tokenizer.json").read_text())
    state |= {"post_processor": processor} if processor else {}
    put(folder, {"config.json": {"model_type": model_type}, "tokenizer.json": state})
    return model_type


@pytest.mark.parametrize("name", CLASSES)
def test_tokenizers_of_newer_families(name: str, tmp_path: Path) -> None:
    model_type = _saved(tmp_path / "saved", name)
    ours = compare(tmp_path / "saved", model_type, TEXTS)
    assert ours.after
    sentence = ["the", "cat's", "東", "", "a,b"]
    (pieces,) = ours.tokenize_words([sentence])
    assert sorted({*pieces.words.tolist()}) == list(range(5)) and (np.diff(pieces.words) >= 0).all()
    kept = pieces.ids[pieces.words != 3]  # the blank word is an unknown token, which the text does not have
    np.testing.assert_array_equal(kept, ours.tokenize_text([" ".join(word for word in sentence if word)])[0])
    ours.save(tmp_path / "ours")
    again = read_folder(tmp_path / "ours")
    assert again.digest == ours.digest and (again.before, again.after) == (ours.before, ours.after)


@pytest.mark.parametrize(
    ("name", "special", "file", "own"),
    [
        ("AlbertTokenizer", ("<pad>", "<unk>", "[CLS]", "[SEP]"), "spiece.model", ["(", "[MASK]"]),
        ("DebertaV2Tokenizer", ("[PAD]", "[UNK]", "[CLS]", "[SEP]"), "spm.model", ["(", "[MASK]"]),
        ("DebertaV2Tokenizer", ("[PAD]", "[UNK]", "[CLS]", "[SEP]"), "spm.model", ["("]),
        ("T5Tokenizer", ("<pad>", "<unk>", "", "</s>"), "spiece.model", []),
    ],
)
def test_sentencepiece_files_are_built_as_their_class_is(
    name: str, special: tuple[str, str, str, str], file: str, own: list[str], tmp_path: Path
) -> None:
    """As mT5 and DeBERTa-v3 are published, without a tokenizer.json."""
    sentencepiece = pytest.importorskip("sentencepiece")
    (tmp_path / "text").write_text("the cats sat on the mat , a dog\nThe cat's `` dogs '' and (mats)\n" * 20)
    pad, unknown, begin, end = special
    places = (1, 2, 3) if begin else (2, -1, 1)
    ids = {"pad_id": 0, **dict(zip(("unk_id", "bos_id", "eos_id"), places, strict=True))}
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"), model_prefix=str(tmp_path / "model"), vocab_size=45, hard_vocab_limit=False,
        pad_piece=pad, unk_piece=unknown, bos_piece=begin or "<s>", eos_piece=end, minloglevel=2,
        user_defined_symbols=own, **ids,
    )  # fmt: skip
    (tmp_path / "folder").mkdir()
    (tmp_path / "model.model").rename(tmp_path / "folder" / file)
    model_type = next(kind for known, (_, kind, _) in CLASSES.items() if known == name)
    put(tmp_path / "folder", {"config.json": {"model_type": model_type}})
    put(tmp_path / "folder", {"tokenizer_config.json": {"tokenizer_class": name}})
    ours = compare(tmp_path / "folder", model_type, (*TEXTS, "(the) ﬁ cats", "a[MASK] the"))
    if own == ["("]:  # DeBERTa-v3's, whose mask has the id behind its pieces
        assert ours.mask_id == len(ours) - 1


def test_euroberts_byte_pieces_need_no_unknown_token(tmp_path: Path) -> None:
    """Begin and end around a text, a mask, padding with the end, and no unk_token."""
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|mask|>"]
    tokenizer = Tokenizer(models.BPE(_ids(*BYTES, *special), MERGES, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    ends = [(token, tokenizer.token_to_id(token)) for token in special[:2]]
    tokenizer.post_processor = processors.TemplateProcessing([special[0], "$A", special[1]], None, ends)
    begin, end, mask = special
    roles = {"bos_token": begin, "eos_token": end, "mask_token": mask, "pad_token": end}
    put(tmp_path, {"tokenizer.json": tokenizer.to_str(), "config.json": {"model_type": "eurobert"}})
    put(tmp_path, {"tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", **roles}})
    ours = compare(tmp_path, "eurobert", ("the cats", "a<|mask|> the"))
    assert ours.mask_id == len(BYTES) + 2 and ours.pad_id == ours.end_id == ours.unknown_id
    ours.save(tmp_path / "ours")
    assert read_folder(tmp_path / "ours").digest == ours.digest


def test_byt5_needs_no_vocabulary_file(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.ByT5Tokenizer().save_pretrained(tmp_path)
    put(tmp_path, {"config.json": {"model_type": "t5"}})
    ours, theirs = read_folder(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = [*TEXTS[:-2], "東", "the\u0000\x7f\xad\U0001f600", "<extra_id_7>a", ""]
    for text, ids in zip(texts, ours.tokenize_text(texts), strict=True):
        assert ours.add_special_tokens(ids).tolist() == theirs(text)["input_ids"], text
    assert len(ours) == len(theirs) == 384 and (ours.pad_id, ours.unknown_id) == (0, 2)
    (pieces,) = ours.tokenize_words([["é", "", "the"]])
    assert pieces.words.tolist() == [0, 0, 1, 2, 2, 2, 2]
    ours.save(tmp_path / "ours")
    assert read_folder(tmp_path / "ours").digest == ours.digest
    config = {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 125, "pad_token": "[PAD]"}
    with pytest.raises(ValueError, match="ByT5Tokenizer"):
        read_folder(put(tmp_path / "other", {"tokenizer_config.json": config, "config.json": {"model_type": "t5"}}))


def test_flags_that_contradict_the_post_processor_are_refused(tmp_path: Path) -> None:
    _saved(tmp_path, "Qwen2Tokenizer")
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    put(tmp_path, {"tokenizer_config.json": config | {"add_eos_token": False}})
    with pytest.raises(ValueError, match="add_eos_token is false"):
        read_folder(tmp_path)
    put(tmp_path, {"tokenizer_config.json": config | {"add_bos_token": False, "add_eos_token": True}})
    assert read_folder(tmp_path).after
