"""The order of sentences: a permutation per epoch, and a function of (seed, position) alone."""

import numpy as np
import pytest

from ctx_jax.data.permutation import SMALL, _block_of_epoch, permuted


@pytest.mark.parametrize("count", [1, 2, 3, 64, SMALL, SMALL + 1, 2**16 + 1])
@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_each_epoch_is_a_permutation(count: int, seed: int) -> None:
    for epoch in (0, 1, 123_456) if count <= SMALL else (7,):
        order = [permuted(epoch * count + place, count, seed) for place in range(count)]
        assert sorted(order) == list(range(count))


@pytest.mark.parametrize("count", [50, SMALL + 1])
def test_epochs_and_seeds_have_orders_of_their_own(count: int) -> None:
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        return tuple(permuted(epoch * count + place, count, seed) for place in range(50))

    orders = {order(seed, epoch) for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100  # in particular (seed, epoch + 1) is not (seed + 1, epoch)
    assert tuple(range(50)) not in orders


@pytest.mark.parametrize("count", [13, SMALL + 13])
def test_the_order_depends_on_seed_and_position_only(count: int) -> None:
    forward = [permuted(position, count, 5) for position in range(60)]
    backward = [permuted(position, count, 5) for position in reversed(range(60))]
    assert forward == backward[::-1]


def test_places_are_spread_evenly() -> None:
    hits = [0] * 5
    for seed in range(1000):
        hits[permuted(2, 5, seed)] += 1
    assert all(150 < hit < 250 for hit in hits)


def test_without_shuffle_the_order_is_the_file() -> None:
    assert [permuted(position, 3, 9, shuffle=False) for position in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_the_largest_corpus() -> None:
    assert 0 <= permuted(2**31 - 1, 2**31, 0) < 2**31


@pytest.mark.parametrize(
    ("position", "count", "seed", "message"),
    [(0, 0, 0, "between 1 and"), (0, 2**31 + 1, 0, "between 1 and"), (-1, 3, 0, "0 or more"), (0, 3, -1, "seed")],
)
def test_out_of_range_is_named(position: int, count: int, seed: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        permuted(position, count, seed)


@pytest.mark.parametrize("count", [60_000, 65_536, 1_000_000, 12_000_000, 2**24])
def test_a_shuffled_order_looks_random(count: int) -> None:
    """No place tells of another one near or far, and the halves of the text mix in a batch as coins fall."""
    places = 2**15
    order = np.array([permuted(place, count, 0) for place in range(places)]) / count - 0.5
    spectrum = np.fft.rfft(order, 2 * places)
    correlations = np.fft.irfft(spectrum * spectrum.conj())[: places // 2]
    assert np.abs(correlations[1:] / correlations[0]).max() < 6 / places**0.5
    for rows in (32, 256):
        halves = (order.reshape(-1, rows) < 0).sum(axis=1)
        assert 0.7 < halves.var() / (rows / 4) < 1.4


@pytest.mark.parametrize(("count", "seed"), [(5_000, 3), (65_536, 0), (1_000_003, 2**32 - 1), (2**31, 12_345)])
def test_the_order_equals_that_of_grain(count: int, seed: int) -> None:
    grain = pytest.importorskip("grain")
    blocks = [0, (count - 1) // 1024]  # the first and the last
    for block in blocks:
        places = range(1024 * block, min(1024 * (block + 1), count))
        expected = [
            grain.experimental.index_shuffle(place, max_index=count - 1, seed=seed, rounds=12) for place in places
        ]
        assert _block_of_epoch(seed, count, block).tolist() == expected


# grain 0.2.18: [index_shuffle(place, max_index=count - 1, seed=seed, rounds=12) for place in range(5)]
GOLDEN = {
    (4_097, 0): [1355, 2072, 1957, 2347, 636],
    (65_536, 7): [51388, 23677, 12502, 51384, 43916],
    (65_538, 1): [22554, 5873, 4461, 50626, 21537],
    (1_000_003, 4_294_967_295): [187854, 908353, 826458, 785454, 230921],
    (2_147_483_648, 12_345): [414173675, 256851513, 1035294252, 430207386, 1377898551],
}


@pytest.mark.parametrize(("count", "seed"), GOLDEN)
def test_the_order_is_that_of_grain(count: int, seed: int) -> None:
    """Runs keep their order: it was grain's `index_shuffle` at first."""
    assert _block_of_epoch(seed, count, 0)[: len(GOLDEN[count, seed])].tolist() == GOLDEN[count, seed]
