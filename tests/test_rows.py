"""Rows cut over devices: as many devices as can have equal parts."""

import jax
import numpy as np
import pytest

from ctx_jax.distributed.sharding import shard_batch


@pytest.mark.parametrize(
    ("rows", "devices", "used"), [(64, 1, 1), (64, 3, 2), (64, 5, 4), (64, 6, 4), (64, 8, 8), (12, 8, 6), (1, 8, 1)]
)
def test_as_many_devices_share_the_rows_as_can_have_equal_parts(rows: int, devices: int, used: int) -> None:
    run, lay = shard_batch(lambda whole, left, right: left * whole + right, rows, jax.devices()[:devices])
    values = np.arange(rows, dtype=np.float32)
    found = run(lay(np.float32(3)), values, values)
    assert len(found.sharding.device_set) == used
    np.testing.assert_array_equal(found, 4 * values)


def test_without_a_word_about_devices_all_of_this_machine_share() -> None:
    run, lay = shard_batch(lambda whole, left, right: left, 8)
    assert run(lay(()), np.zeros(8), ()).sharding.device_set == set(jax.devices())
