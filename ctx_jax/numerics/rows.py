"""A pure function of rows, cut over the devices of this machine: all that evaluation needs to know of devices."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def over_rows(
    function: Callable[..., Any], devices: Sequence[jax.Device]
) -> tuple[Callable[..., Any], Callable[[Any], Any]]:
    """Compile `function(whole, rows, rows)` -> rows, every array of the last two cut along its leading axis.

    Returns:
      the compiled function, and what lays the first argument on every device.
    """
    mesh = jax.make_mesh((len(devices),), ("rows",), axis_types=(AxisType.Auto,), devices=devices)
    whole, cut = PartitionSpec(), PartitionSpec("rows")
    mapped = jax.shard_map(function, mesh=mesh, in_specs=(whole, cut, cut), out_specs=cut, check_vma=False)

    def lay(tree: Any) -> Any:
        return jax.device_put(tree, NamedSharding(mesh, whole))

    return jax.jit(mapped), lay
