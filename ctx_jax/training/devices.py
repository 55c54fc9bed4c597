"""The devices and hosts of a run: meshes, shardings, `shard_map`, `pmap`.

Rows of batch and carry are divided among the devices. Parameters and optimizer are whole on every device (modes shard
and pmap), or lie divided among them between the steps (fsdp): then each device gathers a layer's where it uses them,
takes its part of the gradient, and the update runs where the parts lie. Outside a running step the state is *logical*
in every mode: one array a leaf, unreplicated, as on a single device. That is what checkpoints hold, so that a run moves
between modes and numbers of devices.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ctx_jax.distributed.processes import broadcast_numbers, stop_together
from ctx_jax.distributed.sharding import GatheredParams as Divided
from ctx_jax.distributed.sharding import fsdp_axis as divided_axis
from ctx_jax.io.errors import InputError
from ctx_jax.training.config import DevicesConfig
from ctx_jax.training.step import Found, Share, State

AXIS = "data"
WHOLE, ROWS = PartitionSpec(), PartitionSpec(AXIS)
LAYOUT = State._make(ROWS if part == "carry" else WHOLE for part in State._fields)
"""Of the state in the modes shard and pmap."""
DIVIDED = ("params", "average", "optimizer")
"""What fsdp divides of it."""

Made = TypeVar("Made")
CompiledStep = Callable[[State, dict[str, Any]], State]


def kernels_folder(run_dir: Path) -> Path:
    """Where a deterministic run keeps its choices of kernels; to be there before the first of them is compiled."""
    return run_dir / "autotune"


def fix_kernels(config: DevicesConfig, run_dir: Path) -> None:
    """Ask XLA for deterministic operations, before anything else touches jax. Does nothing unless it is asked for.

    XLA times several kernels and keeps the fastest, which can be another one on the next start: its choices are kept.
    The flags stay in XLA_FLAGS of this process, also when the run is over; XLA reads them once, before its first use.
    """
    if config.deterministic:
        choices = kernels_folder(run_dir).absolute()
        quote = '"' if "'" in str(choices) else "'"  # without quotes, XLA ends a path at its first space
        flags = [
            "--xla_gpu_deterministic_ops=true",
            f"--xla_gpu_per_fusion_autotune_cache_dir={quote}{choices}{quote}",
        ]
        given = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = " ".join([given, *(flag for flag in flags if flag not in given)]).strip()


def join_hosts(config: DevicesConfig) -> None:
    """Join the job's other processes, before anything else touches jax. Does nothing unless `--devices.distributed`.

    On TPU pods, Slurm and Kubernetes jax finds coordinator and process numbers itself; elsewhere they come from
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.
    """
    if config.distributed and not jax.distributed.is_initialized():
        count, number = os.environ.get("JAX_NUM_PROCESSES"), os.environ.get("JAX_PROCESS_ID")
        jax.distributed.initialize(
            num_processes=None if count is None else int(count), process_id=None if number is None else int(number)
        )


def is_first_host() -> bool:
    """Whether this process is the one that prints and writes the metrics."""
    return jax.process_index() == 0


def first_host_first(make: Callable[[], Made]) -> Made:
    """What `make` gives, on every host; the others wait until the first one has prepared the files it shares.

    What any of them raises stops all.
    """
    made: list[Made] = []
    with stop_together():
        if is_first_host():
            made.append(make())
    with stop_together():
        return made[0] if made else make()


def agreed_step(step: int | None) -> int | None:
    """The first host's answer, on every host: a shared folder may not show all of them the same files yet."""
    found = broadcast_numbers({"step": -1.0 if step is None else float(step)})["step"]
    return None if found < 0 else int(found)


def stop_agreed(step: int) -> bool:
    """Whether a job over several hosts was told to stop (SIGTERM to any of them); the same answer on all of them.

    Every process has to ask at every step. False in a job of one process, which has a signal handler of its own.
    """
    return jax.process_count() > 1 and bool(multihost_utils.reached_preemption_sync_point(step))


class Devices:
    """The devices of a run, and the way arrays lie on them."""

    def __init__(self, config: DevicesConfig, rows: int, available: Sequence[jax.Device] | None = None) -> None:
        """`rows`: rows of a batch over all devices; `available`: devices to take in place of jax's own, such as those
        of a machine that the step is only compiled for. Raises ValueError where the rows cannot be divided."""
        # By process, and no mesh of jax's own making, which may reorder them: a host's rows lie on its own devices.
        found = sorted(available or jax.devices(), key=lambda device: (device.process_index, device.id))
        count = config.count or len(found)
        if count > len(found):
            raise InputError(
                f"--devices.count {count}, got {len(found)} devices ({found[0].device_kind}): set at most {len(found)}"
            )
        if jax.process_count() > 1 and (config.count or config.mode == "pmap"):
            raise InputError("a job over several processes uses every device, with --devices.mode shard or fsdp")
        if rows % (count * config.micro_batches):
            raise InputError(
                f"{rows} rows of a batch cannot be shared by {count} devices in {config.micro_batches} micro-batches: "
                f"set the rows (--data.lanes, of a Transformer --sequences.rows) to a multiple of "
                f"{count * config.micro_batches}, or fewer --devices.count"
            )
        self.devices = found[:count]
        self.mode = config.mode
        self.mesh = Mesh(np.array(self.devices), (AXIS,), axis_types=(AxisType.Auto,))
        self.hosts = jax.process_count()
        self.host_rows = rows // self.hosts
        self.first_row = self.host_rows * jax.process_index()

    def _sharding(self, part: str, leaf: Any) -> NamedSharding:
        if part == "carry":
            return NamedSharding(self.mesh, ROWS)
        return NamedSharding(self.mesh, self._spec(leaf) if part in DIVIDED else WHOLE)

    def _spec(self, leaf: Any) -> PartitionSpec:
        """How an array of parameters, average or optimizer lies."""
        axis = divided_axis(leaf.shape, len(self.devices)) if self.mode == "fsdp" else None
        return WHOLE if axis is None else PartitionSpec(*[None] * axis, AXIS)

    def _shardings(self, state: State) -> State:
        parts = zip(State._fields, state, strict=True)
        return State(*(jax.tree.map(partial(self._sharding, name), part) for name, part in parts))

    def abstract(self, make: Callable[[], State]) -> State:
        """The shapes, types and shardings of the logical state that `make` would make."""
        shapes = jax.eval_shape(make)
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            self._shardings(shapes),
        )

    def create(self, make: Callable[[], State]) -> State:
        """The logical state that `make` makes, computed where it will lie."""
        return jax.jit(make, out_shardings=self._shardings(jax.eval_shape(make)))()

    def replicated(self, make: Callable[[], Any]) -> Callable[[], Any]:
        """`make`, compiled to lie whole on every device."""
        return jax.jit(make, out_shardings=NamedSharding(self.mesh, WHOLE))

    def lay(self, params: Any) -> Any:
        """Parameters, the same on every host, laid as the state has them."""
        return jax.device_put(params, jax.tree.map(partial(self._sharding, "params"), params))

    def local(self, params: Any) -> Any:
        """Parameters of the state, as whole arrays of this host's first device alone. All hosts call it together."""
        if self.mode == "fsdp":
            params = jax.jit(_same, out_shardings=NamedSharding(self.mesh, WHOLE))(params)
        return jax.tree.map(lambda array: array.addressable_data(0), params)

    @property
    def local_devices(self) -> list[jax.Device]:
        """The devices of this run that belong to this host."""
        return [device for device in self.devices if device.process_index == jax.process_index()]

    def whole_position(self, position: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The data position of all rows, from that of this host's."""
        if jax.process_count() == 1:
            return position
        return {name: np.asarray(v) for name, v in multihost_utils.process_allgather(position, tiled=True).items()}

    def compile(self, step: Callable[..., State]) -> CompiledStep:
        """The step over all devices: (state as `enter` gives it, batch as `put` gives it) -> state.

        The state given is donated: use the one that comes back.
        """

        def one(state: State, batch: dict[str, Any]) -> State:
            return step(state, batch, _total)

        if self.mode == "fsdp":
            return self._compile_divided(step)
        if self.mode == "pmap":
            axes = State._make(None if spec == WHOLE else 0 for spec in LAYOUT)
            return jax.pmap(one, AXIS, in_axes=(axes, 0), out_axes=axes, devices=self.devices, donate_argnums=0)
        # check_vma would turn the gradient of a replicated parameter into a reduction of its own, once a use.
        mapped = jax.shard_map(one, mesh=self.mesh, in_specs=(LAYOUT, ROWS), out_specs=LAYOUT, check_vma=False)
        return jax.jit(mapped, donate_argnums=0)

    def _compile_divided(self, step: Callable[..., State]) -> CompiledStep:
        """Losses and gradients within the devices, the update (norms, trust ratios) outside, by its shardings alone."""

        def over(share: Share) -> Share:
            def on_device(specs: Any, parts: Any, batch: Any, carry: Any, key: jax.Array) -> Found:
                found = share(Divided.of(parts, specs, AXIS), batch, carry, key)
                return found._replace(slopes=found.slopes.plain())

            def all_rows(params: Any, batch: Any, carry: Any, key: jax.Array) -> Found:
                specs = jax.tree.map(self._spec, params)
                mapped = jax.shard_map(
                    partial(on_device, specs),
                    mesh=self.mesh,
                    in_specs=(specs, ROWS, ROWS, WHOLE),
                    out_specs=Found._make((specs, WHOLE, WHOLE, ROWS)),
                    check_vma=False,
                )
                return mapped(params, batch, carry, key)

            return all_rows

        def one(state: State, batch: dict[str, Any]) -> State:
            after = step(state, batch, _total, over)
            return jax.lax.with_sharding_constraint(after, self._shardings(after))

        return jax.jit(one, donate_argnums=0)

    def put(self, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        """This host's rows of a batch, on their way to the devices."""
        if self.mode == "pmap":
            count = len(self.devices)
            return {name: array.reshape(count, -1, *array.shape[1:]) for name, array in arrays.items()}
        rows = NamedSharding(self.mesh, ROWS)
        return {name: jax.make_array_from_process_local_data(rows, array) for name, array in arrays.items()}

    def enter(self, state: State) -> State:
        """The logical state in the form the compiled step takes: under pmap, rows as [devices, rows of each, ...]."""
        return state._replace(carry=jax.tree.map(self._divide, state.carry)) if self.mode == "pmap" else state

    def leave(self, state: State) -> State:
        """The logical state again."""
        return state._replace(carry=jax.tree.map(self._join, state.carry)) if self.mode == "pmap" else state

    def _divide(self, array: jax.Array) -> jax.Array:
        shape = (len(self.devices), array.shape[0] // len(self.devices), *array.shape[1:])
        pieces = [shard.data[None] for shard in array.addressable_shards]
        return jax.make_array_from_single_device_arrays(shape, NamedSharding(self.mesh, ROWS), pieces)

    def _join(self, array: jax.Array) -> jax.Array:
        shape = (array.shape[0] * array.shape[1], *array.shape[2:])
        pieces = [shard.data[0] for shard in array.addressable_shards]
        return jax.make_array_from_single_device_arrays(shape, NamedSharding(self.mesh, ROWS), pieces)


def _same(tree: Any) -> Any:
    """A function of its own, which `jit` knows again."""
    return tree


def _total(tree: Any) -> Any:
    """The sum over the devices, of what each of them computes; what is gathered out of parts is summed already."""

    def one(node: Any) -> Any:
        return node.summed() if isinstance(node, Divided) else jax.lax.psum(node, AXIS)

    return jax.tree.map(one, tree, is_leaf=lambda node: isinstance(node, Divided))
