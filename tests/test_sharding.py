"""Rows sharded over as many devices as divide them, and parameters that are gathered where they are used."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ctx_jax.distributed.sharding import (
    AXIS,
    REPLICATED,
    SHARDED_ROWS,
    GatheredParams,
    RowFunction,
    data_mesh,
    fsdp_spec,
    pipelined,
    shard_batch,
    sum_gradients,
)


@pytest.mark.parametrize(
    ("rows", "devices", "used"), [(64, 1, 1), (64, 3, 2), (64, 5, 4), (64, 6, 4), (64, 8, 8), (12, 8, 6), (1, 8, 1)]
)
def test_as_many_devices_share_the_rows_as_divide_them(rows: int, devices: int, used: int) -> None:
    run, replicate = shard_batch(lambda factor, left, right: left * factor + right, rows, jax.devices()[:devices])
    values = np.arange(rows, dtype=np.float32)
    result = run(replicate(np.float32(3)), values, values)
    assert len(result.sharding.device_set) == used
    np.testing.assert_array_equal(result, 4 * values)


def test_by_default_all_devices_of_the_process_share_the_rows() -> None:
    run, replicate = shard_batch(lambda nothing, left, right: left, 8)
    assert run(replicate(()), np.zeros(8), ()).sharding.device_set == set(jax.devices())


def test_each_result_comes_after_the_next_was_requested() -> None:
    requested: list[int] = []

    def results() -> Any:
        for number in range(4):
            requested.append(number)
            yield number

    assert [(result, requested[-1]) for result in pipelined(results())] == [(0, 1), (1, 2), (2, 3), (3, 3)]
    assert not list(pipelined([]))


@pytest.mark.parametrize(
    ("shape", "count", "axis"),
    [((30522, 1024), 8, 1), ((30522, 1024), 2, 0), ((1024, 1024), 8, 0), ((11, 3), 8, None), ((1024,), 8, None)],
)
def test_devices_shard_an_array_along_its_largest_axis_that_they_divide(
    shape: tuple[int, ...], count: int, axis: int | None
) -> None:
    assert fsdp_spec(shape, count) == (REPLICATED if axis is None else PartitionSpec(*[None] * axis, AXIS))


def init() -> dict[str, Any]:
    keys = iter(jax.random.split(jax.random.key(0), 8))
    layers = {
        f"layer_{number}": {
            "kernel": jax.random.normal(next(keys), (16, 16)) / 4,
            "bias": jax.random.normal(next(keys), (16,)),
        }
        for number in range(3)
    }
    odd = jax.random.normal(next(keys), (5, 3))  # replicated: 8 devices divide no axis
    return {"encoder": layers, "head": {"kernel": jax.random.normal(next(keys), (16, 5)), "odd": odd}}


def loss(params: Any, rows: jax.Array, *, scanned: bool) -> jax.Array:
    """The sum over rows of a small network that takes its arrays out by name, or stacks its layers for a scan."""

    @jax.checkpoint
    def layer(part: Any, hidden: jax.Array) -> jax.Array:
        return jnp.tanh(hidden @ part["kernel"] + part["bias"][None])

    layers, head = [params["encoder"][f"layer_{number}"] for number in range(3)], params["head"]
    if scanned:
        stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *layers)
        hidden, _ = jax.lax.scan(lambda hidden, part: (layer(part, hidden), None), rows, stacked)
    else:
        hidden = rows
        for part in layers:
            hidden = layer(part, hidden)
    return jnp.sum(jnp.sin(hidden @ head["kernel"] @ head["odd"]))


@pytest.mark.slow
@pytest.mark.parametrize("scanned", [False, True])
def test_gradients_of_local_shards_are_those_of_one_device(scanned: bool) -> None:
    """Plain nested dicts of shards in, plain nested dicts of summed shards out."""
    params, rows = init(), jax.random.normal(jax.random.key(1), (16, 16))
    mesh = data_mesh(jax.devices())
    specs = jax.tree.map(lambda leaf: fsdp_spec(leaf.shape, 8), params)

    def on_device(shards: Any, rows: jax.Array) -> tuple[jax.Array, Any]:
        def sharded_loss(shards: Any) -> jax.Array:
            return loss(GatheredParams.of(shards, specs, AXIS), rows, scanned=scanned)

        value, gradients = jax.value_and_grad(sharded_loss)(shards)
        assert type(gradients) is dict and type(gradients["encoder"]["layer_0"]) is dict
        return jax.lax.psum(value, AXIS), sum_gradients(gradients, specs, AXIS)

    step = jax.jit(
        jax.shard_map(
            on_device, mesh=mesh, in_specs=(specs, SHARDED_ROWS), out_specs=(REPLICATED, specs), check_vma=False
        )
    )
    sharded = jax.device_put(params, jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs))
    assert sharded["encoder"]["layer_0"]["kernel"].addressable_data(0).shape == (2, 16)
    value, gradients = step(sharded, rows)
    wanted_value, wanted = jax.value_and_grad(lambda params: loss(params, rows, scanned=False))(params)
    np.testing.assert_allclose(value, wanted_value, rtol=2e-5)
    for (path, found), want in zip(jax.tree.leaves_with_path(gradients), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(found, want, rtol=2e-4, atol=2e-5, err_msg=str(path))
    program = step.lower(sharded, rows).as_text()
    gathers = 2 * (1 if scanned else 3) + 1  # a layer's kernel forward and backward (remat), the head's kernel
    assert program.count("stablehlo.all_gather") == gathers


def test_gathered_params_are_a_mapping_and_a_pytree_of_their_shards() -> None:
    shards = {"b": {"kernel": np.zeros((2, 4))}, "a": np.zeros(3)}
    params = GatheredParams.of(shards, {"b": {"kernel": PartitionSpec(AXIS)}, "a": REPLICATED}, AXIS)
    assert list(params) == ["b", "a"] and len(params) == 2 and "b" in params
    assert params["a"] is shards["a"]
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(params)]
    assert names == [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(shards)]
    assert jax.tree.structure(jax.tree.map(lambda leaf: leaf + 1, params)) == jax.tree.structure(params)


def _scaled(factor: int, table: jax.Array, rows: dict[str, jax.Array]) -> jax.Array:
    return factor * table[None] * rows["a"]


@pytest.mark.parametrize("size", [1, 3, 6, 8, 12])
def test_a_row_function_gives_every_batch_its_rows_whatever_its_size(size: int) -> None:
    compute = RowFunction(_scaled, 3, np.arange(2, dtype=np.float32))
    rows = np.arange(2 * size, dtype=np.float32).reshape(size, 2)
    for _ in range(2):
        np.testing.assert_array_equal(compute({"a": rows}, size), 3 * np.arange(2) * rows)
    (one,) = {len(array.sharding.device_set) for array in [compute({"a": rows}, size)]}
    assert one == max(count for count in range(1, 9) if size % count == 0)
