"""Rows of text in each form, drawn as columns; that every token is in one place of an epoch; and how full rows are."""

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pytest
from numbered_text import BERT_PAIR

from ctx_jax.data.corpus_shards import ShardedRows, lay_out
from ctx_jax.data.length_schedule import LengthSchedule
from ctx_jax.data.packing import best_fit, cut_units, ranges
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.data.sequences import Sequences
from ctx_jax.data.tokens import Tokens, tokens_of

NAMES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


class Cut(NamedTuple):
    ids: np.ndarray
    words: np.ndarray


class Letters:
    """A tokenizer of as many pieces as a word has parts between hyphens; new pieces get the next id."""

    pad_id, begin_id, end_id, mask_id = 0, 2, 3, 4
    special_ids = frozenset(range(5))
    digest = "letters"
    pair_layout = BERT_PAIR

    def __init__(self) -> None:
        self.pieces = dict(zip(NAMES, range(5), strict=True))

    def __len__(self) -> int:
        return len(self.pieces)

    def tokenize_words(self, sentences: Any, /) -> list[Cut]:
        cut = []
        for words in sentences:
            parts = [(part, number) for number, word in enumerate(words) for part in word.split("-")]
            ids = [self.pieces.setdefault(part, len(self.pieces)) for part, _ in parts]
            cut.append(Cut(np.asarray(ids, np.int32), np.asarray([number for _, number in parts], np.int32)))
        return cut

    def shown(self, ids: np.ndarray) -> list[str]:
        names = list(self.pieces)
        return [names[number].replace("[PAD]", ".") for number in ids]


def text(*documents: str) -> tuple[Tokens, Letters]:
    """Documents of sentences, written `the cat / it slept`."""
    split = [[sentence.split() for sentence in document.split(" / ")] for document in documents]
    firsts = np.cumsum([0, *map(len, split)])[:-1]
    letters = Letters()
    return tokens_of([sentence for document in split for sentence in document], firsts, letters), letters


def ragged(documents: int = 20, longest: int = 30, seed: int = 0) -> tuple[Tokens, Letters]:
    """Every token of the text is different, so that it says where it comes from."""
    draw = np.random.default_rng(seed)
    number = iter(range(10**9))
    return text(
        *(
            " / ".join(
                " ".join(f"w{next(number)}" for _ in range(draw.integers(1, longest)))
                for _ in range(draw.integers(1, 12))
            )
            for _ in range(documents)
        )
    )


def drawn(layout: ShardedRows, letters: Letters) -> list[dict[str, str]]:
    """All rows as the docstrings draw them."""
    rows = layout.rows(np.arange(len(layout)), np.zeros(len(layout), int))
    found = []
    for row in range(len(layout)):
        shown = {"words": " ".join(letters.shown(rows["token_ids"][row]))}
        if "next_token_ids" in rows:
            shown["targets"] = " ".join(letters.shown(rows["next_token_ids"][row]))
        for name in ("segments", "positions"):
            if name in rows:
                shown[name] = " ".join(map(str, rows[name][row].tolist()))
        found.append(shown)
    return found


def rows_of(
    tokens: Tokens, letters: Letters, packing: Any, length: int, cross: bool = True, whole: bool = True, seed: int = 0
) -> ShardedRows:
    config = SequenceConfig(packing=packing, length=length, cross_documents=cross, whole_sentences=whole)
    return lay_out(tokens, letters, config, seed)


def columns(drawing: str) -> list[dict[str, str]]:
    """Drawings as the docstrings have them: a name and its columns on each line, rows parted by empty lines."""
    blocks = [block.strip().splitlines() for block in drawing.strip().split("\n\n")]
    return [{line.split()[0]: " ".join(line.split()[1:]) for line in block} for block in blocks]


def test_full_sentences_drawn() -> None:
    tokens, letters = text("a b . / c d .", "e f . / g . / h i j k l m n o p")
    assert drawn(rows_of(tokens, letters, "full_sentences", 9, True), letters) == columns("""
        words       [CLS] a  b  .  c  d  .  [SEP] .
        positions   0     1  2  3  4  5  6  7     0

        words       [CLS] e  f  .  g  .  [SEP] .  .
        positions   0     1  2  3  4  5  6     0  0

        words       [CLS] h  i  j  k  l  m  n  [SEP]
        positions   0     1  2  3  4  5  6  7  8

        words       [CLS] o  p  [SEP] .  .  .  .  .
        positions   0     1  2  3     0  0  0  0  0
    """)
    crossing, apart = (drawn(rows_of(tokens, letters, "full_sentences", 13, cross), letters) for cross in (True, False))
    assert [row["words"] for row in crossing[:2]] == [
        "[CLS] a b . c d . [SEP] e f . [SEP] .",
        "[CLS] g . h i j k l m n o p [SEP]",
    ]
    assert [row["words"] for row in apart] == [
        "[CLS] a b . c d . [SEP] . . . . .",
        "[CLS] e f . g . [SEP] . . . . . .",
        "[CLS] h i j k l m n o p [SEP] . .",
    ]


def test_a_length_schedule_drawn() -> None:
    """As many tokens a batch in rows of half the length, for one batch; then the text from its beginning."""
    tokens, letters = text("a b / c d e", "f g h / i", "j k l m n")
    config = SequenceConfig(
        length=12, batch_size=1, mask_token_probability=0.0, random_token_probability=0.0, short_steps=1, short_length=6
    )
    assert config.short_phase is not None
    early, late = (Sequences(tokens, letters, part, shuffle=False) for part in (config.short_phase, config))
    given = LengthSchedule(early, 1, late)
    batches = [next(given) for _ in range(3)]
    found = [[" ".join(letters.shown(row)) for row in batch.arrays.tokens.token_ids] for batch in batches]
    drawn = """
        [CLS] a b [SEP] . .
        [CLS] c d e [SEP] .

        [CLS] a b c d e [SEP] f g h i [SEP]

        [CLS] j k l m n [SEP] . . . . .
    """
    assert found == [[line.strip() for line in batch.splitlines()] for batch in drawn.strip().split("\n\n")]


def test_cut_sentences_drawn() -> None:
    tokens, letters = text("a b . / c d .", "e f . / g .")
    crossing, apart = (
        drawn(rows_of(tokens, letters, "full_sentences", 7, cross, whole=False), letters) for cross in (True, False)
    )
    assert [row["words"] for row in crossing] == [
        "[CLS] a b . c d [SEP]",
        "[CLS] . [SEP] e f . [SEP]",
        "[CLS] g . [SEP] . . .",
    ]
    assert [row["words"] for row in apart] == [
        "[CLS] a b . c d [SEP]",
        "[CLS] . [SEP] . . . .",
        "[CLS] e f . g . [SEP]",
    ]


def test_causal_blocks_drawn() -> None:
    tokens, letters = text("a b c", "d e f g", "h")
    assert drawn(rows_of(tokens, letters, "causal_blocks", 6, True), letters) == columns("""
        words       [SEP] a  b  c  [SEP] d
        targets     a     b  c  [SEP] d  e
        positions   0     1  2  3  4     5

        words       e     f  g  [SEP] h  .
        targets     f     g  [SEP] h  [SEP] .
        positions   0     1  2  3     4  0
    """)
    assert drawn(rows_of(tokens, letters, "causal_blocks", 6, False), letters) == columns("""
        words       [SEP] a  b  c  [SEP] d
        targets     a     b  c  [SEP] d  e
        segments    1     1  1  1  2     2
        positions   0     1  2  3  0     1

        words       e     f  g  [SEP] h  .
        targets     f     g  [SEP] h  [SEP] .
        segments    1     1  1  2     2  0
        positions   0     1  2  0     1  0
    """)


def test_packed_sentences_drawn() -> None:
    tokens, letters = text("the cat sat down / two", "one dog")
    assert drawn(rows_of(tokens, letters, "packed", 8, seed=0), letters) == columns("""
        words       [CLS] one  dog  [SEP] [CLS] two  [SEP] .
        segments    1     1    1    1     2     2    2     0
        positions   0     1    2    3     0     1    2     0

        words       [CLS] the  cat  sat  down [SEP] .    .
        segments    1     1    1    1    1    1     0    0
        positions   0     1    2    3    4    5     0    0
    """)


@pytest.mark.parametrize("length", [8, 16, 40])
@pytest.mark.parametrize("form", ["full", "apart", "cut", "cut apart", "causal", "packed"])
def test_every_token_once_an_epoch(form: str, length: int) -> None:
    tokens, letters = ragged()
    layouts: dict[str, ShardedRows] = {
        "full": rows_of(tokens, letters, "full_sentences", length, True),
        "apart": rows_of(tokens, letters, "full_sentences", length, False),
        "cut": rows_of(tokens, letters, "full_sentences", length, True, whole=False),
        "cut apart": rows_of(tokens, letters, "full_sentences", length, False, whole=False),
        "causal": rows_of(tokens, letters, "causal_blocks", length, True),
        "packed": rows_of(tokens, letters, "packed", length, seed=3),
    }
    layout = layouts[form]
    rows = layout.rows(np.arange(len(layout)), np.zeros(len(layout), int))
    expected = Counter(tokens.ids.tolist())
    if form == "causal":
        targets = rows["next_token_ids"][rows["weights"] > 0].tolist()
        assert Counter(targets) == expected + Counter({3: len(tokens.documents)})
        return
    counted = Counter(rows["token_ids"].reshape(-1).tolist())
    assert Counter({number: times for number, times in counted.items() if number > 4}) == expected
    np.testing.assert_array_equal(rows["mask"], rows["token_ids"] != 0)
    for ids, mask in zip(rows["token_ids"], rows["mask"], strict=True):
        real = ids[mask]
        assert real[0] == 2 and real[-1] == 3 and mask[: len(real)].all()
        assert "apart" not in form or (np.diff(real[1:-1]) == 1).all()  # one document, in its order
    assert {name: (array.dtype.name, array.shape[1]) for name, array in rows.items() if name != "begins"} == {
        "token_ids": ("int32", length),
        "mask": ("bool", length),
        "positions": ("int32", length),
    } | ({"segments": ("int32", length)} if form == "packed" else {})


def test_full_rows_take_every_sentence_that_fits() -> None:
    tokens, letters = ragged()
    layout = rows_of(tokens, letters, "full_sentences", 48, True)
    rows = layout.rows(np.arange(len(layout)), np.zeros(len(layout), int))
    ends = set((tokens.offsets[1:] - 1).tolist())
    number = {int(one): place for place, one in enumerate(tokens.ids)}
    places = [[number[one] for one in ids[ids > 4].tolist()] for ids in rows["token_ids"]]
    lengths = dict(zip(tokens.offsets[:-1].tolist(), np.diff(tokens.offsets).tolist(), strict=True))
    document = {int(tokens.offsets[first]) for first in tokens.documents}
    for this, following, mask in zip(places, places[1:], rows["mask"], strict=False):
        assert this[-1] in ends and following[0] == this[-1] + 1
        assert mask.sum() + lengths[following[0]] + (following[0] in document) > 48


def test_segments_hold_one_sentence_each() -> None:
    tokens, letters = ragged()
    layout = rows_of(tokens, letters, "packed", 64, seed=3)
    rows = layout.rows(np.arange(len(layout)), np.zeros(len(layout), int))
    sentences = {tuple(tokens.ids[a:b].tolist()) for a, b in zip(tokens.offsets, tokens.offsets[1:], strict=False)}
    seen = 0
    for ids, segments, positions in zip(rows["token_ids"], rows["segments"], rows["positions"], strict=True):
        for number in range(1, segments.max() + 1):
            piece = ids[segments == number].tolist()
            assert piece[0] == 2 and piece[-1] == 3 and tuple(piece[1:-1]) in sentences
            np.testing.assert_array_equal(positions[segments == number], np.arange(len(piece)))
            seen += 1
    assert seen == len(sentences) == len(tokens)


def test_rows_are_full() -> None:
    """Lengths of real sentences are about log-normal, 25 words on average; so are these."""
    draw = np.random.default_rng(0)
    lengths = np.clip(draw.lognormal(3.0, 0.7, 5000), 1, 126).astype(int)
    offsets = np.append(0, np.cumsum(lengths))
    tokens = Tokens(np.full(offsets[-1], 9, np.uint16), np.ones(offsets[-1], np.uint8), offsets, np.array([0]))
    for length in (128, 256):
        packed = rows_of(tokens, Letters(), "packed", length)
        assert (lengths + 2).sum() / (len(packed) * length) > 0.98
        whole, cut = (rows_of(tokens, Letters(), "full_sentences", length, True, whole) for whole in (True, False))
        assert lengths.sum() / (len(whole) * length) > 0.8
        assert len(cut) == -(-lengths.sum() // (length - 2))


@pytest.mark.parametrize("seed", range(4))
def test_best_fit_takes_everything_and_is_as_good_as_one_by_one(seed: int) -> None:
    draw = np.random.default_rng(seed)
    room = 40
    sizes = draw.integers(1, draw.integers(4, room + 2), 300)
    patterns = best_fit(np.bincount(sizes).tolist(), room)
    packed = Counter(size for pattern, times in patterns for size in pattern * times)
    assert packed == Counter(sizes.tolist())
    assert all(sum(pattern) <= room for pattern, _ in patterns)
    rooms: list[int] = []
    for size in sorted(sizes.tolist(), reverse=True):
        fitting = [place for place, free in enumerate(rooms) if free >= size]
        if fitting:
            rooms[min(fitting, key=lambda place: rooms[place])] -= size
        else:
            rooms.append(room - size)
    assert sum(times for _, times in patterns) == len(rooms)


def test_best_fit_drawn() -> None:
    assert best_fit([0, 2, 1, 0, 1], 4) == [((4,), 1), ((2, 1, 1), 1)]
    assert best_fit([0, 5], 2) == [((1, 1), 2), ((1,), 1)]


def test_units_are_sentences_or_full_pieces_of_them() -> None:
    tokens, _ = text("a b c d e / f", "g h")
    units = cut_units(tokens, 2)
    assert units.bounds.tolist() == [0, 2, 4, 5, 6, 8]
    assert units.document.tolist() == [0, 0, 0, 0, 1]
    assert units.first.tolist() == [0, 4, 5]
    assert ranges(np.array([7, 2]), np.array([3, 1])).tolist() == [7, 8, 9, 2]


def test_text_without_tokens() -> None:
    empty = Tokens(np.zeros(0, np.int32), np.zeros(0, np.uint8), np.zeros(1, np.int64), np.zeros(0, np.int64))
    for layout in (
        lambda: rows_of(empty, Letters(), "full_sentences", 8, True),
        lambda: rows_of(empty, Letters(), "causal_blocks", 8, True),
        lambda: rows_of(empty, Letters(), "packed", 8),
    ):
        with pytest.raises(ValueError, match="train"):
            layout()
