"""A pure function of rows, cut over the devices of this machine: all that evaluation needs to know of devices."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def over_rows(
    function: Callable[..., Any], rows: int, devices: Sequence[jax.Device] | None = None
) -> tuple[Callable[..., Any], Callable[[Any], Any]]:
    """Compile `function(whole, rows, rows)` -> rows, every array of the last two cut along its leading axis.

    rows: how many there are. As many of `devices` (default: all of this machine) share them as can have equal parts:
    of 3 devices, 2 share 64 rows.

    Returns:
      the compiled function, and what lays the first argument on every device.
    """
    found = list(devices or jax.local_devices())
    count = next(count for count in range(len(found), 0, -1) if rows % count == 0)
    mesh = Mesh(np.array(found[:count]), ("rows",), axis_types=(AxisType.Auto,))
    whole, cut = PartitionSpec(), PartitionSpec("rows")
    mapped = jax.shard_map(function, mesh=mesh, in_specs=(whole, cut, cut), out_specs=cut, check_vma=False)

    def lay(tree: Any) -> Any:
        return jax.device_put(tree, NamedSharding(mesh, whole))

    return jax.jit(mapped), lay
