"""Arrays sharded over devices: rows of a batch, and parameters under FSDP.

Letters: n devices.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain, pairwise
from typing import Any, TypeVar

import jax
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"
"""The mesh axis over which rows and FSDP's parameters are sharded."""

REPLICATED, SHARDED_ROWS = PartitionSpec(), PartitionSpec(AXIS)

Result = TypeVar("Result")


def data_mesh(devices: Sequence[jax.Device]) -> Mesh:
    """A mesh of one axis, `AXIS`, over the devices in their order."""
    # Auto: shard_map refuses unsharded inputs on a mesh of explicit axes.
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def devices_in_use() -> list[jax.Device]:
    """All devices of this process, or `jax.default_device` alone if it is set."""
    chosen = jax.config.jax_default_device  # type: ignore[attr-defined]
    if isinstance(chosen, jax.Device):
        return [chosen]
    return jax.local_devices(backend=chosen)[: None if chosen is None else 1]


def process_share() -> tuple[int, int]:
    """(own number, number of processes) of the job."""
    return jax.process_index(), jax.process_count()


def shard_batch(
    function: Callable[..., Any], batch_size: int, devices: Sequence[jax.Device] | None = None
) -> tuple[Callable[..., Any], Callable[[Any], Any]]:
    """Compile `function(replicated, rows, rows) -> rows` with the rows sharded along their leading axis.

    The largest number of `devices` (default: all of this process) that divides `batch_size`, the number of rows, is
    used: 2 of 3 devices for 64 rows. Returns the compiled function and one that replicates its first argument on them.
    """
    available = list(devices or jax.local_devices())
    mesh = data_mesh(available[: _shared_by(batch_size, len(available))])
    mapped = jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(REPLICATED, SHARDED_ROWS, SHARDED_ROWS),
        out_specs=SHARDED_ROWS,
        check_vma=False,
    )

    def replicate(tree: Any) -> Any:
        return jax.device_put(tree, NamedSharding(mesh, REPLICATED))

    return jax.jit(mapped), replicate


def _shared_by(rows: int, devices: int) -> int:
    """The largest number of devices that divides the rows."""
    return next(count for count in range(devices, 0, -1) if rows % count == 0)


class RowFunction:
    """`function(static, replicated, rows) -> rows` for batches of any size, each shared by as many devices as divide
    it.

    ```
    scores = RowFunction(_scores, network, params)
    scores({"token_ids": ids}, 32)                   # [32, K]
    ```
    A size is compiled once for each `function` and hashable `static`; `replicated` is copied to the devices once.
    """

    def __init__(
        self, function: Callable[..., Any], static: Any, replicated: Any, devices: Sequence[jax.Device] | None = None
    ) -> None:
        self._function, self._static = function, static
        self._devices = tuple(devices or jax.local_devices())
        self._replicated = {1: jax.device_put(replicated, self._devices[0])}  # by the number of devices

    def __call__(self, rows: Any, batch_size: int) -> Any:
        """The result of `batch_size` rows, a tree of arrays."""
        compute, replicate = _compiled(self._function, self._static, batch_size, self._devices)
        count = _shared_by(batch_size, len(self._devices))
        if count not in self._replicated:
            self._replicated[count] = replicate(self._replicated[1])
        return compute(self._replicated[count], rows, ())


@lru_cache(maxsize=256)
def _compiled(
    function: Callable[..., Any], static: Any, batch_size: int, devices: tuple[jax.Device, ...]
) -> tuple[Callable[..., Any], Callable[[Any], Any]]:
    return shard_batch(lambda replicated, rows, _: function(static, replicated, rows), batch_size, devices)


def pipelined(results: Iterable[Result]) -> Iterator[Result]:
    """The results in their order, each yielded after the next one has been requested.

    If requesting starts a computation on the devices and using a result waits for it, the devices stay busy meanwhile.
    """
    return (result for result, _ in pairwise(chain(results, [None])))  # type: ignore[misc]


def fsdp_spec(shape: tuple[int, ...], count: int) -> PartitionSpec:
    """How n = `count` devices shard an array: along its largest axis that n divides, the first of equals.

    (30522, 1024) over 8: axis 1, over 2: axis 0. Replicated if n divides no axis, and for vectors and scalars, which
    are small while each all-gather costs its latency.
    """
    axes = [axis for axis, size in enumerate(shape) if size % count == 0]
    if len(shape) < 2 or not axes:
        return REPLICATED
    return PartitionSpec(*[None] * max(axes, key=lambda axis: shape[axis]), AXIS)


@jax.tree_util.register_pytree_with_keys_class
class GatheredParams(Mapping[str, Any]):
    """Parameters of which each device holds a shard; an array is all-gathered when it is taken out by name.

    ```
    def loss(shards):                                   # inside shard_map; each leaf is the local shard, [I, O / n]
        params = GatheredParams.of(shards, specs, "data")
        return model_loss(params)                       # params["layer_0"]["up"]["kernel"] is [I, O]

    gradients = sum_gradients(jax.grad(loss)(shards), specs, "data")    # shards again
    ```
    A model that takes its arrays layer by layer thus gathers one layer at a time (scanned: inside the loop; under
    `remat`: once more in the backward pass). The transpose of an all-gather is a reduce-scatter, so the gradient with
    respect to a local shard is already summed over the devices.

    As a pytree its leaves are the local shards, so `tree.map`, `scan` and `checkpoint` handle it without gathering.
    """

    def __init__(self, shards: Mapping[str, Any], axes: Mapping[str, int | None], over: str) -> None:
        """`axes`: along which axis each array is gathered; None for replicated arrays and nested mappings."""
        self._shards, self._axes, self._over = shards, axes, over

    @classmethod
    def of(cls, shards: Mapping[str, Any], specs: Mapping[str, Any], axis: str) -> "GatheredParams":
        """From nested dicts of local shards and of their PartitionSpecs, inside a `shard_map` over mesh axis `axis`."""
        nested = {name: cls.of(part, specs[name], axis) for name, part in shards.items() if isinstance(part, Mapping)}
        axes = {name: None if name in nested else _sharded_axis(specs[name], axis) for name in shards}
        return cls({**shards, **nested}, axes, axis)

    def __getitem__(self, name: str) -> Any:
        shard, axis = self._shards[name], self._axes[name]
        return shard if axis is None else lax.all_gather(shard, self._over, axis=axis, tiled=True)

    def __contains__(self, name: object) -> bool:
        return name in self._shards  # the mixin's would gather

    def __iter__(self) -> Iterator[str]:
        return iter(self._shards)

    def __len__(self) -> int:
        return len(self._shards)

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        """The local shards, with the keys and the order of a dict."""
        names = sorted(self._shards)
        shards = [(jax.tree_util.DictKey(name), self._shards[name]) for name in names]
        return shards, (tuple((name, self._axes[name]) for name in names), self._over)

    @classmethod
    def tree_unflatten(cls, structure: tuple[Any, ...], shards: Any) -> "GatheredParams":
        """The same structure with other leaves."""
        axes, over = structure
        return cls({name: shard for (name, _), shard in zip(axes, shards, strict=True)}, dict(axes), over)


def sum_gradients(gradients: Any, specs: Any, axis: str) -> Any:
    """Sums the devices' gradients with respect to local shards over mesh axis `axis`, inside a `shard_map`.

    Only those of replicated arrays need a `psum`: the transpose of the all-gather has summed the sharded ones.
    """
    return jax.tree.map(
        lambda gradient, spec: lax.psum(gradient, axis) if _sharded_axis(spec, axis) is None else gradient,
        gradients,
        specs,
    )


def _sharded_axis(spec: PartitionSpec, axis: str) -> int | None:
    return tuple(spec).index(axis) if axis in tuple(spec) else None
