"""Subword tokenizers from files of the original systems: ids, special tokens, the alignment of pieces with words."""

import base64
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, processors

from ctx_jax.io.errors import InputError, MissingFileError
from ctx_jax.tokenizers.special_files import Settings
from ctx_jax.tokenizers.subword_files import read, read_bpe, read_folder, read_wordpiece
from ctx_jax.tokenizers.subword_training import train
from ctx_jax.tokenizers.subwords import Subwords
from ctx_jax.tokenizers.templates import BERT, GPT, ROBERTA, PairLayout, SpecialTokens

TEXT = ["the cat sat on the mat", "a dog and a cat", ["the", "dogs", "sat"], "mats and cats"] * 5


@pytest.fixture(scope="module")
def files(shared: Path) -> Path:
    return shared / "fixtures" / "tokenizers"


def unpack(source: Path, target: Path) -> Path:
    target.write_bytes(gzip.decompress(source.read_bytes()))
    return target


@pytest.fixture(scope="module")
def uncased(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Subwords:
    return read(unpack(files / "bert_base_uncased_vocab.txt.gz", tmp_path_factory.mktemp("bert") / "vocab.txt"))


@pytest.mark.parametrize(
    "text, ids",
    [
        # Two examples of transformers' documentation, and what leaves no trace or is special.
        ("Hello, my dog is cute", [7592, 1010, 2026, 3899, 2003, 10140]),
        ("Using a Transformer network is simple", [2478, 1037, 10938, 2121, 2897, 2003, 3722]),
        ("héllo\u200b [MASK]", [7592, 103]),
    ],
)
def test_bert_ids_of_known_sentences(uncased: Subwords, text: str, ids: list[int]) -> None:
    assert len(uncased) == 30522
    assert uncased.tokenize_text([text])[0].tolist() == ids
    assert uncased.add_special_tokens(uncased.tokenize_text([text])[0]).tolist() == [101, *ids, 102]
    pieces = uncased.tokenize_words([text.split()])[0]
    assert pieces.ids.tolist() == ids and len(set(pieces.words.tolist())) == len(text.split())


def test_the_example_of_berts_readme(uncased: Subwords) -> None:
    """John's second name is two pieces, as google-research/bert's README has it."""
    pieces = uncased.tokenize_words([["John", "Johanson", "'s", "house"]])[0]
    assert uncased.tokens(pieces.ids) == ["john", "johan", "##son", "'", "s", "house"]
    assert pieces.words.tolist() == [0, 1, 1, 2, 2, 3]


def test_a_cased_vocabulary_is_lower_cased_unless_its_configuration_says_otherwise(files: Path, tmp_path: Path) -> None:
    """As in transformers, whatever capitals the vocabulary has."""
    path = unpack(files / "bert_base_cased_vocab.txt.gz", tmp_path / "vocab.txt")
    assert "Paris" not in (lowered := read(path)).tokens(lowered.tokenize_text(["Paris"])[0])
    cased = read_wordpiece(path, Settings({"do_lower_case": False}))
    assert cased.tokens(cased.tokenize_text(["Paris É"])[0]) == ["Paris", "É"]
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true, "strip_accents": false}')
    stripped = read_folder(tmp_path)
    assert stripped.tokens(stripped.tokenize_text(["É"])[0]) == ["é"]


def test_roberta_ids(files: Path, tmp_path: Path) -> None:
    """fairseq renumbered GPT-2's tokens; with three of them at RoBERTa's places the golden sentence comes out."""
    gpt2 = json.loads(gzip.decompress((files / "gpt2_bpe_encoder.json.gz").read_bytes()))
    ids = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 50264}
    places = {"Hello": 31414, "Ġworld": 232, "!": 328}
    free = iter(sorted(set(range(4, 50264)) - set(places.values())))
    ids |= {token: places[token] if token in places else next(free) for token in gpt2}
    (tmp_path / "vocab.json").write_text(json.dumps(ids))
    unpack(files / "gpt2_bpe_vocab.bpe.gz", tmp_path / "merges.txt")
    roberta = read(tmp_path)
    assert len(roberta) == 50265 and roberta.special == ROBERTA
    assert roberta.add_special_tokens(roberta.tokenize_text(["Hello world!"])[0]).tolist() == [0, 31414, 232, 328, 2]
    pieces = roberta.tokenize_words([["Hello", "world!"]])[0]
    assert pieces.ids.tolist() == [31414, 232, 328] and pieces.words.tolist() == [0, 1, 1]
    masked = roberta.tokenize_words([["Hello", "<mask>", "", "!"]])[0]
    assert roberta.tokens(masked.ids) == ["Hello", "<mask>", "<unk>", "Ġ!"] and masked.words.tolist() == [0, 1, 2, 3]


def test_gpt2_adds_nothing_and_shares_one_special_token(files: Path, tmp_path: Path) -> None:
    unpack(files / "gpt2_bpe_encoder.json.gz", tmp_path / "vocab.json")
    unpack(files / "gpt2_bpe_vocab.bpe.gz", tmp_path / "merges.txt")
    gpt2 = read(tmp_path / "vocab.json")
    assert len(gpt2) == 50257
    assert gpt2.add_special_tokens(gpt2.tokenize_text(["Hello world!"])[0]).tolist() == [15496, 995, 0]
    assert gpt2.tokenize_words([["Hello", " ", "x"]])[0].ids.tolist() == [15496, 50256, 2124]
    with pytest.raises(ValueError, match="lacks a special token: mask"):
        gpt2.mask_id  # noqa: B018
    gpt2.save(tmp_path / "saved")
    assert read(tmp_path / "saved").digest == gpt2.digest


def test_robberts_vocabulary_and_merges(files: Path) -> None:
    """Cut to 1,000 merges: ids have gaps, and no mask; the pieces undo the bytes."""
    vocabulary, merges = files / "curated_robbert-vocab-1000.json", files / "curated_robbert-merges-1000.txt"
    with pytest.raises(ValueError, match=r"robbert.*mask \(<mask>\)"):
        read_bpe(vocabulary, merges, Settings())
    special = SpecialTokens("<pad>", "<unk>", "<s>", "</s>", ".")
    robbert = read_bpe(vocabulary, merges, Settings(roles=special.roles()))
    assert len(robbert) == 39841
    pieces = robbert.tokenize_words([["Een", "verschillende"]])[0]
    assert pieces.ids[-1] == 181 and robbert.decode(pieces.ids) == "Een verschillende"


def test_pairs_are_laid_out_as_the_family_does(uncased: Subwords) -> None:
    assert uncased.pair_layout == PairLayout(separators=1, second_type=1)
    bpe = train(iter(TEXT), "bpe", 290)
    assert bpe.pair_layout == PairLayout(separators=2, second_type=1)
    bpe.tokenizer.post_processor = processors.RobertaProcessing(("</s>", bpe.end_id), ("<s>", bpe.begin_id))
    assert bpe.pair_layout == PairLayout(separators=2, second_type=0)  # of RoBERTa's own files
    with pytest.raises(ValueError, match=r"begin A end B end.*\['Ġa', 'Ġa'\]"):
        bpe.without_special_tokens().pair_layout  # noqa: B018


def test_at_most_one_special_token_on_each_side_is_read() -> None:
    bpe = train(iter(TEXT), "bpe", 290)
    ends = [(token, bpe.tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    for single in ("<s> <s> $A", "<s> <s> $A </s>", "$A </s> </s>"):
        bpe.tokenizer.post_processor = processors.TemplateProcessing(single, "$A $B", ends)
        with pytest.raises(InputError, match="at most one on each side"):
            Subwords(bpe.tokenizer, bpe.special)
    bpe.tokenizer.post_processor = processors.TemplateProcessing("$A </s>", "$A $B", ends)
    assert (Subwords(bpe.tokenizer, bpe.special).before, Subwords(bpe.tokenizer, bpe.special).after) == ((), (2,))


def test_the_first_gpts_files_are_read_both_ways(tmp_path: Path) -> None:
    """transformers' own GPT tokenizer, of a hand-made vocabulary, by its tokenizer.json and by the original's files."""
    transformers = pytest.importorskip("transformers")
    letters = "thecasdog."
    ids = {token: number for number, token in enumerate(["<unk>", *letters, *(f"{one}</w>" for one in letters)])}
    merges = [("t", "h"), ("th", "e</w>"), ("c", "a"), ("ca", "t</w>")]
    ids |= {left + right: len(ids) + number for number, (left, right) in enumerate(merges)}
    theirs = transformers.OpenAIGPTTokenizer(vocab=ids, merges=merges)
    theirs.save_pretrained(tmp_path / "json")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "vocab.json").write_text(json.dumps(ids))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (tmp_path / "files" / "merges.txt").write_text("\n".join(lines) + "\n")
    for folder in ("json", "files"):
        ours = read_folder(tmp_path / folder, "openai-gpt")
        assert ours.special == GPT and len(ours) == len(ids)
        for text in ("The cat.", "a dog x", "CATS"):
            assert ours.add_special_tokens(ours.tokenize_text([text])[0]).tolist() == theirs(text)["input_ids"]
        assert ours.decode(ours.tokenize_text(["the cat"])[0]).strip() == "the cat"
        ours.save(tmp_path / "saved" / folder)
        assert read(tmp_path / "saved" / folder).digest == ours.digest
    with pytest.raises(ValueError, match="lacks special tokens"):
        read(tmp_path / "files")  # nothing says there that it is GPT's


def test_truncation_and_padding_of_a_file_are_switched_off(tmp_path: Path) -> None:
    subwords = train(TEXT, "wordpiece", 60)
    subwords.save(tmp_path)
    baked = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    baked.enable_truncation(4)
    baked.enable_padding(length=6)
    baked.save(str(tmp_path / "tokenizer.json"))
    for words in (["the", "cat", "sat"] * 4, ["cat"]):
        ids = subwords.tokenize_words([words])[0].ids
        np.testing.assert_array_equal(read(tmp_path).tokenize_words([words])[0].ids, ids)


def test_the_configuration_beside_a_file_applies(tmp_path: Path) -> None:
    train([*TEXT, "The Cat"] * 3, "wordpiece", 60).save(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    kept = json.loads(config.read_text()) | {"tokenizer_class": "BertTokenizer"}
    config.write_text(json.dumps(kept | {"do_lower_case": True}))
    lower = read(tmp_path / "tokenizer.json")
    np.testing.assert_array_equal(lower.tokenize_text(["THE"])[0], lower.tokenize_text(["the"])[0])
    config.unlink()  # the roles are then known by the usual names
    assert read(tmp_path).special == BERT
    config.write_text(json.dumps(kept | {"mask_token": {"content": "<hole>"}}))
    with pytest.raises(ValueError, match=r"lacks special tokens: mask \(<hole>\)"):
        read(tmp_path)


def test_clashing_special_tokens_are_refused(tmp_path: Path) -> None:
    train(TEXT, "bpe", 290).save(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    kept = json.loads(config.read_text())
    config.write_text(json.dumps(kept | {"pad_token": "<s>"}))
    with pytest.raises(ValueError, match=r"clash: pad and begin are both <s> \(id 0\)"):
        read(tmp_path)
    config.write_text(json.dumps(kept | {"cls_token": "<mask>", "mask_token": "<s>"}))
    with pytest.raises(ValueError, match="around a sentence, but begin is <mask>"):
        read(tmp_path)


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    for name, text, message in [
        ("tokenizer.json", "{", "not JSON"),
        ("tokenizer.json", '{"a": 1}', "no entry 'model'"),
        ("tokenizer.json", '{"model": {"type": "WordPiece"}}', r"tokenizer\.json is damaged"),
        # The Rust side panics.
        ("tokenizer.json", '{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}}', "is damaged"),
        ("vocab.txt", "[PAD]\n[UNK]\n[CLS]\nthe\n", r"vocab.txt: .*end \(\[SEP\]\), mask"),
    ]:
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=message):
            read(tmp_path / name)
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 0}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    with pytest.raises(ValueError, match="an id of its own"):
        read(tmp_path / "vocab.json")
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1}')
    with pytest.raises(ValueError, match="merges.txt does not fit"):
        read(tmp_path / "merges.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no tokenizer: needs tokenizer.json"):
        read(tmp_path / "empty")
    for missing in ("none", "none/tokenizer.json", "none/vocab.txt"):
        with pytest.raises(MissingFileError, match=rf"{missing}: No such file"):
            read(tmp_path / missing)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(MissingFileError, match=r"merges\.txt"):
        read(tmp_path / "vocab.json")


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_an_added_token_counts_for_its_own_word_alone(kind: Any, tmp_path: Path) -> None:
    """Whatever white space it takes; the pieces are those of the text, without unknown tokens between them."""
    subwords = train(TEXT, kind, 300)
    spaces = {"rstrip": True, "lstrip": True}
    added = [AddedToken("[E1]", **spaces), AddedToken("[E2]", rstrip=True), AddedToken("New York")]
    subwords.tokenizer.add_tokens(added)
    subwords = Subwords(subwords.tokenizer, subwords.special)
    for words, owners in [
        (["the", "[E1]", "cat"], {0, 1, 2}),
        (["[E2]", "[E1]", "[E2]", "cat"], {0, 1, 2, 3}),
        (["the [E2]", "cat"], {0, 1}),
        (["New", "York", "cat"], {1, 2}),  # it reaches over two words; the last one owns it
        (["New", "Yorks"], {1}),
    ]:
        pieces = subwords.tokenize_words([words])[0]
        assert set(pieces.words.tolist()) == owners and (np.diff(pieces.words) >= 0).all()
        assert pieces.ids.tolist() == subwords.tokenize_text([" ".join(words)])[0].tolist()
    pieces = subwords.tokenize_words([["a", "[E2]", "", "cat"]])[0]
    assert pieces.ids[pieces.words == 2].tolist() == [subwords.unknown_id]


def state_of(tmp_path: Path) -> dict[str, Any]:
    train(TEXT, "wordpiece", 60).save(tmp_path)
    state: dict[str, Any] = json.loads((tmp_path / "tokenizer.json").read_text())
    return state


REPLACE = {"type": "Replace", "pattern": {"String": ""}, "content": "x"}
NO_MAP = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(b"\x04\0\0\0" + b"\xff" * 8).decode()}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state["model"]["vocab"].update({"x": 3}), "'x'.* 3"),
        (lambda state: state["model"]["vocab"].update({"x": 1.0}), "an id of its own"),
        (lambda state: state["model"]["vocab"].update({"x": -1}), "an id of its own"),
        (lambda state: state["added_tokens"].append(dict(state["added_tokens"][0], content="x")), "'x'.* 0"),
        (lambda state: state["model"].update(unk_token="[GONE]"), r"unk_token is '\[GONE\]'"),
        (lambda state: state["model"].update(unk_token=["a"]), "unk_token"),
        (lambda state: state["model"].update(max_input_chars_per_word=10**20), "100000000000000000000|1e20|1e\\+20"),
        (lambda state: state["post_processor"]["special_tokens"].pop("[CLS]"), ""),
        (lambda state: state.update(normalizer=REPLACE), "empty pattern"),
        (lambda state: state.update(normalizer={"type": "Sequence", "normalizers": [REPLACE]}), "empty pattern"),
        (lambda state: state.update(normalizer=NO_MAP), "precompiled_charsmap"),
        (lambda state: state["model"].update(type="BPE", merges=[5]), "merge"),
        (lambda state: state.update(model={"type": "Unigram", "vocab": [["a", 0.0], ["a", 1.0]]}), "'a'"),
        (lambda state: state.update(model={"type": "Unigram", "vocab": [["a", True]]}), "scores"),
        (lambda state: state["model"]["vocab"].update({"\ud800": 999}), ""),
    ],
)
def test_damage_in_a_tokenizer_json_is_named(change: Callable[[Any], Any], named: str, tmp_path: Path) -> None:
    """Also where the library panics, at reading or at the first text."""
    state = state_of(tmp_path)
    change(state)
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    with pytest.raises(InputError, match=rf"tokenizer\.json.*{named}"):
        read(tmp_path)


def test_texts_that_a_tokenizer_fails_at_are_named(tmp_path: Path) -> None:
    """A search that never ends, and an unknown piece that nothing stands for."""
    state = state_of(tmp_path)
    endless = {"type": "Split", "pattern": {"Regex": "((b|b)+)+$"}, "behavior": "Isolated", "invert": False}
    (tmp_path / "tokenizer.json").write_text(json.dumps(state | {"pre_tokenizer": endless}))
    with pytest.raises(InputError, match="sentence 1 .*bbbb"):
        read(tmp_path).tokenize_text(["the", "b" * 40 + "c"])
    pieces = [*state["model"]["vocab"], "▁"]
    model = {"type": "Unigram", "unk_id": None, "vocab": [[piece, -1.0] for piece in pieces]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(state | {"model": model, "normalizer": None}))
    with pytest.raises(InputError, match="sentence 1 .*\u6771"):
        read(tmp_path).tokenize_words([["the"], ["\u6771"]])


def test_a_line_twice_in_a_vocabulary_is_named(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join([*BERT.roles().values(), "a", "b", "a"]) + "\n")
    with pytest.raises(InputError, match=r"vocab\.txt: lines 6 and 8 are both 'a'"):
        read(tmp_path)


def test_half_a_surrogate_pair_is_named() -> None:
    subwords = train(TEXT, "bpe", 290)
    for read_texts in (subwords.tokenize_text, lambda texts: subwords.tokenize_words([text.split() for text in texts])):
        with pytest.raises(
            ValueError, match=r"'\\ud83d' in 'a b \\ud83d', at character 4 of its text, is half of a surrogate pair"
        ):
            read_texts(["the cat", "", "a b \ud83d"])
    with pytest.raises(TypeError):  # the library's own words for what is no string
        subwords.tokenize_text(["a", 3])  # type: ignore[list-item]
