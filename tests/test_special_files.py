"""The files beside a vocabulary: added tokens, named roles and which file overrides, compared with transformers."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_tokenizers import put
from tokenizers import Tokenizer

from ctx_jax.encoders.transformer.huggingface.export import special_ids
from ctx_jax.tokenizers.subword_files import read, read_folder
from ctx_jax.tokenizers.subword_training import train
from ctx_jax.tokenizers.subwords import Subwords
from ctx_jax.tokenizers.templates import ROBERTA

WORDS = [
    "[PAD]",
    "[unused1]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "b",
    "e",
    "1",
    "[",
    "]",
    "<",
    ">",
    "unused",
    "é",
]
BERT_CONFIG = {"model_type": "bert", "vocab_size": len(WORDS)}
BYTES = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "a", "b", "Ġ", "[", "P", "A", "D", "]", "Ġa", "Ġb"]
GPT2_BYTES = ["<|endoftext|>", *BYTES[5:]]
FLAGS = {"lstrip": True, "rstrip": False, "single_word": False, "normalized": False, "special": True}


def bert(folder: Path, **files: Any) -> Path:
    named = {name.replace("_json", ".json"): content for name, content in files.items()}
    return put(folder, {"config.json": BERT_CONFIG, "vocab.txt": "\n".join(WORDS) + "\n"} | named)


def byte_bpe(folder: Path, model_type: str, tokens: list[str], **files: Any) -> Path:
    named = {name.replace("_json", ".json"): content for name, content in files.items()}
    vocabulary = {token: number for number, token in enumerate(tokens)}
    given = {"config.json": {"model_type": model_type}, "vocab.json": vocabulary, "merges.txt": "Ġ a\nĠ b\n"}
    return put(folder, given | named)


def read_as_transformers(folder: Path, model_type: str, *texts: str) -> Subwords:
    transformers = pytest.importorskip("transformers")
    theirs, ours = transformers.AutoTokenizer.from_pretrained(folder), read_folder(folder, model_type)
    for text in texts:
        assert ours.add_special_tokens(ours.tokenize_text([text])[0]).tolist() == theirs(text)["input_ids"], text
    assert len(ours) == len(theirs)
    return ours


@pytest.mark.parametrize(
    "files",
    [
        {"special_tokens_map_json": {"additional_special_tokens": ["[unused1]"]}},
        {"tokenizer_config_json": {"additional_special_tokens": ["[unused1]"]}},
        {"tokenizer_config_json": {"extra_special_tokens": ["[unused1]"], "tokenizer_class": "BertTokenizer"}},
    ],
)
def test_extra_special_tokens_of_the_vocabulary_are_not_split(files: dict[str, Any], tmp_path: Path) -> None:
    ours = read_as_transformers(bert(tmp_path, **files), "bert", "a [unused1] b", "a[unused1]b")
    assert ours.tokenize_text(["[unused1]"])[0].tolist() == [1] and 1 in ours.special_ids


def test_added_tokens_get_the_ids_their_files_state(tmp_path: Path) -> None:
    size = len(WORDS)
    ids = {"<e1>": size + 1, "<1e>": size}  # not in the order of ids
    ours = read_as_transformers(bert(tmp_path / "old", added_tokens_json=ids), "bert", "a <e1> b <1e>")
    assert not {size, size + 1} & ours.special_ids  # the older file has no flag for it
    entries = {str(number): {"content": token, **FLAGS} for token, number in ids.items()}
    files = {"tokenizer_config_json": {"added_tokens_decoder": entries}}
    ours = read_as_transformers(bert(tmp_path / "new", **files), "bert", "a <e1> b <1e>")
    assert {size, size + 1} <= ours.special_ids
    Tokenizer.from_str(ours.tokenizer.to_str()).save(str(tmp_path / "new" / "tokenizer.json"))
    assert len(read_as_transformers(tmp_path / "new", "bert", "a <e1> b <1e>")) == size + 2
    for stated in ({"<e1>": size + 1}, {"<e1>": 3}, {"a": 3}):
        token, number = next(iter(stated.items()))
        with pytest.raises(ValueError, match=rf"added_tokens\.json gives '{token}' the id {number}, but it gets"):
            read_folder(bert(tmp_path / "wrong", added_tokens_json=stated))


def test_flags_in_tokenizer_json_override_the_older_file(tmp_path: Path) -> None:
    size = len(WORDS)
    entry = {"content": "<ent>", **FLAGS}  # matched as it stands, with the space before it; the older file has no flags
    ours = read_folder(bert(tmp_path, tokenizer_config_json={"added_tokens_decoder": {str(size): entry}}))
    (tmp_path / "tokenizer.json").write_text(ours.tokenizer.to_str(), encoding="utf-8")
    put(tmp_path, {"tokenizer_config.json": {}, "added_tokens.json": {"<ent>": size}})
    ours = read_as_transformers(tmp_path, "bert", "a <ent> b", "a <ENT> b")
    assert size in ours.special_ids
    with pytest.raises(ValueError, match=r"added_tokens\.json gives '<ent>' the id 3, but it gets"):
        read_folder(put(tmp_path, {"added_tokens.json": {"<ent>": 3}}))


def test_gpt2_takes_a_padding_token_but_no_token_around_a_text(tmp_path: Path) -> None:
    size = len(GPT2_BYTES)
    config = {"pad_token": "[PAD]", "tokenizer_class": "GPT2Tokenizer"}
    files = {"tokenizer_config_json": config, "added_tokens_json": {"[PAD]": size}}
    ours = read_as_transformers(byte_bpe(tmp_path, "gpt2", GPT2_BYTES, **files), "gpt2", "a [PAD] b", "[PADa")
    assert (ours.pad_id, ours.begin_id) == (size, 0) and size in ours.special_ids and not ours.before
    byte_bpe(tmp_path, "gpt2", GPT2_BYTES, tokenizer_config_json=config | {"add_bos_token": True})
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: add_bos_token is true.*set it to false"):
        read_folder(tmp_path, "gpt2")


def test_named_roles_override_the_familys(tmp_path: Path) -> None:
    text = "\n".join(WORDS).replace("[MASK]", "[HOLE]") + "\n"
    folder = bert(tmp_path, tokenizer_config_json={"mask_token": "[HOLE]"}) / "vocab.txt"
    folder.write_text(text, encoding="utf-8")
    ours = read_as_transformers(tmp_path, "bert", "a [HOLE] b")
    assert (ours.mask_id, ours.pad_id, ours.begin_id) == (5, 0, 3)


@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("model_type, tokens", [("roberta", BYTES), ("gpt2", GPT2_BYTES)])
def test_add_prefix_space_follows_the_configuration(
    model_type: str, tokens: list[str], prefix: bool, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    byte_bpe(tmp_path, model_type, tokens, tokenizer_config_json={"add_prefix_space": not prefix})
    transformers.AutoTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    put(tmp_path, {"tokenizer_config.json": config | {"add_prefix_space": prefix}})
    ours = read_as_transformers(tmp_path, model_type, "a b", " a", "ab")
    assert ours.tokens(ours.tokenize_text(["a"])[0].tolist()) == (["Ġa"] if prefix else ["a"])
    del config["add_prefix_space"]  # the family's class then goes without, whatever tokenizer.json says
    for config_without in (config, {key: value for key, value in config.items() if key != "tokenizer_class"}):
        ours = read_as_transformers(
            put(tmp_path, {"tokenizer_config.json": config_without}), model_type, "a b", " a", "ab"
        )
        assert ours.tokens(ours.tokenize_text(["a"])[0].tolist()) == ["a"]


@pytest.mark.parametrize("made_by", ["BertTokenizer", "PreTrainedTokenizerFast"])
def test_family_classes_follow_the_configuration_and_generic_ones_the_json(made_by: str, tmp_path: Path) -> None:
    ours = read_folder(bert(tmp_path, tokenizer_config_json={"strip_accents": False}))
    ours.save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    stated = {"tokenizer_class": made_by, "do_lower_case": True, "strip_accents": None}
    put(tmp_path, {"tokenizer_config.json": config | stated})
    found = read_as_transformers(tmp_path, "bert", "A é É")
    assert ("é" in found.tokens(found.tokenize_text(["é"])[0].tolist())) == (made_by != "BertTokenizer")


BOS = {"content": "<s>", "lstrip": True, "rstrip": False, "single_word": False, "normalized": False}


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("begin", ["<s>", "e", BOS])
def test_bos_and_eos_take_no_place_of_berts_ends(name: str, begin: Any, tmp_path: Path) -> None:
    """They are special tokens of their own, at new ids where the vocabulary lacks them; pad and unknown stay."""
    typed = begin | {"__type": "AddedToken"} if isinstance(begin, dict) and "config" in name else begin
    folder = bert(tmp_path, **{name.replace(".json", "_json"): {"bos_token": typed, "eos_token": "</s>"}})
    ours = read_as_transformers(folder, "bert", "a <s> b</s>", "[CLS] e a", "x y")
    assert (ours.begin_id, ours.end_id, ours.pad_id, ours.unknown_id, ours.mask_id) == (3, 4, 0, 2, 5)
    new = len(WORDS) + (1 if begin == "e" else 2)
    assert len(ours) == new and {new - 1} <= ours.special_ids


def test_special_tokens_map_comes_before_tokenizer_config(tmp_path: Path) -> None:
    config, map_ = {"mask_token": "[unused1]", "extra_special_tokens": ["e"]}, {"mask_token": "a", "foo_token": "é"}
    files = {"tokenizer_config_json": config, "special_tokens_map_json": map_ | {"additional_special_tokens": ["b"]}}
    assert read_as_transformers(bert(tmp_path / "both", **files), "bert", "beaé [unused1] [MASK]").mask_id == 6
    files["tokenizer_config_json"] |= {"added_tokens_decoder": {}}
    assert read_as_transformers(bert(tmp_path / "one", **files), "bert", "beaé [unused1] [MASK]").mask_id == 1


def test_an_added_token_with_a_capital_changes_no_lower_casing(tmp_path: Path) -> None:
    ours = read_as_transformers(bert(tmp_path, added_tokens_json={"[E1]": len(WORDS)}), "bert", "A [E1] É [e1]b")
    assert ours.tokens(ours.tokenize_text(["A"])[0]) == ["a"]


@pytest.mark.parametrize(
    "entries",
    [
        {"add_prefix_space": "false"},
        {"strip_accents": "false"},
        {"do_lower_case": 1},
        {"do_lower_case": None},
        {"tokenize_chinese_chars": []},
        {"split_special_tokens": True},
        {"split_special_tokens": "no"},
        {"cls_token": 5},
        {"cls_token": None},
        {"sep_token": ""},
        {"foo_token": "\ud800"},
        {"tokenizer_class": ["BertTokenizer"]},
        {"added_tokens_decoder": {"9" * 5000: {"content": "x"}}},
    ],
    ids=lambda entries: f"{next(iter(entries))}-{str(next(iter(entries.values())))[:9]!r}",
)
def test_entries_that_cannot_be_used_are_named(entries: dict[str, Any], tmp_path: Path) -> None:
    key = next(iter(entries))
    if key == "add_prefix_space":
        folder = byte_bpe(tmp_path, "roberta", BYTES, tokenizer_config_json=entries)
    else:
        folder = bert(tmp_path, tokenizer_config_json=entries)
    with pytest.raises(ValueError, match=rf"tokenizer_config\.json.*{key}"):
        read_folder(folder, "roberta" if key == "add_prefix_space" else "bert")


def test_a_vocabulary_file_is_read_with_the_files_beside_it(tmp_path: Path) -> None:
    byte_bpe(tmp_path / "bytes", "roberta", BYTES, tokenizer_config_json={"add_prefix_space": True})
    for path in (tmp_path / "bytes" / "vocab.json", tmp_path / "bytes" / "merges.txt"):
        ours = read(path)
        assert ours.tokens(ours.tokenize_text(["a"])[0]) == ["Ġa"]
    config = {"do_lower_case": False, "mask_token": "[unused1]"}
    cased = read(bert(tmp_path / "words", tokenizer_config_json=config) / "vocab.txt")
    assert cased.mask_id == 1 and cased.tokenize_text(["A a"])[0].tolist() == [2, 6]


def test_sentencepiece_files_go_by_name_and_their_layout_by_the_class(shared: Path, tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    toy = (shared / "fixtures" / "tokenizers" / "curated_toy.model").read_bytes()
    for name in ("sentencepiece.bpe.model", "other.model", "._other.model"):
        (tmp_path / name).write_bytes(toy)
    found = read_folder(tmp_path, "bert", "XLMRobertaTokenizer")
    assert found.special == ROBERTA and (found.begin_id, found.pad_id, found.mask_id) == (0, 1, 1001)
    (tmp_path / "sentencepiece.bpe.model").rename(tmp_path / "third.model")
    with pytest.raises(ValueError, match=r"more than one SentencePiece file: other\.model, third\.model"):
        read_folder(tmp_path)


def test_a_config_holds_the_ids_of_tokens_around_a_text() -> None:
    around = train(["a b"] * 3, "bpe", 270)
    assert special_ids(around)["cls_token_id"] == around.begin_id
    assert not {"cls_token_id", "sep_token_id"} & special_ids(around.without_special_tokens()).keys()


@pytest.mark.parametrize(
    "files, message",
    [
        ({"added_tokens_json": {"x": "1"}}, r"added_tokens\.json must give each token an id"),
        ({"tokenizer_config_json": {"added_tokens_decoder": {"a": {}}}}, r"added_tokens_decoder must .*'a'"),
        ({"tokenizer_config_json": {"added_tokens_decoder": {"1": {}}}}, "needs its content"),
        ({"tokenizer_config_json": {"added_tokens_decoder": []}}, "added_tokens_decoder must be an object"),
        ({"tokenizer_config_json": {"extra_special_tokens": "x"}}, "must list tokens, got 'x'"),
        (
            {"tokenizer_config_json": {"extra_special_tokens": [{"content": "x", "lstrip": 1}]}},
            "the added token 'x' .*lstrip",
        ),
    ],
)
def test_malformed_files_are_named(files: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_folder(bert(tmp_path, **files))
