"""SentencePiece files: cut as the sentencepiece package cuts, or refused."""

import gzip
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import normalizers

from ctx_jax.cli import main
from ctx_jax.tokenizers.character_map import character_map, mapping_normalizers
from ctx_jax.tokenizers.sentencepiece_files import read_sentencepiece
from ctx_jax.tokenizers.subword_files import read
from ctx_jax.tokenizers.templates import SpecialTokens


@pytest.fixture(scope="module")
def files(shared: Path) -> Path:
    return shared / "fixtures" / "tokenizers"


@pytest.fixture(scope="module")
def botchan(files: Path) -> list[str]:
    return gzip.decompress((files / "botchan.txt.gz").read_bytes()).decode().splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["curated_toy.model", "sentencepiece_test_model.model", "spm_example.model"])
def test_sentencepiece_files_cut_as_sentencepiece_does(files: Path, botchan: list[str], name: str) -> None:
    library = pytest.importorskip("sentencepiece")
    original = library.SentencePieceProcessor(model_file=str(files / name))
    ours = read_sentencepiece(files / name, add_missing=True)
    assert len(ours) == len(original) + 2 and ours.begin_id == original.bos_id()
    moved = read_sentencepiece(files / name, layout="xlm-r")
    assert (len(moved), moved.mask_id) == (len(original) + 2, len(original) + 1)
    lines = botchan[::4]
    for line, found, xlm_r in zip(lines, ours.tokenize_text(lines), moved.tokenize_text(lines), strict=True):
        expected = original.encode(line)
        if found.tolist() != expected:  # of two segmentations with one score either may come out
            score = [sum(map(original.get_score, ids)) for ids in (found.tolist(), expected)]
            assert score[0] == pytest.approx(score[1], abs=1e-4)
        else:
            assert xlm_r.tolist() == [number + 1 if number > 2 else 3 for number in expected]


def trained(library: Any, botchan: list[str], folder: Path, **options: Any) -> Path:
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(botchan[:300]), model_prefix=str(folder / "own"), minloglevel=9, hard_vocab_limit=False,
        **{"vocab_size": 300, **options},
    )  # fmt: skip
    return folder / "own.model"


def proto_of(path: Path) -> Any:
    proto = pytest.importorskip("sentencepiece.sentencepiece_model_pb2").ModelProto()
    proto.ParseFromString(path.read_bytes())
    return proto


KEPT = {"remove_extra_whitespaces": False}
ODD = [
    *("Hello  world", " lead", "trail ", "a\tb", "\ta\r", "a \n b", "  ", "\u2581x a\u2581b", "cafe\u0301 \uff26"),
    *("\uff8c\uff9f\uff9b \uff76\uff9e", "\uff21\u0301 \u304b\u3099", "\u1100\u1161\u11a8 \u3131\u314f", "a\r\nb"),
    *("a\u200bb", "<x>tag", "a<x>b <x> c", "the other", "(a) - \u00a35", "[CTL] a[CTL]", "<0x41> a<0x41>b"),
]


@pytest.mark.parametrize(
    "options",
    [
        {"model_type": "bpe", "control_symbols": "[CTL]"},
        {"model_type": "bpe", "normalization_rule_name": "identity", **KEPT},
        {"normalization_rule_name": "nfkc"},
        KEPT,
        {**KEPT, "add_dummy_prefix": False},
        {"byte_fallback": True, "vocab_size": 500, "user_defined_symbols": "<x>,the"},
        {"control_symbols": "[CTL]", "user_defined_symbols": "(,),-,\u00a3,<x>,tag", "add_dummy_prefix": False},
    ],
    ids=str,
)
def test_sentencepiece_settings_cut_as_sentencepiece_does(
    options: dict[str, Any], botchan: list[str], tmp_path: Path
) -> None:
    library = pytest.importorskip("sentencepiece")
    path = trained(library, botchan, tmp_path, **options)
    original = library.SentencePieceProcessor(model_file=str(path))
    ours = read_sentencepiece(path, add_missing=True)
    texts = botchan[:500] + ODD
    assert [ids.tolist() for ids in ours.tokenize_text(texts)] == original.encode(texts)
    words = ["a", "<mask>", "b"]  # the space before a word is its own, whatever stands before it
    assert ours.tokenize_words([words])[0].words.tolist()[-2:] in ([1, 2], [2, 2])
    assert ours.tokenize_text(["a <mask> b"])[0].tolist() == ours.tokenize_words([words])[0].ids.tolist()


PLAIN = ["a", "Z", " ", "\t", "\r", "\n", "~", "\uff5e", "\u0130", "\ufeff", "\u00ad", "\u0600", "\u200d", "\U0001f3fb"]


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["nmt_nfkc", "nmt_nfkc_cf"])
def test_character_maps_do_what_sentencepiece_does(rule: str, botchan: list[str], tmp_path: Path) -> None:
    """On random texts of the map's own keys, marks, kana and jamo, of one character and of several."""
    library = pytest.importorskip("sentencepiece")
    content = proto_of(trained(library, botchan, tmp_path, normalization_rule_name=rule))
    charsmap = content.normalizer_spec.precompiled_charsmap
    ours = normalizers.Sequence(list(mapping_normalizers(charsmap)))
    theirs = library.SentencePieceNormalizer(
        rule_name=rule, add_dummy_prefix=False, escape_whitespaces=False, remove_extra_whitespaces=False
    )
    keys = list(character_map(charsmap))
    blocks = [(0x300, 0x370), (0x3040, 0x3100), (0xFF61, 0xFFA0), (0x1100, 0x1200), (0x3131, 0x3190)]
    pools = [keys, [key for key in keys if len(key) == 1], PLAIN, PLAIN]
    pools += [[chr(number) for number in range(*block)] for block in blocks]
    draw = random.Random(0)
    texts = ["".join(draw.choice(draw.choice(pools)) for _ in range(draw.randint(1, 10))) for _ in range(1000)]
    for text in texts:
        assert ours.normalize_str(text) == theirs.normalize(text), ascii(text)


def test_half_width_katakana_stays_with_its_word(files: Path) -> None:
    pytest.importorskip("sentencepiece")
    subwords = read_sentencepiece(files / "curated_toy.model", add_missing=True)
    words = ["\uff8c\uff9f", "cat", "\uff76\uff9e\uff76\uff9e", "e\u0301", "\u1100\u1161\u11a8"]
    pieces = subwords.tokenize_words([words])[0]
    assert set(pieces.words.tolist()) == set(range(len(words)))
    for number, word in enumerate(words):
        alone = subwords.tokenize_text([word])[0]
        assert pieces.ids[pieces.words == number].tolist() == alone.tolist()


def test_a_damaged_character_map_is_named(files: Path, tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    proto = proto_of(files / "spm_example.model")
    whole = proto.normalizer_spec.precompiled_charsmap
    for damaged in (b"\xff" * 8, whole[:100_000], whole[:4] + bytes([0, 0xFF, 0xFF, 0xFF]) + whole[8:], whole[:2]):
        proto.normalizer_spec.precompiled_charsmap = damaged
        path = tmp_path / "damaged.model"
        path.write_bytes(proto.SerializeToString())
        with pytest.raises(ValueError, match=r"damaged\.model.*precompiled_charsmap"):
            read_sentencepiece(path, add_missing=True)


def without(proto: Any, name: str) -> None:
    proto.pieces.remove(next(piece for piece in proto.pieces if piece.piece == name))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda proto: proto.pieces.add(piece="the", score=-1.0), "'the'"),
        (lambda proto: setattr(proto.pieces[20], "score", float("nan")), "scores"),
        (lambda proto: setattr(proto.pieces[20], "piece", ""), "empty"),
        (lambda proto: setattr(proto.pieces[20], "score", proto.pieces[21].score), "the same score"),
        (lambda proto: [proto.pieces.remove(piece) for piece in list(proto.pieces) if piece.piece == "e"], "'e'"),
        (
            lambda proto: [proto.pieces.remove(piece) for piece in list(proto.pieces) if piece.piece == "\u2581"],
            "\u2581",
        ),
        (lambda proto: proto.ClearField("normalizer_spec"), "normalizer_spec"),
    ],
)
def test_damaged_sentencepiece_files_are_named(
    change: Callable[[Any], Any], message: str, botchan: list[str], tmp_path: Path
) -> None:
    library = pytest.importorskip("sentencepiece")
    path = trained(library, botchan, tmp_path, model_type="bpe", normalization_rule_name="identity")
    proto = proto_of(path)
    proto.pieces.add(piece="the", score=-999.0)
    change(proto)
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ValueError, match=rf"own\.model.*{message}"):
        read_sentencepiece(path, add_missing=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"treat_whitespace_as_suffix": True}, "space behind a word .treat_whitespace_as_suffix"),
        ({"split_by_whitespace": False}, "a space: '\u2581.*\u2581"),
        ({"model_type": "bpe", "user_defined_symbols": "<x>"}, "user-defined piece, '<x>', which .* unigram"),
        ({"normalization_rule_name": "nmt_nfkc_cf", "user_defined_symbols": "<X>"}, "'<X>', .* normalizing"),
        ({"model_type": "char"}, "character model"),
    ],
)
def test_unsupported_sentencepiece_settings_are_refused(
    options: dict[str, Any], message: str, botchan: list[str], tmp_path: Path
) -> None:
    library = pytest.importorskip("sentencepiece")
    path = trained(library, botchan, tmp_path, **options)
    with pytest.raises(ValueError, match=rf"own.model .*{message}"):
        read_sentencepiece(path, add_missing=True)


@pytest.mark.slow
def test_sentencepiece_words(files: Path) -> None:
    pytest.importorskip("sentencepiece")
    words = read(files / "albert_test_vocab.spm")
    assert words.special == BERT_WITH_SMALL_PAD
    assert words.tokens(words.tokenize_text(["the quick cat"])[0])[0] == "\u2581the"


BERT_WITH_SMALL_PAD = SpecialTokens("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")


def test_missing_sentencepiece_tokens_and_package_are_named(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sentencepiece")
    with pytest.raises(ValueError, match=r"pad \(<pad>\), mask \(<mask>\); .*`ctx-jax tokenizer`"):
        read(files / "curated_toy.model")
    monkeypatch.setitem(sys.modules, "sentencepiece.sentencepiece_model_pb2", None)
    with pytest.raises(ModuleNotFoundError, match=r"ctx-jax\[sentencepiece\]"):
        read(files / "curated_toy.model")


@pytest.mark.slow
def test_the_command_converts_and_completes_a_sentencepiece_file(files: Path, tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    toy = files / "curated_toy.model"
    assert main(["tokenizer", str(tmp_path / "plain"), "--convert", str(toy)]) == 0
    found, expected = read(tmp_path / "plain"), read_sentencepiece(toy, add_missing=True)
    assert (len(found), found.mask_id, found.digest) == (1002, 1001, expected.digest)
    assert main(["tokenizer", str(tmp_path / "moved"), "--convert", str(toy), "--layout", "xlm-r"]) == 0
    moved = read(tmp_path / "moved")
    assert (moved.begin_id, moved.pad_id, moved.end_id, moved.unknown_id, moved.mask_id) == (0, 1, 2, 3, 1001)
