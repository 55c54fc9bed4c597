"""Tokenizer classes: each cut as transformers cuts it, from vocabulary files and from tokenizer.json, or refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_tokenizers import BYTES, ENDS, PIECES, WORDS, put
from tiny_transformers import BERT, random_params

import ctx_jax
from ctx_jax.encoders.transformer.huggingface import folders as huggingface
from ctx_jax.tokenizers import tokenizer_classes as classes
from ctx_jax.tokenizers.subword_files import read, read_folder
from ctx_jax.tokenizers.subwords import Subwords

TEXTS = ("the cats", "The  cat é", "the東京", " a b", "ab<mask> a", "[MASK] the[CLS]", "<s> the</s>", "théa", "cat s")
LOWER_OFF = {"do_lower_case": False}


def vocabulary_files(kind: str) -> dict[str, Any]:
    if kind == "wordpiece":
        return {"vocab.txt": "\n".join(WORDS) + "\n"}
    tokens, merges = (ENDS, "t h\nth e</w>\nc a\nca t</w>\n") if kind == "ends" else (BYTES, "Ġ a\nĠ b\n")
    ids = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    return {"vocab.json": ids, "merges.txt": "#version: 0.2\n" + merges}


def compare(folder: Path, model_type: str, texts: tuple[str, ...] = TEXTS) -> Subwords:
    """Ours equals transformers' in every text, in size, and in every role that both have."""
    transformers = pytest.importorskip("transformers")
    theirs, ours = transformers.AutoTokenizer.from_pretrained(folder), read_folder(folder, model_type)
    for text, ids in zip(texts, ours.tokenize_text(texts), strict=True):
        assert ours.add_special_tokens(ids).tolist() == theirs(text)["input_ids"], text
        pair = ours.tokenizer.encode(text, text)
        assert pair.ids == theirs(text, text)["input_ids"]
    assert len(ours) == len(theirs)
    for name, number in (("pad", ours.pad_id), ("unk", ours.unknown_id)):
        assert getattr(theirs, f"{name}_token_id") in (None, number)
    return ours


@pytest.mark.parametrize(
    ("kind", "model_type", "config"),
    [
        ("wordpiece", "bert", {}),
        ("wordpiece", "distilbert", {}),
        ("wordpiece", "bert", LOWER_OFF),
        ("wordpiece", "bert", {"tokenizer_class": "DistilBertTokenizerFast", "tokenize_chinese_chars": False}),
        ("wordpiece", "roberta", {"tokenizer_class": "BertTokenizer", "strip_accents": False}),
        ("wordpiece", "bert", {"tokenizer_class": "ElectraTokenizer", **LOWER_OFF}),
        ("bytes", "roberta", {}),
        ("bytes", "gpt2", {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}),
        ("bytes", "bert", {"tokenizer_class": "BartTokenizer", "add_prefix_space": True}),
        ("bytes", "bert", {"tokenizer_class": "GPT2TokenizerFast"}),
        ("ends", "bert", {"tokenizer_class": "HerbertTokenizer"}),
        ("ends", "openai-gpt", {}),
    ],
)
def test_vocabulary_files_are_cut_as_their_class_cuts(
    kind: str, model_type: str, config: dict[str, Any], tmp_path: Path
) -> None:
    texts = tuple(text for text in TEXTS if kind != "bytes" or "<mask>" not in text)  # see the next test
    files = {"config.json": {"model_type": model_type}, "tokenizer_config.json": config, **vocabulary_files(kind)}
    compare(put(tmp_path, files), model_type, texts)


def test_robertas_mask_takes_the_space_before_it_as_in_fairseq(tmp_path: Path) -> None:
    """transformers 5 leaves a piece of one space there, unless a file gives the mask's flags."""
    files = {"config.json": {"model_type": "roberta"}, **vocabulary_files("bytes")}
    ours = read_folder(put(tmp_path, files), "roberta")
    assert ours.tokens(ours.tokenize_text(["a <mask> b"])[0]) == ["a", "<mask>", "Ġb"]
    flags = {"content": "<mask>", "lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    put(tmp_path, {"tokenizer_config.json": {"added_tokens_decoder": {"4": flags | {"special": True}}}})
    ours = compare(tmp_path, "roberta", ("a <mask> b",))
    assert ours.tokens(ours.tokenize_text(["a <mask> b"])[0]) == ["a", "Ġ", "<mask>", "Ġb"]


def tokenizer_json(folder: Path, kind: str, model_type: str) -> dict[str, Any]:
    """What transformers saves of a vocabulary."""
    transformers = pytest.importorskip("transformers")
    if kind == "unigram":
        made = transformers.XLMRobertaTokenizer(vocab=PIECES)
    else:
        files = {"config.json": {"model_type": model_type}, **vocabulary_files(kind)}
        made = transformers.AutoTokenizer.from_pretrained(put(folder / "made", files))
    state: dict[str, Any] = json.loads(made.backend_tokenizer.to_str())
    return state


CASED = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
         "lowercase": False}  # fmt: skip
SEQUENCE = {"type": "Sequence", "normalizers": [{"type": "NFC"}, CASED, {"type": "Lowercase"}]}
E1 = {"id": 17, "content": "[E1]", "single_word": False, "lstrip": False, "rstrip": True, "normalized": False,
      "special": False}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "model_type", "config", "changes"),
    [
        ("wordpiece", "bert", {}, {"normalizer": CASED}),
        ("wordpiece", "bert", {}, {"normalizer": SEQUENCE}),
        ("wordpiece", "bert", LOWER_OFF, {"normalizer": SEQUENCE}),
        ("wordpiece", "bert", LOWER_OFF, {"pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None}),
        ("wordpiece", "bert", {"tokenizer_class": "PreTrainedTokenizerFast", **LOWER_OFF}, {"normalizer": SEQUENCE}),
        ("wordpiece", "bert", {"tokenizer_class": "UnheardOfTokenizer"}, {"normalizer": CASED}),
        ("wordpiece", "modernbert", {"tokenizer_class": "BertTokenizer"}, {"normalizer": CASED}),
        ("wordpiece", "distilbert", {}, {"added_tokens": [E1]}),
        ("bytes", "roberta", {}, {"pre_tokenizer": {"type": "Whitespace"}, "post_processor": None}),
        ("bytes", "gpt2", {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}, {}),
        ("ends", "openai-gpt", {}, {"normalizer": None}),
        ("unigram", "xlm-roberta", {}, {"normalizer": {"type": "Lowercase"}}),
        ("unigram", "bert", {"tokenizer_class": "XLMRobertaTokenizerFast", "add_prefix_space": False}, {}),
        ("unigram", "camembert", {}, {"post_processor": None}),
    ],
)
def test_tokenizer_json_is_what_transformers_makes_of_it(
    kind: str, model_type: str, config: dict[str, Any], changes: dict[str, Any], tmp_path: Path
) -> None:
    made_as = {"modernbert": "bert", "distilbert": "bert"}.get(model_type, model_type)
    state = tokenizer_json(tmp_path, kind, made_as) | changes
    if "added_tokens" in changes:
        state["added_tokens"] = [*tokenizer_json(tmp_path, kind, made_as)["added_tokens"], *changes["added_tokens"]]
    files = {"config.json": {"model_type": model_type}, "tokenizer.json": state, "tokenizer_config.json": config}
    if kind == "unigram":
        names = {"cls_token": "<s>", "sep_token": "</s>"}
        files["tokenizer_config.json"] = config | names
    compare(put(tmp_path / "folder", files), model_type, (*TEXTS, "the [E1] cat[E1]s"))


def test_a_bert_with_xlm_rs_tokenizer_and_more_rows(tmp_path: Path) -> None:
    """As multilingual-e5-small is published."""
    model = replace(BERT, vocabulary=len(PIECES) + 24)
    huggingface.write(tmp_path / "model", model, random_params(model)[0])
    config = {"tokenizer_class": "XLMRobertaTokenizer", "cls_token": "<s>", "sep_token": "</s>"}
    state = tokenizer_json(tmp_path, "unigram", "xlm-roberta")
    put(tmp_path / "model", {"tokenizer.json": state, "tokenizer_config.json": config})
    transformers = pytest.importorskip("transformers")
    theirs, ours = transformers.AutoTokenizer.from_pretrained(tmp_path / "model"), ctx_jax.load(tmp_path / "model")
    assert ours.model.vocabulary == len(PIECES) + 24 > len(theirs)
    for text in TEXTS:
        assert ours.tokenize([text], level="tokens")["token_ids"][0].tolist() == theirs(text)["input_ids"]


def test_the_tokens_of_a_configuration_come_before_tokenizer_jsons(tmp_path: Path) -> None:
    state = tokenizer_json(tmp_path, "wordpiece", "bert")
    state["added_tokens"].append(E1)
    listed = {str(token["id"]): {key: value for key, value in token.items() if key != "id"}
              for token in state["added_tokens"][:5]}  # fmt: skip
    files = {"config.json": {"model_type": "bert"}, "tokenizer.json": state}
    folder = put(tmp_path / "folder", {**files, "tokenizer_config.json": {"added_tokens_decoder": listed}})
    assert len(compare(folder, "bert", ("the [E1] cat",))) == len(WORDS)


@pytest.mark.parametrize(
    ("files", "model_type", "named"),
    [
        ({"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "basic"}, "bert", "BertJapaneseTokenizer"),
        ({"tokenizer_class": "UnheardOfTokenizer"}, "bert", "UnheardOfTokenizer"),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, "bert", "PreTrainedTokenizerFast"),
        ({}, "roberta", "RobertaTokenizer"),
    ],
)
def test_other_classes_of_a_vocab_txt_are_refused_by_name(
    files: dict[str, Any], model_type: str, named: str, tmp_path: Path
) -> None:
    put(tmp_path, vocabulary_files("wordpiece") | {"tokenizer_config.json": files})
    with pytest.raises(ValueError, match=rf"vocab\.txt is of a {named}.*{', '.join(classes.FOR_WORDPIECE[:2])}"):
        read_folder(tmp_path, model_type)
    put(tmp_path, {"tokenizer_config.json": {}, "config.json": {"model_type": model_type, **files}})
    with pytest.raises(ValueError, match=named):  # whoever names it
        read_folder(tmp_path)


@pytest.mark.parametrize("name", ["BertTokenizer", "PhobertTokenizer", "CTRLTokenizerFast"])
def test_other_classes_of_vocab_json_and_of_sentencepiece_are_refused_by_name(name: str, tmp_path: Path) -> None:
    config = {"tokenizer_config.json": {"tokenizer_class": name}}
    put(tmp_path / "bpe", vocabulary_files("bytes") | config)
    with pytest.raises(ValueError, match=rf"vocab\.json is of a {name}"):
        read_folder(tmp_path / "bpe")
    put(tmp_path / "pieces", {"spiece.model": "any", **config})
    with pytest.raises(ValueError, match=rf"spiece\.model is of a {name}"):
        read_folder(tmp_path / "pieces")


def test_classes_that_do_not_take_tokenizer_json_as_it_is_are_refused_by_name(tmp_path: Path) -> None:
    state = tokenizer_json(tmp_path, "wordpiece", "bert")
    put(tmp_path, {"tokenizer.json": state, "tokenizer_config.json": {"tokenizer_class": "FunnelTokenizerFast"}})
    with pytest.raises(ValueError, match="FunnelTokenizerFast"):
        read(tmp_path / "tokenizer.json")
    put(tmp_path, {"tokenizer_config.json": {"tokenizer_class": "RobertaTokenizer"}})
    with pytest.raises(ValueError, match=r"tokenizer\.json holds a WordPiece model, but .*RobertaTokenizer, is a BPE"):
        read(tmp_path)
    put(tmp_path, {"tokenizer_config.json": {"auto_map": {"AutoTokenizer": ["own.Code", None]}}})
    with pytest.raises(ValueError, match="auto_map"):
        read(tmp_path)


def test_ids_that_a_class_takes_for_granted_are_refused_elsewhere(tmp_path: Path) -> None:
    files = vocabulary_files("ends")
    files["vocab.json"] |= {"<s>": 2, "</s>": 0}
    put(tmp_path / "bpe", files | {"tokenizer_config.json": {"tokenizer_class": "HerbertTokenizer"}})
    with pytest.raises(ValueError, match=r"vocab\.json gives '<s>' the id 2"):
        read(tmp_path / "bpe" / "vocab.json")
    state = tokenizer_json(tmp_path, "unigram", "xlm-roberta")
    vocabulary = state["model"]["vocab"]
    vocabulary[3], vocabulary[4] = vocabulary[4], vocabulary[3]
    state |= {"model": state["model"] | {"unk_id": 4}, "added_tokens": []}
    put(tmp_path, {"tokenizer.json": state, "tokenizer_config.json": {"tokenizer_class": "XLMRobertaTokenizer"}})
    with pytest.raises(ValueError, match=r"tokenizer\.json gives '<unk>' the id 4"):
        read(tmp_path)


def test_ends_of_words_under_bytes_are_refused(tmp_path: Path) -> None:
    put(tmp_path, vocabulary_files("ends"))
    for name in ("", "RobertaTokenizer"):
        put(tmp_path, {"tokenizer_config.json": {"tokenizer_class": name}})
        with pytest.raises(ValueError, match="</w>.*HerbertTokenizer"):
            read(tmp_path / "vocab.json")


@pytest.mark.slow
def test_every_class_of_transformers_is_decided() -> None:
    """Known here, refused, or one that takes tokenizer.json as it is; and the class of each model's type is theirs."""
    transformers = pytest.importorskip("transformers")
    automatic = pytest.importorskip("transformers.models.auto.tokenization_auto")
    backend = pytest.importorskip("transformers.tokenization_utils_tokenizers").TokenizersBackend
    names = {name for name in automatic.TOKENIZER_MAPPING_NAMES.values() if name}
    names |= {name for name in dir(transformers) if name.endswith(("Tokenizer", "TokenizerFast"))}
    undecided = []
    parts = {f"{name}Tokenizer" for name in ("Auto", "Basic", "Character", "Mecab", "Wordpiece")}
    for name in sorted(names - parts):
        short = name.removesuffix("Fast")
        try:
            found = automatic.tokenizer_class_from_name(name)
        except Exception:
            found = None
        as_it_is = found is backend or (
            isinstance(found, type) and issubclass(found, backend) and found.__mro__[1] is backend
            and "__init__" not in found.__dict__
        )  # fmt: skip
        if not as_it_is and short not in (*classes.CLASSES, *classes.REBUILT, *classes.GENERIC):
            undecided.append(name)
    assert not undecided and not classes.REBUILT & {*classes.CLASSES, *classes.GENERIC}
    for model_type, name in classes.OF_MODEL_TYPE.items():
        assert automatic.TOKENIZER_MAPPING_NAMES[model_type] == name
        forced = model_type in automatic.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS
        assert forced == (model_type in classes.IGNORES_CLASS)
    for name, kind in classes.CLASSES.items():
        assert automatic.tokenizer_class_from_name(name).model is not None or name == "CamembertTokenizer", kind
