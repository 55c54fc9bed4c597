"""Batches of sequences: positions resume them, hosts agree, epochs mask anew; pairs; and the cache of tokens."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctx_jax.data.batch import Batch
from ctx_jax.data.cache import build_cache
from ctx_jax.data.config import DataConfig
from ctx_jax.data.corpora import source_of
from ctx_jax.data.pairs import Pairs
from ctx_jax.data.prefetch import prefetch
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.data.sequences import Sequences
from ctx_jax.data.tokens import Tokens, cache_tokens, tokens_of

FORMS: dict[str, dict[str, Any]] = {
    "full": {},
    "words": {"masking": "words", "whole_sentences": False},
    "apart": {"cross_documents": False, "masking": "spans"},
    "next_sentence": {"form": "pairs"},
    "order": {"form": "pairs", "pairs": "order"},
    "pairs": {"form": "pairs", "pairs": "none"},
    "packed": {"form": "packed"},
    "causal": {"form": "causal"},
    "causal apart": {"form": "causal", "cross_documents": False},
}
PAD, BEGIN, END, MASK = 0, 2, 3, 4


class Names:
    """Special tokens 0 to 4: padding, unknown, begin, end, mask."""

    pad_id, begin_id, end_id, mask_id = PAD, BEGIN, END, MASK
    special_ids = frozenset(range(5))

    def __init__(self, size: int = 9000) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size


def corpus(documents: int = 12, longest: int = 14, seed: int = 0) -> Tokens:
    """Every token is different: token t of the text has the id t + 5. Words have one or two pieces."""
    draw = np.random.default_rng(seed)
    sentences = draw.integers(1, 9, documents)
    lengths = draw.integers(1, longest, sentences.sum())
    total = lengths.sum()
    offsets = np.append(0, np.cumsum(lengths))
    begins = (draw.random(total) < 0.7).astype(np.uint8)
    begins[offsets[:-1]] = 1
    return Tokens(np.arange(5, total + 5), begins, offsets, np.cumsum(sentences) - sentences)


def document_of(tokens: Tokens, ids: np.ndarray) -> np.ndarray:
    sentence = np.searchsorted(tokens.offsets, ids - 5, side="right") - 1
    return np.searchsorted(tokens.documents, sentence, side="right") - 1


def sequences(tokens: Tokens, form: str, /, **settings: Any) -> Sequences:
    given = {name: settings.pop(name) for name in ("seed", "epochs", "shuffle", "first_position") if name in settings}
    own = settings.pop("own", None)
    config = SequenceConfig(**({"length": 32, "rows": 4, "rate": 0.2} | FORMS[form] | settings))
    return Sequences(tokens, Names(), config, rows=own, **({"seed": 3} | given))


def take(batches: Iterator[Batch], count: int) -> list[Batch]:
    return list(itertools.islice(batches, count))


def same(left: list[Batch], right: list[Batch]) -> None:
    assert len(left) == len(right) > 0
    for one, other in zip(left, right, strict=True):
        for mine, yours in ((one.arrays, other.arrays), (one.position, other.position)):
            assert mine.keys() == yours.keys()
            for key in mine:
                assert mine[key].dtype == yours[key].dtype
                np.testing.assert_array_equal(mine[key], yours[key], key)


@pytest.mark.parametrize("form", FORMS)
def test_seek_goes_on_identically(form: str) -> None:
    tokens = corpus()
    whole = sequences(tokens, form)
    start = whole.position
    batches = take(whole, 24)
    assert batches[-1].position["epoch"].min() >= 1
    for done in range(0, 20, 3):
        resumed = sequences(tokens, form)
        resumed.seek(batches[done].position)
        same(take(resumed, 4), batches[done + 1 : done + 5])
    whole.seek(start)
    same(take(whole, 24), batches)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_make_the_batch_of_one(form: str, hosts: int) -> None:
    tokens, size = corpus(), 4 // hosts

    def joined(position: dict[str, np.ndarray] | None, **settings: Any) -> list[Batch]:
        shares = [sequences(tokens, form, own=slice(h * size, (h + 1) * size), **settings) for h in range(hosts)]
        for share in shares:
            if position is not None:
                share.seek(position)
        steps = zip(*[take(share, 60) for share in shares], strict=True)
        return [
            Batch(
                {key: np.concatenate([batch.arrays[key] for batch in step]) for key in step[0].arrays},
                {key: np.concatenate([batch.position[key] for batch in step]) for key in step[0].position},
            )
            for step in steps
        ]

    one = take(sequences(tokens, form), 60)
    same(joined(None), one)
    same(joined(one[5].position)[:50], one[6:56])
    ending = take(sequences(tokens, form, epochs=1), 60)
    assert len(ending) < 60
    same(joined(None, epochs=1), ending)


@pytest.mark.parametrize("form", FORMS)
def test_shapes_are_of_the_config_alone(form: str) -> None:
    def shapes(batch: Batch) -> dict[str, tuple[str, tuple[int, ...]]]:
        return {name: (array.dtype.name, array.shape) for name, array in batch.arrays.items()}

    def text(name: str) -> tuple[str, tuple[int, ...]]:
        return name, (4, 32)

    expected = {"token_ids": text("int32"), "mask": text("bool"), "positions": text("int32"), "row": ("int32", (4,))}
    if form.startswith("causal"):
        expected |= {"next_token_id": text("int32"), "weight": text("float32")}
    else:
        expected |= {"predicted_positions": ("int32", (4, 7)), "predicted_ids": ("int32", (4, 7))}
        expected |= {"predicted_weights": ("float32", (4, 7))}
    if form in ("packed", "causal apart"):
        expected |= {"segments": text("int32")}
    if FORMS[form].get("form") == "pairs":
        expected |= {"token_types": text("int32")}
    if form in ("next_sentence", "order"):
        expected |= {"next_sentence": ("int32", (4,)), "next_sentence_weight": ("float32", (4,))}
    batches = list(sequences(corpus(), form, epochs=2))
    assert all(shapes(batch) == expected for batch in batches)
    assert shapes(next(sequences(corpus(40, seed=5), form))) == expected


@pytest.mark.parametrize("form", FORMS)
def test_the_last_batch_is_filled_with_rows_that_count_for_nothing(form: str) -> None:
    tokens = corpus()
    given = sequences(tokens, form, rows=7, epochs=1)
    last = list(given)[-1].arrays
    full = given.examples % 7
    assert full
    for name in ("mask", "predicted_weights", "weight", "next_sentence_weight", "segments", "token_types"):
        assert name not in last or not last[name][full:].any()
    assert (last["token_ids"][full:] == PAD).all() and last["mask"][:full].any(axis=1).all()
    np.testing.assert_array_equal(last["row"], np.arange(7))


def original(batch: Batch) -> np.ndarray:
    """The ids before masking."""
    ids = batch.arrays["token_ids"].copy()
    if "predicted_ids" in batch.arrays:
        rows, places = np.nonzero(batch.arrays["predicted_weights"])
        ids[rows, batch.arrays["predicted_positions"][rows, places]] = batch.arrays["predicted_ids"][rows, places]
    return ids


@pytest.mark.parametrize("form", ["full", "words", "apart", "packed"])
def test_an_epoch_has_every_token_once_and_is_masked_anew(form: str) -> None:
    tokens = corpus()
    given = sequences(tokens, form, rows=1)
    masks: list[dict[int, tuple[int, ...]]] = []
    for _ in range(2):
        batches = take(given, given.examples)
        ids = np.concatenate([original(batch)[0] for batch in batches])
        assert sorted(ids[ids > 4].tolist()) == tokens.ids.tolist()
        masks.append({})
        for batch in batches:
            chosen = batch.arrays["predicted_ids"][batch.arrays["predicted_weights"] > 0]
            masks[-1][int(original(batch)[0, 1])] = tuple(chosen.tolist())
    assert masks[0].keys() == masks[1].keys()
    assert list(masks[0]) != list(masks[1])  # another order
    assert sum(masks[0][row] == masks[1][row] for row in masks[0]) < len(masks[0]) / 3


def test_two_seeds_differ_and_without_shuffling_the_text_is_read_in_order() -> None:
    tokens = corpus()
    one, other = (next(sequences(tokens, "full", seed=seed)).arrays["token_ids"] for seed in (3, 4))
    assert (one != other).any()
    read = np.concatenate([original(batch).reshape(-1) for batch in sequences(tokens, "full", shuffle=False, epochs=1)])
    assert read[read > 4].tolist() == tokens.ids.tolist()


def test_positions_of_a_table_that_begins_after_padding() -> None:
    """RoBERTa's: ids 0 5 6 2 1 1 stand at 2 3 4 5 1 1."""
    plain, moved = (next(sequences(corpus(), "packed", first_position=first)).arrays for first in (0, 2))
    mask = plain["mask"]
    np.testing.assert_array_equal(moved["positions"], np.where(mask, plain["positions"] + 2, 1))
    assert (~mask).any()


def test_pairs_drawn() -> None:
    sentences = ["the cat sat", "it slept", "two of", "four is"]
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *" ".join(sentences).split()]
    numbers = np.arange(5, len(names))
    tokens = Tokens(numbers, np.ones(9, np.uint8), np.array([0, 3, 5, 7, 9]), np.array([0, 2]))
    pairs = Pairs(tokens, Names(), SequenceConfig(form="pairs", length=12, short=0.0), seed=0)
    assert len(pairs) == 2
    seen = set()
    for epoch in range(40):
        rows = pairs.rows(np.array([0]), np.array([epoch]))
        words = " ".join(names[number].replace("[PAD]", ".") for number in rows["token_ids"][0])
        seen.add((words, " ".join(map(str, rows["token_types"][0].tolist())), int(rows["next_sentence"][0])))
    drawn = """
    [CLS] the cat sat [SEP] it slept [SEP] . . . .            0 0 0 0 0 1 1 1 0 0 0 0    0
    [CLS] the cat sat [SEP] two of four is [SEP] . .          0 0 0 0 0 1 1 1 1 1 0 0    1
    [CLS] the cat sat [SEP] four is [SEP] . . . .             0 0 0 0 0 1 1 1 0 0 0 0    1
    """
    expected = set()
    for line in drawn.strip().splitlines():
        *columns, label = line.split()
        expected.add((" ".join(columns[:12]), " ".join(columns[12:]), int(label)))
    assert seen == expected


def sides(batch: Batch) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    ids = original(batch)
    for row, types in zip(ids, batch.arrays["token_types"], strict=True):
        real = row[row > 4]
        yield real[types[row > 4] == 0], real[types[row > 4] == 1], len(row[row != PAD])


@pytest.mark.parametrize("form", ["next_sentence", "order", "pairs"])
def test_the_second_text_is_what_its_label_says(form: str) -> None:
    tokens = corpus(40)
    ends = set((tokens.offsets[1:] + 4).tolist())
    labels, changed = [], 0
    for batch in take(sequences(tokens, form, length=40, rows=16), 60):
        given = batch.arrays.get("next_sentence", np.zeros(16, np.int32)).tolist()
        for (first, second, size), label in zip(sides(batch), given, strict=True):
            assert len(first) and len(second) and size == len(first) + len(second) + 3 <= 40
            assert (np.diff(first) == 1).all() and (np.diff(second) == 1).all()
            documents = [set(document_of(tokens, side).tolist()) for side in (first, second)]
            assert all(len(side) == 1 for side in documents)
            assert (documents[0] == documents[1]) == (form != "next_sentence" or not label)
            if form != "next_sentence" or not label:
                ahead, behind = (second, first) if label else (first, second)
                assert behind[0] == ahead[-1] + 1
            lone = (second if form == "order" and label else first)[-1] not in ends  # a sentence was split
            changed += not lone and second[-1] not in ends
            labels.append(label)
    assert changed < 0.05 * len(labels)  # B ends with a sentence, unless none fits
    if form != "pairs":
        assert abs(np.mean(labels) - 0.5) < 4 * 0.5 / np.sqrt(len(labels))


def test_stretches_cover_the_text_and_some_are_short() -> None:
    draw = np.random.default_rng(0)
    lengths = draw.integers(4, 20, 4000)
    offsets = np.append(0, np.cumsum(lengths))
    tokens = Tokens(np.arange(5, offsets[-1] + 5), np.ones(offsets[-1], np.uint8), offsets, np.arange(0, 4000, 1000))
    shares = {}
    for short in (0.0, 0.1):
        config = SequenceConfig(form="pairs", pairs="none", length=128, short=short)
        pairs = Pairs(tokens, Names(), config, seed=1)
        rows = pairs.rows(np.arange(len(pairs)), np.zeros(len(pairs), int))
        ids = rows["token_ids"][rows["token_ids"] > 4]
        assert sorted(ids.tolist()) == tokens.ids.tolist()
        shares[short] = (rows["mask"].sum(axis=1) < 128 - 40).mean()
    assert shares[0.0] < 0.03  # the ends of documents
    assert 0.04 < shares[0.1] - shares[0.0] < 0.1


def test_a_lone_sentence_is_split_between_words() -> None:
    begins = np.array([1, 0, 1, 0, 0, 1, 0, 0], np.uint8)
    tokens = Tokens(np.arange(5, 13), begins, np.array([0, 8]), np.array([0]))
    pairs = Pairs(tokens, Names(), SequenceConfig(form="pairs", pairs="none", length=16), seed=0)
    rows = pairs.rows(np.zeros(50, int), np.arange(50))
    assert set((rows["token_types"] == 0).argmin(axis=1).tolist()) == {4, 7}  # after [CLS] x x [SEP], or three more


def test_negatives_need_another_document() -> None:
    tokens = corpus(1)
    with pytest.raises(ValueError, match="two documents"):
        sequences(tokens, "next_sentence")
    assert sequences(tokens, "order").examples > 0


def test_wrong_positions_are_refused() -> None:
    tokens = corpus()
    given = sequences(tokens, "full")
    position = given.position
    with pytest.raises(ValueError, match="epoch and index"):
        given.seek({"epoch": position["epoch"]})
    with pytest.raises(ValueError, match=r"shape \(4,\)"):
        given.seek({key: value[:2] for key, value in position.items()})
    with pytest.raises(ValueError, match="another text"):
        given.seek({"epoch": np.zeros(4, int), "index": np.arange(4) + given.examples})
    with pytest.raises(ValueError, match="follow"):
        given.seek({"epoch": np.zeros(4, int), "index": np.array([0, 2, 1, 3])})
    with pytest.raises(ValueError, match="neighbouring rows"):
        sequences(tokens, "full", own=slice(4, 4))


def test_prefetched_batches_are_the_same() -> None:
    with prefetch(sequences(corpus(), "packed"), 2) as ready:
        same(take(ready, 5), take(sequences(corpus(), "packed"), 5))


class Pieces:
    def __init__(self, words: list[str]) -> None:
        self.ids = np.asarray([5 + ord(letter) % 50 for word in words for letter in word], np.int32)
        self.words = np.asarray([number for number, word in enumerate(words) for _ in word], np.int32)


class Characters(Names):
    """A tokenizer whose pieces are characters."""

    def __init__(self, digest: str, size: int = 60) -> None:
        super().__init__(size)
        self.digest, self.asked = digest, 0

    def of_words(self, sentences: Any, /) -> list[Pieces]:
        self.asked += len(sentences)
        return [Pieces(words) for words in sentences]


@pytest.mark.parametrize("size", [60, 70_000])
def test_tokens_are_cut_once_and_mapped_afterwards(tmp_path: Path, size: int) -> None:
    (tmp_path / "text.txt").write_text("one two\nthree\n\na b\n")
    source = source_of(DataConfig(train=str(tmp_path / "text.txt")), "train")
    assert source is not None
    lines: list[str] = []
    sentences = build_cache(source, tmp_path / "cache", report=lines.append)
    tokenizer = Characters("one", size)
    first = cache_tokens(sentences, tokenizer, tmp_path / "cache", report=lines.append)
    assert "13 tokens of 5 words" in lines[-1]
    again = cache_tokens(sentences, tokenizer, tmp_path / "cache", report=lines.append)
    assert tokenizer.asked == 3
    memory = tokens_of(sentences, sentences.documents, tokenizer)
    assert first.begins.tolist() == [1, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 1, 1]
    assert (first.offsets.tolist(), first.documents.tolist(), len(first)) == ([0, 6, 11, 13], [0, 2], 3)
    assert first.ids.dtype == (np.uint16 if size == 60 else np.int32)
    for name in ("ids", "begins", "offsets", "documents"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))
        np.testing.assert_array_equal(getattr(memory, name), getattr(first, name))
    other = Characters("two")
    cache_tokens(sentences, other, tmp_path / "cache", report=lines.append)
    assert other.asked == 3

    for path in (tmp_path / "cache").glob("tokens-*/ids.bin"):
        path.write_bytes(b"x")
    mended = cache_tokens(sentences, tokenizer, tmp_path / "cache", report=lines.append)
    np.testing.assert_array_equal(mended.ids, memory.ids)
    assert any("ids.bin has 1 bytes" in line for line in lines)
    assert tokenizer.asked == 3 * 3  # once, in memory, and once again
