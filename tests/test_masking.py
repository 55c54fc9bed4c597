"""Masking: what is predicted, what stands there instead, and that (seed, epoch, example) alone decides it."""

from typing import Any

import numpy as np
import pytest
from numbered_text import Names

from ctx_jax.data.config import BiLMData
from ctx_jax.data.counter_rng import random_uint32
from ctx_jax.data.masking import Masking
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.io.errors import ConfigError

SIZE = 97


def masking(seed: int = 5, **settings: Any) -> Masking:
    return Masking(SequenceConfig(**({"length": 64} | settings)), Names(SIZE), seed)


def text(rows: int, length: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ragged lengths, `begin ... unknown ... end ... end pad pad`, with words of 1 to 3 pieces."""
    draw = np.random.default_rng(seed)
    ids = draw.integers(5, SIZE, (rows, length)).astype(np.int32)
    ids[draw.random(ids.shape) < 0.03] = 1
    ids[:, 0] = 2
    ids[:, length // 2] = 3
    for row, stop in enumerate(draw.integers(length // 2 + 2, length + 1, rows)):
        ids[row, stop - 1], ids[row, stop:] = 3, 0
    begins = np.zeros(ids.shape, bool)
    for row in begins:
        places = np.cumsum(draw.integers(1, 4, length))
        row[places[places < length]] = True
    return ids, begins


def many(rows: int = 400, **settings: Any) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    ids, begins = text(rows, settings.get("length", 64))
    return ids, begins, masking(**settings)(ids, begins, np.zeros(rows, int), np.arange(rows))


def chosen(arrays: dict[str, np.ndarray]) -> list[list[int]]:
    pairs = zip(arrays["predicted_positions"], arrays["predicted_weights"], strict=True)
    return [positions[weights > 0].tolist() for positions, weights in pairs]


def words_of(ids: np.ndarray, begins: np.ndarray) -> list[list[int]]:
    """Positions of each word of ordinary tokens of a row, by the plainest loop."""
    words: list[list[int]] = []
    for position, (number, begin) in enumerate(zip(ids, begins, strict=True)):
        if number <= 4:
            continue
        if begin or not words or words[-1][-1] != position - 1:
            words.append([])
        words[-1].append(position)
    return words


def test_the_columns_of_the_docstring() -> None:
    drawn = """
    ids         2     10   11    12    13     14   15    16    3
    begins      1     1    1     0     0      1    1     1     1
    """
    rows = {name: np.asarray([numbers], np.int32) for name, *numbers in map(str.split, drawn.split("\n")[1:-1])}
    ids, begins = rows["ids"], rows["begins"].astype(bool)
    mask = masking(length=9, masking="words", mask_rate=0.3, max_predictions=4)
    seen = set()
    for example in range(60):
        arrays = mask(ids, begins, np.zeros(1, int), np.array([example]))
        shown = {name: row[0].tolist() for name, row in arrays.items()}
        positions = chosen(arrays)[0]
        count = len(positions)
        seen.add(tuple(positions))
        assert shown["predicted_positions"] == sorted(positions) + [0] * (4 - count)
        assert shown["predicted_ids"] == [ids[0, position] for position in positions] + [0] * (4 - count)
        assert shown["predicted_weights"] == [1.0] * count + [0.0] * (4 - count)
        changed = dict(zip(range(9), shown["token_ids"], strict=True))
        assert all(changed[place] == ids[0, place] for place in range(9) if place not in positions)
        assert {2, 3, 4}.isdisjoint(positions) or {2, 3, 4}.issubset(positions)
    assert (2, 3, 4) in seen and len(seen) > 10
    assert {name: (rows.dtype.name, rows.shape) for name, rows in arrays.items()} == {
        "token_ids": ("int32", (1, 9)),
        "predicted_positions": ("int32", (1, 4)),
        "predicted_ids": ("int32", (1, 4)),
        "predicted_weights": ("float32", (1, 4)),
    }


@pytest.mark.parametrize("kind", ["tokens", "words", "spans"])
def test_a_function_of_seed_epoch_and_example_alone(kind: str) -> None:
    ids, begins = text(30)
    before = ids.copy()
    mask = masking(masking=kind)
    epochs, examples = np.arange(30) // 10, np.arange(30) * 1_000_003
    whole = mask(ids, begins, epochs, examples)
    turned = np.random.default_rng(1).permutation(30)[:17]
    part = masking(masking=kind)(ids[turned], begins[turned], epochs[turned], examples[turned])
    for name in whole:
        np.testing.assert_array_equal(part[name], whole[name][turned])
    np.testing.assert_array_equal(ids, before)
    same = [
        (np.asarray(chosen(other)[0]).tolist() == chosen(whole)[0])
        for other in (
            mask(ids, begins, epochs + 1, examples),
            mask(ids, begins, epochs, examples + 1),
            masking(masking=kind, seed=6)(ids, begins, epochs, examples),
        )
    ]
    assert same == [False, False, False]


def test_random_numbers_are_those_of_philox_itself() -> None:
    key = np.random.SeedSequence([7, 3]).generate_state(2, np.uint64)
    given = random_uint32(7, 3, np.array([2, 0]), np.array([11, 2**40]), 7)
    for row, (epoch, example) in zip(given, [(2, 11), (0, 2**40)], strict=True):
        counter = np.array([0, 0, example, epoch], np.uint64)
        raw = np.random.Philox(key=key, counter=counter).random_raw(4)
        np.testing.assert_array_equal(row, raw.view(np.uint32)[:7])


@pytest.mark.parametrize("kind", ["tokens", "words", "spans"])
@pytest.mark.parametrize("predictions", [0, 3])
def test_no_special_token_and_never_above_the_most(kind: str, predictions: int) -> None:
    ids, _, arrays = many(masking=kind, mask_rate=0.3, max_predictions=predictions)
    budget = predictions or 20  # 0.3 x 64 = 19.2
    assert arrays["predicted_positions"].shape == (400, budget)
    for row, positions in zip(ids, chosen(arrays), strict=True):
        assert len(set(positions)) == len(positions) <= budget
        assert (row[positions] > 4).all()
    assert not predictions or max(map(len, chosen(arrays))) == budget
    untouched = ids <= 4
    np.testing.assert_array_equal(arrays["token_ids"][untouched], ids[untouched])


@pytest.mark.parametrize("kind", ["tokens", "words", "spans"])
def test_the_share_of_predicted_tokens(kind: str) -> None:
    """floor(rate x n + U) has the mean rate x n and lies within 1 of it; by words it spreads by a word more."""
    ids, _, arrays = many(2000, masking=kind, mask_rate=0.15, max_predictions=20)
    free = (ids > 4).sum(axis=1)
    counts = arrays["predicted_weights"].sum(axis=1)
    reach = 1 if kind != "words" else 4
    assert (np.abs(counts - 0.15 * free) < reach).all()
    assert abs(counts.sum() - 0.15 * free.sum()) < 4 * reach * np.sqrt(len(free))


@pytest.mark.parametrize(("masked", "randomized"), [(0.8, 0.1), (1.0, 0.0), (0.0, 1.0), (0.5, 0.25), (0.0, 0.0)])
def test_the_split(masked: float, randomized: float) -> None:
    ids, _, arrays = many(1500, mask_token_probability=masked, random_token_probability=randomized)
    rows = np.arange(len(ids))[:, None]
    real = arrays["predicted_weights"] > 0
    after = arrays["token_ids"][rows, arrays["predicted_positions"]][real]
    before = arrays["predicted_ids"][real]
    np.testing.assert_array_equal(before, ids[rows, arrays["predicted_positions"]][real])
    count = len(before)
    stay = (1 - masked - randomized) + randomized / (SIZE - 5)  # a random token may be the same
    for share, expected in (((after == 4).mean(), masked), ((after == before).mean(), stay)):
        assert abs(share - expected) <= 4 * np.sqrt(expected * (1 - expected) / count) + 1e-12
    others = after[(after != 4) & (after != before)]
    assert (others > 4).all() and (others < SIZE).all()
    if randomized:
        assert len(np.unique(others)) == SIZE - 5


def test_words_are_masked_whole() -> None:
    ids, begins, arrays = many(masking="words", mask_rate=0.2)
    longer = 0
    for row, first, positions in zip(ids, begins, chosen(arrays), strict=True):
        for word in words_of(row, first):
            inside = set(word) & set(positions)
            assert not inside or inside == set(word)
            longer += len(inside) > 1
    assert longer > 500


def test_every_token_is_as_likely() -> None:
    ids, begins = text(1)
    repeated = np.repeat(ids, 4000, axis=0), np.repeat(begins, 4000, axis=0)
    for kind in ("tokens", "words"):
        mask = masking(masking=kind, mask_rate=0.2, max_predictions=24)
        arrays = mask(*repeated, np.zeros(4000, int), np.arange(4000))
        times = np.bincount(np.concatenate(chosen(arrays)), minlength=64)
        expected = np.where(ids[0] > 4, 800, 0)
        # Whole words cluster, and one too long for what is left of the count is taken by a draw: a wider bound.
        assert (np.abs(times - expected) <= (5 if kind == "tokens" else 8) * np.sqrt(800 * 0.8)).all()


def test_spans_have_geometric_lengths_and_do_not_cross_special_tokens() -> None:
    """At a low rate a row has about one span, so that the runs of masked words are spans as they were drawn."""
    length = 512
    ids = np.full((3000, length), 9, np.int32)
    begins = np.ones(ids.shape, bool)
    mask = masking(masking="spans", length=length, mask_rate=0.02, span_mean=3.0, span_longest=10)
    arrays = mask(ids, begins, np.zeros(3000, int), np.arange(3000))
    runs = []
    for positions in chosen(arrays):
        pieces = np.split(positions, np.flatnonzero(np.diff(positions) > 1) + 1)
        # The span drawn last is cut at the count: of a row of several spans the longest is left in either case.
        runs += [len(piece) for piece in pieces] if len(pieces) > 3 else []
    assert 1.8 < np.mean(runs) < 3.0
    assert max(runs) > 6

    ids[:, 100::4] = 3
    arrays = mask(ids, begins, np.zeros(3000, int), np.arange(3000))
    starts = [position for positions in chosen(arrays) for position in positions if position > 100]
    assert starts and all(position % 4 for position in starts)


def test_spans_drawn() -> None:
    """Three of nine tokens: a span begins with a word and goes on within a text; the last is cut at the count."""
    text = ["[CLS]", "the", "un", "#believ", "#able", "cat", "[SEP]", "it", "slept", "and", "purred", "[SEP]"]
    drawn = """
    [CLS] the un #believ #able cat [SEP] it   slept and  purred [SEP]

    [CLS] the _  _       _     cat [SEP] it   slept and  purred [SEP]     seen, a word of three pieces
    [CLS] the un #believ #able cat [SEP] _    _     _    purred [SEP]     seen, three words
    [CLS] the un #believ #able _   [SEP] it   _     _    purred [SEP]     seen, two spans
    [CLS] _   _  _       #able cat [SEP] it   slept and  purred [SEP]     seen, two words, cut at the count
    [CLS] the un #believ _     _   [SEP] _    slept and  purred [SEP]     never, from the middle of a word on
    [CLS] the un _       #able cat [SEP] _    _     and  purred [SEP]     never, the middle of a word alone
    """
    ids = np.array([[{"[CLS]": 2, "[SEP]": 3}.get(word, number + 5) for number, word in enumerate(text)]], np.int32)
    begins = np.array([[not word.startswith("#") for word in text]])
    config = {
        "masking": "spans",
        "length": len(text),
        "mask_rate": 1 / 3,
        "mask_token_probability": 1.0,
        "random_token_probability": 0.0,
    }
    arrays = masking(**config)(
        *(np.repeat(one, 3000, axis=0) for one in (ids, begins)), np.zeros(3000, int), np.arange(3000)
    )
    rows = {
        " ".join("_" if number == 4 else word for number, word in zip(row, text, strict=True))
        for row in arrays["token_ids"]
    }
    assert all(row.split().count("_") == 3 for row in rows)
    lines = [line.split() for line in drawn.strip().splitlines() if line]
    assert lines[0] == text
    for line in lines[1:]:
        if line:
            assert (" ".join(line[: len(text)]) in rows) == (line[len(text)] == "seen,"), line


def test_words_of_spans_are_whole_but_for_the_last() -> None:
    ids, begins, arrays = many(masking="spans", mask_rate=0.3)
    for row, first, positions in zip(ids, begins, chosen(arrays), strict=True):
        cut = [word for word in words_of(row, first) if set(word) & set(positions) not in (set(), set(word))]
        assert len(cut) <= 1


def test_a_row_without_ordinary_tokens_predicts_nothing() -> None:
    ids = np.zeros((2, 64), np.int32)
    ids[0, :2] = (2, 3)
    for kind in ("tokens", "words", "spans"):
        arrays = masking(masking=kind)(ids, np.zeros(ids.shape, bool), np.zeros(2, int), np.arange(2))
        assert arrays["predicted_weights"].sum() == 0
        np.testing.assert_array_equal(arrays["token_ids"], ids)


@pytest.mark.parametrize(
    ("settings", "field", "message"),
    [
        ({"mask_rate": 1.5}, "mask_rate", "between 0 and 1, got 1.5"),
        ({"mask_rate": 0.0}, "mask_rate", "above 0, .*got 0"),
        ({"short_sequence_probability": float("nan")}, "short_sequence_probability", "got nan"),
        ({"mask_token_probability": -0.1}, "mask_token_probability", "got -0.1"),
        (
            {"mask_token_probability": 0.8, "random_token_probability": 0.3},
            "mask_token_probability",
            "random_token_probability .* at most 1, got 1.1",
        ),
        ({"span_mean": 0.5}, "span_mean", "at least 1, got 0.5"),
        ({"span_longest": 0}, "span_longest", "at least 1, got 0"),
        ({"max_predictions": 65}, "max_predictions", "which is 64, got 65"),
        ({"length": 3}, "length", "at least 4, got 3"),
        ({"batch_size": 0}, "batch_size", "at least 1, got 0"),
        ({"short_steps": -1}, "short_steps", "at least 0, got -1"),
        ({"short_steps": 10, "short_length": 60}, "short_length", "got 60 and 64"),
    ],
)
def test_settings_out_of_range_are_refused_by_field(settings: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        SequenceConfig(**({"length": 64} | settings))
    assert refused.value.field == f"sequences.{field}"


@pytest.mark.parametrize(
    ("field", "value"),
    [("prefetch", 0), ("vocabulary_size", -1), ("minimum_count", 0), ("batch_size", 0), ("unroll_steps", 0)],
)
def test_settings_of_the_text_out_of_range_are_refused_by_field(field: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"at least {value + 1}, got {value}") as refused:
        BiLMData(**{field: value})  # type: ignore[arg-type]
    assert refused.value.field == f"data.{field}"


def test_a_vocabulary_of_special_tokens_only() -> None:
    with pytest.raises(ConfigError, match=r"^tokenizer\.file .*ordinary"):
        Masking(SequenceConfig(), Names(5), 0)


def test_short_rows_have_as_many_tokens_a_batch() -> None:
    config = SequenceConfig(length=512, batch_size=8, max_predictions=80, short_steps=100, short_length=128)
    short = config.short_phase
    assert short is not None
    assert (short.length, short.batch_size, short.predictions_per_row, short.short_phase) == (128, 32, 20, None)
    assert short.length * short.batch_size == config.length * config.batch_size
