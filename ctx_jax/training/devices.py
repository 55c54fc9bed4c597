"""The devices of a run: how its state and batches lie on them, and the compiled step in each mode.

Rows of batch and carry are sharded over the devices. Parameters and optimizer are replicated (modes shard and pmap), or
sharded between the steps (fsdp): then each device gathers a layer's parameters where it uses them, keeps its part of
the gradient, and the update runs where the parts lie. Outside a running step the state is *logical* in every mode: one
array a leaf, unreplicated, as on a single device. That is what checkpoints hold, so that a run moves between modes and
numbers of devices.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from ctx_jax.checkpoints.frozen import merge_params
from ctx_jax.distributed.sharding import (
    AXIS,
    REPLICATED,
    SHARDED_ROWS,
    GatheredParams,
    data_mesh,
    fsdp_spec,
    sum_gradients,
)
from ctx_jax.io.errors import ConfigError
from ctx_jax.training.config import DevicesConfig
from ctx_jax.training.step import Collectives, GradientOutput, State, TrainingStep
from ctx_jax.typing import Params

LAYOUT = State._make(SHARDED_ROWS if part == "carry" else REPLICATED for part in State._fields)
"""Of the state in the modes shard and pmap."""
SHARDED = ("params", "average", "optimizer")
"""What fsdp shards of it; frozen parameters too."""

CompiledStep = Callable[[State, Params, Any], State]


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


class Devices:
    """The devices of a run, and the way arrays lie on them."""

    def __init__(self, config: DevicesConfig, batch_size: int, available: Sequence[jax.Device] | None = None) -> None:
        """`batch_size`: rows over all devices; `available`: devices to take in place of jax's own, such as those of a
        machine that the step is only compiled for. ConfigError where the rows cannot be divided."""
        # Sorted by process: the rows of a process lie on its own devices. jax's own meshes may reorder them.
        found = sorted(available or jax.devices(), key=lambda device: (device.process_index, device.id))
        count = config.count or len(found)
        if count > len(found):
            raise ConfigError(
                "devices.count",
                f"is {count}, and there are {len(found)} devices ({found[0].device_kind}): set at most {len(found)}",
            )
        if jax.process_count() > 1 and (config.count or config.mode == "pmap"):
            raise ConfigError(
                "devices.count" if config.count else "devices.mode",
                "cannot be set so in a job of several processes, which uses every device: leave devices.count at 0 and "
                "set devices.mode to shard or fsdp",
            )
        if batch_size % (count * config.micro_batches):
            raise ConfigError(
                "batch_size",
                f"of {batch_size} rows cannot be shared by {count} devices in {config.micro_batches} micro-batches: "
                f"set a multiple of {count * config.micro_batches}, or a smaller devices.count",
            )
        self.devices = found[:count]
        self.mode = config.mode
        self.mesh = data_mesh(self.devices)
        self.processes = jax.process_count()
        self.process_rows = batch_size // self.processes
        self.first_row = self.process_rows * jax.process_index()

    def _spec(self, leaf: Any) -> PartitionSpec:
        """How an array of parameters, average or optimizer lies."""
        return fsdp_spec(leaf.shape, len(self.devices)) if self.mode == "fsdp" else REPLICATED

    def _sharding(self, part: str, leaf: Any) -> NamedSharding:
        if part == "carry":
            return NamedSharding(self.mesh, SHARDED_ROWS)
        return NamedSharding(self.mesh, self._spec(leaf) if part in SHARDED else REPLICATED)

    def _shardings(self, state: State) -> State:
        parts = zip(State._fields, state, strict=True)
        return State(*(jax.tree.map(partial(self._sharding, name), part) for name, part in parts))

    def params_shardings(self, params: Params) -> Any:
        """How parameters lie, trainable or frozen."""
        return jax.tree.map(partial(self._sharding, "params"), params)

    def abstract(self, make: Callable[[], tuple[State, Params]]) -> tuple[State, Params]:
        """The shapes, types and shardings of the logical state and frozen parameters that `make` would make."""
        state, frozen = jax.eval_shape(make)
        shardings = (self._shardings(state), self.params_shardings(frozen))

        def leaf(shape: Any, sharding: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

        return jax.tree.map(leaf, (state, frozen), shardings)

    def create(self, make: Callable[[], tuple[State, Params]]) -> tuple[State, Params]:
        """The logical state and frozen parameters that `make` makes, computed where they will lie."""
        state, frozen = jax.eval_shape(make)
        return jax.jit(make, out_shardings=(self._shardings(state), self.params_shardings(frozen)))()

    def replicated(self, make: Callable[[], Any]) -> Callable[[], Any]:
        """`make`, compiled so that every device holds its result."""
        return jax.jit(make, out_shardings=NamedSharding(self.mesh, REPLICATED))

    def lay(self, params: Params) -> Any:
        """Parameters, the same in every process, laid as the state has them."""
        return jax.device_put(params, self.params_shardings(params))

    def local(self, params: Params) -> Any:
        """Parameters of the state, as whole arrays of this process's first device. All processes call it together."""
        if self.mode == "fsdp":
            params = jax.jit(_same, out_shardings=NamedSharding(self.mesh, REPLICATED))(params)
        return jax.tree.map(lambda array: array.addressable_data(0), params)

    @property
    def local_devices(self) -> list[jax.Device]:
        """The devices of this run that belong to this process."""
        return [device for device in self.devices if device.process_index == jax.process_index()]

    def whole_position(self, position: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The data position of all rows, from that of this process's."""
        if self.processes == 1:
            return position
        return {name: np.asarray(v) for name, v in multihost_utils.process_allgather(position, tiled=True).items()}

    def compile(self, step: TrainingStep) -> CompiledStep:
        """The step over all devices: (state as `enter` gives it, frozen parameters, batch as `put` gives it) -> state.

        The state given is donated: use the one that comes back.
        """
        if self.mode == "fsdp":
            return self._compile_fsdp(step)
        collectives = Collectives(psum=_psum)

        def one(state: State, frozen: Params, batch: Any) -> State:
            return step(state, frozen, batch, collectives)

        if self.mode == "pmap":
            axes = State._make(None if spec == REPLICATED else 0 for spec in LAYOUT)
            return jax.pmap(one, AXIS, in_axes=(axes, None, 0), out_axes=axes, devices=self.devices, donate_argnums=0)
        # check_vma would turn the gradient of a replicated parameter into a reduction of its own, once a use.
        specs = (LAYOUT, REPLICATED, SHARDED_ROWS)
        mapped = jax.shard_map(one, mesh=self.mesh, in_specs=specs, out_specs=LAYOUT, check_vma=False)
        return jax.jit(mapped, donate_argnums=0)

    def _compile_fsdp(self, step: TrainingStep) -> CompiledStep:
        """Gradients within `shard_map`, the update (norms, trust ratios) outside it, by its shardings alone."""

        def gradient_output(state: State, frozen: Params, batch: Any) -> GradientOutput:
            specs = jax.tree.map(self._spec, state.params)
            frozen_specs = jax.tree.map(self._spec, frozen)
            all_specs = merge_params(specs, frozen_specs)
            collectives = Collectives(
                psum=_psum,
                view=lambda shards, others: GatheredParams.of(merge_params(shards, others), all_specs, AXIS),
                sum_gradients=lambda gradients: sum_gradients(gradients, specs, AXIS),
            )
            mapped = jax.shard_map(
                partial(step.gradient_output, collectives=collectives),
                mesh=self.mesh,
                in_specs=(specs, frozen_specs, SHARDED_ROWS, SHARDED_ROWS, REPLICATED),
                out_specs=GradientOutput._make((specs, REPLICATED, REPLICATED, SHARDED_ROWS)),
                check_vma=False,
            )
            return mapped(state.params, frozen, batch, state.carry, step.key(state))

        def one(state: State, frozen: Params, batch: Any) -> State:
            after = step.update(state, gradient_output(state, frozen, batch))
            return jax.lax.with_sharding_constraint(after, self._shardings(after))

        return jax.jit(one, donate_argnums=0)

    def put(self, arrays: Any) -> Any:
        """This process's rows of a batch, on their way to the devices."""
        if self.mode == "pmap":
            count = len(self.devices)
            return jax.tree.map(lambda array: array.reshape(count, -1, *array.shape[1:]), arrays)
        rows = NamedSharding(self.mesh, SHARDED_ROWS)
        return jax.tree.map(lambda array: jax.make_array_from_process_local_data(rows, array), arrays)

    def enter(self, state: State) -> State:
        """The logical state in the form the compiled step takes: under pmap, rows as [devices, rows of each, ...]."""
        return state._replace(carry=jax.tree.map(self._divide, state.carry)) if self.mode == "pmap" else state

    def leave(self, state: State) -> State:
        """The logical state again."""
        return state._replace(carry=jax.tree.map(self._join, state.carry)) if self.mode == "pmap" else state

    def _divide(self, array: jax.Array) -> jax.Array:
        shape = (len(self.devices), array.shape[0] // len(self.devices), *array.shape[1:])
        pieces = [shard.data[None] for shard in array.addressable_shards]
        return jax.make_array_from_single_device_arrays(shape, NamedSharding(self.mesh, SHARDED_ROWS), pieces)

    def _join(self, array: jax.Array) -> jax.Array:
        shape = (array.shape[0] * array.shape[1], *array.shape[2:])
        pieces = [shard.data[0] for shard in array.addressable_shards]
        return jax.make_array_from_single_device_arrays(shape, NamedSharding(self.mesh, SHARDED_ROWS), pieces)


def _same(tree: Any) -> Any:
    """A function of its own, which `jit` knows again."""
    return tree


def _psum(tree: Any) -> Any:
    return jax.lax.psum(tree, AXIS)
