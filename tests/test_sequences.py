"""Batches of sequences: positions resume them, hosts agree, epochs mask anew, shapes are fixed."""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest
from numbered_text import Names, corpus

from ctx_jax.data.batch import Batch, CausalBatch, MaskedBatch
from ctx_jax.data.prefetch import prefetch
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.data.sequences import Sequences
from ctx_jax.data.tokens import Tokens

PACKINGS: dict[str, dict[str, Any]] = {
    "full": {},
    "words": {"masking": "words", "whole_sentences": False},
    "apart": {"cross_documents": False, "masking": "spans"},
    "next_sentence": {"packing": "pairs"},
    "order": {"packing": "pairs", "pair_label": "order"},
    "pairs": {"packing": "pairs", "pair_label": "none"},
    "packed": {"packing": "packed"},
    "causal": {"packing": "causal_blocks"},
    "causal apart": {"packing": "causal_blocks", "cross_documents": False},
}


def sequences(tokens: Tokens, name: str, /, **settings: Any) -> Sequences:
    given = {key: settings.pop(key) for key in ("seed", "epochs", "shuffle", "first_position") if key in settings}
    own = settings.pop("own", None)
    config = SequenceConfig(**({"length": 32, "batch_size": 4, "mask_rate": 0.2} | PACKINGS[name] | settings))
    return Sequences(tokens, Names(), config, rows=own, **({"seed": 3} | given))


def take(batches: Iterator[Batch], count: int) -> list[Batch]:
    return list(itertools.islice(batches, count))


def fields(batch: Batch) -> dict[str, np.ndarray]:
    """The arrays that a batch has, by name."""
    named = {**batch.arrays.tokens._asdict(), **batch.arrays._asdict()}
    return {name: array for name, array in named.items() if isinstance(array, np.ndarray)}


def same(left: list[Batch], right: list[Batch]) -> None:
    assert len(left) == len(right) > 0
    for one, other in zip(left, right, strict=True):
        assert type(one.arrays) is type(other.arrays)
        for mine, yours in ((fields(one), fields(other)), (one.position, other.position)):
            assert mine.keys() == yours.keys()
            for key in mine:
                assert mine[key].dtype == yours[key].dtype
                np.testing.assert_array_equal(mine[key], yours[key], key)


@pytest.mark.parametrize("name", PACKINGS)
def test_seek_goes_on_identically(name: str) -> None:
    tokens = corpus()
    whole = sequences(tokens, name)
    start = whole.position
    batches = take(whole, 24)
    assert batches[-1].position["epoch"].min() >= 1
    for done in range(0, 20, 3):
        resumed = sequences(tokens, name)
        resumed.seek(batches[done].position)
        same(take(resumed, 4), batches[done + 1 : done + 5])
    whole.seek(start)
    same(take(whole, 24), batches)


@pytest.mark.parametrize("name", PACKINGS)
@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_make_the_batch_of_one(name: str, hosts: int) -> None:
    tokens, size = corpus(), 4 // hosts

    def joined(position: dict[str, np.ndarray] | None, **settings: Any) -> list[Batch]:
        shares = [sequences(tokens, name, own=slice(h * size, (h + 1) * size), **settings) for h in range(hosts)]
        for share in shares:
            if position is not None:
                share.seek(position)
        steps = zip(*[take(share, 60) for share in shares], strict=True)
        return [
            Batch(
                jax.tree.map(lambda *arrays: np.concatenate(arrays), *(batch.arrays for batch in step)),
                {key: np.concatenate([batch.position[key] for batch in step]) for key in step[0].position},
            )
            for step in steps
        ]

    one = take(sequences(tokens, name), 60)
    same(joined(None), one)
    same(joined(one[5].position)[:50], one[6:56])
    ending = take(sequences(tokens, name, epochs=1), 60)
    assert len(ending) < 60
    same(joined(None, epochs=1), ending)


@pytest.mark.parametrize("name", PACKINGS)
def test_shapes_are_of_the_config_alone(name: str) -> None:
    def shapes(batch: Batch) -> dict[str, tuple[str, tuple[int, ...]]]:
        return {key: (array.dtype.name, array.shape) for key, array in fields(batch).items()}

    def text(kind: str) -> tuple[str, tuple[int, ...]]:
        return kind, (4, 32)

    expected = {"token_ids": text("int32"), "mask": text("bool"), "positions": text("int32"), "rows": ("int32", (4,))}
    if name.startswith("causal"):
        expected |= {"next_token_ids": text("int32"), "weights": text("float32")}
    else:
        expected |= {"predicted_positions": ("int32", (4, 7)), "predicted_ids": ("int32", (4, 7))}
        expected |= {"predicted_weights": ("float32", (4, 7))}
    expected |= {"segments": text("int32")} if name in ("packed", "causal apart") else {"lengths": ("int32", (4,))}
    if PACKINGS[name].get("packing") == "pairs":
        expected |= {"token_types": text("int32")}
    if name in ("next_sentence", "order"):
        expected |= {"next_sentence": ("int32", (4,)), "next_sentence_weights": ("float32", (4,))}
    batches = list(sequences(corpus(), name, epochs=2))
    assert {type(batch.arrays) for batch in batches} == {CausalBatch if name.startswith("causal") else MaskedBatch}
    for tokens in (batch.arrays.tokens for batch in batches if batch.arrays.tokens.lengths is not None):
        np.testing.assert_array_equal(tokens.mask, np.arange(32) < tokens.lengths[:, None])
    assert all(shapes(batch) == expected for batch in batches)
    assert shapes(next(sequences(corpus(40, seed=5), name))) == expected


@pytest.mark.parametrize("name", PACKINGS)
def test_the_last_batch_is_filled_with_rows_that_count_for_nothing(name: str) -> None:
    tokens = corpus()
    given = sequences(tokens, name, batch_size=7, epochs=1)
    last = fields(list(given)[-1])
    full = given.examples % 7
    assert full
    for key in ("mask", "predicted_weights", "weights", "next_sentence_weights", "segments", "token_types"):
        assert key not in last or not last[key][full:].any()
    assert (last["token_ids"][full:] == 0).all() and last["mask"][:full].any(axis=1).all()
    np.testing.assert_array_equal(last["rows"], np.arange(7))


def original(batch: Batch) -> np.ndarray:
    """The ids before masking."""
    ids: np.ndarray = batch.arrays.tokens.token_ids.copy()
    if isinstance(batch.arrays, MaskedBatch):
        rows, places = np.nonzero(batch.arrays.predicted_weights)
        ids[rows, batch.arrays.predicted_positions[rows, places]] = batch.arrays.predicted_ids[rows, places]
    return ids


@pytest.mark.parametrize("name", ["full", "words", "apart", "packed"])
def test_an_epoch_has_every_token_once_and_is_masked_anew(name: str) -> None:
    tokens = corpus()
    given = sequences(tokens, name, batch_size=1)
    masks: list[dict[int, tuple[int, ...]]] = []
    for _ in range(2):
        batches = take(given, given.examples)
        ids = np.concatenate([original(batch)[0] for batch in batches])
        assert sorted(ids[ids > 4].tolist()) == tokens.ids.tolist()
        masks.append({})
        for batch in batches:
            chosen = batch.arrays.predicted_ids[batch.arrays.predicted_weights > 0]
            masks[-1][int(original(batch)[0, 1])] = tuple(chosen.tolist())
    assert masks[0].keys() == masks[1].keys()
    assert list(masks[0]) != list(masks[1])  # another order
    assert sum(masks[0][row] == masks[1][row] for row in masks[0]) < len(masks[0]) / 3


def test_a_host_reads_the_text_of_its_own_rows_only() -> None:
    tokens = corpus()
    given = next(sequences(tokens, "packed", own=slice(1, 2)))
    mine = np.isin(tokens.ids, original(given))
    assert 0 < mine.sum() < len(mine) / 4
    others = Tokens(np.where(mine, tokens.ids, 5), tokens.begins, tokens.offsets, tokens.documents)
    same([next(sequences(others, "packed", own=slice(1, 2)))], [given])


def test_two_seeds_differ_and_without_shuffling_the_text_is_read_in_order() -> None:
    tokens = corpus()
    one, other = (next(sequences(tokens, "full", seed=seed)).arrays.tokens.token_ids for seed in (3, 4))
    assert (one != other).any()
    read = np.concatenate([original(batch).reshape(-1) for batch in sequences(tokens, "full", shuffle=False, epochs=1)])
    assert read[read > 4].tolist() == tokens.ids.tolist()


def test_positions_of_a_table_that_begins_after_padding() -> None:
    """RoBERTa's: ids 0 5 6 2 1 1 stand at 2 3 4 5 1 1."""
    plain, moved = (next(sequences(corpus(), "packed", first_position=first)).arrays.tokens for first in (0, 2))
    mask = plain.mask
    np.testing.assert_array_equal(moved.positions, np.where(mask, plain.positions + 2, 1))
    assert (~mask).any()


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
