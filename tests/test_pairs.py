"""Pairs: what stands on either side, that the second is what its label says, and how the text is cut for them."""

from typing import Any

import numpy as np
import pytest
from numbered_text import BERT_PAIR, Names, corpus
from tokenizers import processors

from ctx_jax.data.corpus_shards import ShardedRows, lay_out
from ctx_jax.data.packing import Rows
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.data.tokens import Tokens, tokens_of
from ctx_jax.tokenizers.subword_training import Kind, train
from ctx_jax.tokenizers.templates import PairLayout


def document_of(tokens: Tokens, ids: np.ndarray) -> np.ndarray:
    sentence = np.searchsorted(tokens.offsets, ids - 5, side="right") - 1
    return np.searchsorted(tokens.documents, sentence, side="right") - 1


def pairs_of(tokens: Tokens, seed: int = 1, **settings: Any) -> ShardedRows:
    return lay_out(tokens, Names(), SequenceConfig(**({"packing": "pairs", "length": 40} | settings)), seed)


def every(pairs: ShardedRows, epoch: int = 0) -> Rows:
    return pairs.rows(np.arange(len(pairs)), np.full(len(pairs), epoch))


@pytest.mark.parametrize("kind", ["next_sentence", "order", "none"])
def test_the_second_text_is_what_its_label_says(kind: str) -> None:
    tokens = corpus(40)
    ends = set((tokens.offsets[1:] + 4).tolist())
    labels, cut = [], 0
    pairs = pairs_of(tokens, pair_label=kind)
    for epoch in range(12):
        rows = every(pairs, epoch)
        given = rows.get("next_sentence", np.zeros(len(pairs), np.int32)).tolist()
        for ids, types, mask, label in zip(rows["token_ids"], rows["token_types"], rows["mask"], given, strict=True):
            first, second = (ids[(ids > 4) & (types == side)] for side in (0, 1))
            drawn = [2, *first.tolist(), 3, *second.tolist(), 3]
            assert ids[mask].tolist() == drawn and mask[: len(drawn)].all()
            assert types[mask].tolist() == [0] * (len(first) + 2) + [1] * (len(second) + 1)
            assert len(first) and len(second) and len(drawn) <= 40
            assert (np.diff(first) == 1).all() and (np.diff(second) == 1).all()
            documents = [set(document_of(tokens, side).tolist()) for side in (first, second)]
            assert all(len(side) == 1 for side in documents)
            assert (documents[0] == documents[1]) == (kind != "next_sentence" or not label)
            ahead, behind = (second, first) if kind == "order" and label else (first, second)
            if kind != "next_sentence" or not label:
                assert behind[0] == ahead[-1] + 1
            lone = ahead[-1] not in ends  # a sentence was split
            cut += not lone and second[-1] not in ends
            labels.append(label)
    assert cut < 0.05 * len(labels)  # B ends with a sentence, unless none fits
    if kind != "none":
        assert abs(np.mean(labels) - 0.5) < 4 * 0.5 / np.sqrt(len(labels))
        assert (rows["next_sentence_weights"] == 1).all()


def test_a_random_second_text_does_not_end_within_a_sentence_where_one_fits() -> None:
    lengths = np.tile([24, 3], 200)  # beside an A of 24 there is no room for another
    offsets = np.append(0, np.cumsum(lengths))
    tokens = Tokens(np.arange(5, offsets[-1] + 5), np.ones(offsets[-1], np.uint8), offsets, np.arange(0, 400, 40))
    pairs = pairs_of(tokens, pair_label="next_sentence", short_sequence_probability=0.0)
    negatives = 0
    for epoch in range(10):
        rows = every(pairs, epoch)
        for ids, types, label in zip(rows["token_ids"], rows["token_types"], rows["next_sentence"], strict=True):
            if label and ((ids > 4) & (types == 0)).sum() >= 24:
                assert ids[(ids > 4) & (types == 1)][-1] - 4 in set(offsets.tolist())
                negatives += 1
    assert negatives > 200


def test_an_epoch_pairs_anew_and_the_same_epoch_as_before() -> None:
    pairs = pairs_of(corpus())
    first, again, second = every(pairs, 0), every(pairs_of(corpus()), 0), every(pairs, 1)
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert (first["token_types"] != second["token_types"]).any()
    assert (first["next_sentence"] != second["next_sentence"]).any()


SENTENCES = ["the cat sat", "it slept", "two of", "four is"]  # two documents of two
NAMES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *" ".join(SENTENCES).split()]
DRAWN = {
    "next_sentence": """
    [CLS] the cat sat [SEP] it slept [SEP] . . . .            0 0 0 0 0 1 1 1 0 0 0 0    0
    [CLS] the cat sat [SEP] two of four is [SEP] . .          0 0 0 0 0 1 1 1 1 1 0 0    1
    [CLS] the cat sat [SEP] four is [SEP] . . . .             0 0 0 0 0 1 1 1 0 0 0 0    1
    """,
    "order": """
    [CLS] the cat sat [SEP] it slept [SEP] . . . .            0 0 0 0 0 1 1 1 0 0 0 0    0
    [CLS] it slept [SEP] the cat sat [SEP] . . . .            0 0 0 0 1 1 1 1 0 0 0 0    1
    """,
    "none": """
    [CLS] the cat sat [SEP] it slept [SEP] . . . .            0 0 0 0 0 1 1 1 0 0 0 0    -
    """,
    "order, RoBERTa's": """
    [CLS] the cat sat [SEP] [SEP] it slept [SEP] . . .        0 0 0 0 0 0 0 0 0 0 0 0    0
    [CLS] it slept [SEP] [SEP] the cat sat [SEP] . . .        0 0 0 0 0 0 0 0 0 0 0 0    1
    """,
    "none, with types": """
    [CLS] the cat sat [SEP] [SEP] it slept [SEP] . . .        0 0 0 0 0 0 1 1 1 0 0 0    -
    """,
}
LAYOUTS = {"order, RoBERTa's": PairLayout(2, 0), "none, with types": PairLayout(2, 1)}


@pytest.mark.parametrize("name", DRAWN)
def test_pairs_drawn(name: str) -> None:
    numbers = np.arange(5, len(NAMES))
    tokens = Tokens(numbers, np.ones(9, np.uint8), np.array([0, 3, 5, 7, 9]), np.array([0, 2]))
    config = SequenceConfig(
        **({"packing": "pairs", "length": 12, "short_sequence_probability": 0.0} | {"pair_label": name.split(",")[0]})
    )
    pairs = lay_out(tokens, Names(pair_layout=LAYOUTS.get(name, BERT_PAIR)), config, 0)
    assert len(pairs) == 2
    seen = set()
    for epoch in range(40):
        rows = pairs.rows(np.array([0]), np.array([epoch]))
        words = " ".join(NAMES[number].replace("[PAD]", ".") for number in rows["token_ids"][0])
        label = str(rows["next_sentence"][0]) if "next_sentence" in rows else "-"
        seen.add((words, " ".join(map(str, rows["token_types"][0].tolist())), label))
    expected = set()
    for line in DRAWN[name].strip().splitlines():
        *columns, label = line.split()
        expected.add((" ".join(columns[:12]), " ".join(columns[12:]), label))
    assert seen == expected


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_a_pair_is_what_the_tokenizer_itself_lays(kind: Kind) -> None:
    sentences = [line.split() for line in SENTENCES]
    subwords = train(sentences * 3, kind, 290 if kind == "bpe" else 50)
    tokens = tokens_of(sentences, np.array([0, 2]), subwords)
    for layout in (None, processors.RobertaProcessing(("</s>", 2), ("<s>", 0)) if kind == "bpe" else None):
        if layout is not None:  # RoBERTa's own: no token type
            subwords.tokenizer.post_processor = layout
        config = SequenceConfig(packing="pairs", pair_label="none", length=60, short_sequence_probability=0.0)
        rows = every(lay_out(tokens, subwords, config, 0))
        for number, (first, second) in enumerate(zip(SENTENCES[::2], SENTENCES[1::2], strict=True)):
            mask, given = rows["mask"][number], subwords.tokenizer.encode(first, second)
            assert rows["token_ids"][number][mask].tolist() == given.ids
            assert rows["token_types"][number][mask].tolist() == given.type_ids
            assert max(given.type_ids) == (layout is None)


def test_passages_cover_the_text_and_some_are_short() -> None:
    draw = np.random.default_rng(0)
    lengths = draw.integers(4, 20, 4000)
    offsets = np.append(0, np.cumsum(lengths))
    tokens = Tokens(np.arange(5, offsets[-1] + 5), np.ones(offsets[-1], np.uint8), offsets, np.arange(0, 4000, 1000))
    shares = {}
    for short in (0.0, 0.1):
        config = SequenceConfig(packing="pairs", pair_label="none", length=128, short_sequence_probability=short)
        pairs = lay_out(tokens, Names(), config, seed=1)
        rows = pairs.rows(np.arange(len(pairs)), np.zeros(len(pairs), int))
        ids = rows["token_ids"][rows["token_ids"] > 4]
        assert sorted(ids.tolist()) == tokens.ids.tolist()
        shares[short] = (rows["mask"].sum(axis=1) < 128 - 40).mean()
    assert shares[0.0] < 0.03  # the ends of documents
    assert 0.04 < shares[0.1] - shares[0.0] < 0.1


def test_a_lone_sentence_is_split_between_words() -> None:
    begins = np.array([1, 0, 1, 0, 0, 1, 0, 0], np.uint8)
    tokens = Tokens(np.arange(5, 13), begins, np.array([0, 8]), np.array([0]))
    pairs = lay_out(tokens, Names(), SequenceConfig(packing="pairs", pair_label="none", length=16), seed=0)
    rows = pairs.rows(np.zeros(50, int), np.arange(50))
    assert set((rows["token_types"] == 0).argmin(axis=1).tolist()) == {4, 7}  # after [CLS] x x [SEP], or three more


def test_negatives_need_another_document() -> None:
    tokens = corpus(1)
    with pytest.raises(ValueError, match=r"^sequences\.pair_label .*two documents.* order"):
        pairs_of(tokens)
    assert len(pairs_of(tokens, pair_label="order")) > 0


def test_text_of_single_tokens_has_no_pairs() -> None:
    tokens = Tokens(np.arange(5, 7), np.ones(2, np.uint8), np.array([0, 1, 2]), np.array([0, 1]))
    with pytest.raises(ValueError, match=r"two tokens.*sequences\.length"):
        pairs_of(tokens)


@pytest.mark.parametrize("separators", [1, 2])
def test_the_shortest_rows_hold_one_token_of_each_text(separators: int) -> None:
    tokens, names = corpus(10), Names(pair_layout=PairLayout(separators, 1))
    for kind in ("next_sentence", "order", "none"):
        config = SequenceConfig(packing="pairs", pair_label=kind, length=4 + separators, short_sequence_probability=0.5)
        rows = every(lay_out(tokens, names, config, 0))
        assert rows["mask"].all() and ((rows["token_ids"] > 4).sum(axis=1) == 2).all()
    schedule = SequenceConfig(packing="pairs", length=16, short_steps=1, short_length=4)
    for short in (SequenceConfig(packing="pairs", length=3 + separators), schedule.short_phase):
        assert short is not None
        with pytest.raises(
            ValueError, match=rf"sequences\.length must be at least {4 + separators} .*got {short.length}"
        ):
            lay_out(tokens, names, short, 0)
