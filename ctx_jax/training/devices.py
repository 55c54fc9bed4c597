"""The devices of a run: how its state and batches are sharded, and the compiled step in each mode.

Rows of batch and carry are sharded over the devices. Parameters and optimizer state are replicated (modes shard and
pmap), or sharded (fsdp): then each device gathers a layer's parameters where it uses them and keeps its shard of the
gradient, and the update runs on shards. Outside the step the state is *logical* in every mode: one array a leaf, as on
a single device. Checkpoints hold the logical state, so a run can move between modes and numbers of devices.
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
from ctx_jax.training.step import Collectives, GradientOutput, State, TrainingStep, identity
from ctx_jax.typing import Params

LAYOUT = State._make(SHARDED_ROWS if part == "carry" else REPLICATED for part in State._fields)
"""How the state is sharded in the modes shard and pmap."""
SHARDED = ("params", "average", "optimizer")
"""The parts of the state that fsdp shards, besides frozen parameters."""

KERNELS = "autotune"
"""The folder of a run for XLA's choices of kernels; it must exist before the first program is compiled."""

CompiledStep = Callable[[State, Params, Any], State]


def fix_kernels(config: DevicesConfig, run_dir: Path) -> None:
    """If `config.deterministic`, ask XLA for deterministic operations. Call it before anything else uses jax.

    XLA times several kernels and takes the fastest, which may differ at the next start, so its choices are recorded.
    The flags stay in XLA_FLAGS of this process after the run; XLA reads them once, before its first use.
    """
    if config.deterministic:
        choices = (run_dir / KERNELS).absolute()
        quote = '"' if "'" in str(choices) else "'"  # unquoted, XLA would cut the path at its first space
        flags = [
            "--xla_gpu_deterministic_ops=true",
            f"--xla_gpu_per_fusion_autotune_cache_dir={quote}{choices}{quote}",
        ]
        given = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = " ".join([given, *(flag for flag in flags if flag not in given)]).strip()


class Devices:
    """The devices of a run, and how arrays are sharded over them."""

    def __init__(self, config: DevicesConfig, batch_size: int, available: Sequence[jax.Device] | None = None) -> None:
        """`batch_size`: rows over all devices; `available`: devices instead of `jax.devices()`, such as those of a
        machine that the step is compiled for but does not run on. ConfigError if the rows do not divide."""
        # Sorted by process, so that a process's rows are on its own devices; jax's meshes may reorder them.
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
        """How an array of parameters, average or optimizer is sharded."""
        return fsdp_spec(leaf.shape, len(self.devices)) if self.mode == "fsdp" else REPLICATED

    def _sharding(self, part: str, leaf: Any) -> NamedSharding:
        if part == "carry":
            return NamedSharding(self.mesh, SHARDED_ROWS)
        return NamedSharding(self.mesh, self._spec(leaf) if part in SHARDED else REPLICATED)

    def _shardings(self, state: State) -> State:
        parts = zip(State._fields, state, strict=True)
        return State(*(jax.tree.map(partial(self._sharding, name), part) for name, part in parts))

    def params_shardings(self, params: Params) -> Any:
        """How parameters, trainable or frozen, are sharded."""
        return jax.tree.map(partial(self._sharding, "params"), params)

    def abstract(self, make: Callable[[], tuple[State, Params]]) -> tuple[State, Params]:
        """The shapes, types and shardings of the logical state and frozen parameters that `make` returns."""
        state, frozen = jax.eval_shape(make)
        shardings = (self._shardings(state), self.params_shardings(frozen))

        def leaf(shape: Any, sharding: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

        return jax.tree.map(leaf, (state, frozen), shardings)

    def create(self, make: Callable[[], tuple[State, Params]]) -> tuple[State, Params]:
        """The logical state and frozen parameters that `make` returns, computed directly as shards."""
        state, frozen = jax.eval_shape(make)
        return jax.jit(make, out_shardings=(self._shardings(state), self.params_shardings(frozen)))()

    def replicated(self, make: Callable[[], Any]) -> Callable[[], Any]:
        """`make`, compiled so that every device holds its result."""
        return jax.jit(make, out_shardings=NamedSharding(self.mesh, REPLICATED))

    def shard(self, params: Params) -> Any:
        """Put parameters, which every process holds whole, on the devices as the state's are."""
        return jax.device_put(params, self.params_shardings(params))

    def local(self, params: Params) -> Any:
        """Parameters of the state as whole arrays on this process's first device. All processes must call it."""
        if self.mode == "fsdp":
            params = jax.jit(identity, out_shardings=NamedSharding(self.mesh, REPLICATED))(params)
        return jax.tree.map(lambda array: array.addressable_data(0), params)

    @property
    def local_devices(self) -> list[jax.Device]:
        """The devices of this run that belong to this process."""
        return [device for device in self.devices if device.process_index == jax.process_index()]

    def whole_position(self, position: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The data position of all rows, gathered from every process's own rows."""
        if self.processes == 1:
            return position
        return {name: np.asarray(v) for name, v in multihost_utils.process_allgather(position, tiled=True).items()}

    def compile(self, step: TrainingStep) -> CompiledStep:
        """The step over all devices: (state from `enter`, frozen parameters, batch from `put`) -> state.

        The state passed in is donated and must not be used again.
        """
        if self.mode == "fsdp":
            return self._compile_fsdp(step)
        collectives = Collectives(psum=_psum, gather=_gather)

        def one(state: State, frozen: Params, batch: Any) -> State:
            return step(state, frozen, batch, collectives)

        if self.mode == "pmap":
            axes = State._make(None if spec == REPLICATED else 0 for spec in LAYOUT)
            return jax.pmap(one, AXIS, in_axes=(axes, None, 0), out_axes=axes, devices=self.devices, donate_argnums=0)
        # With check_vma jax would add one reduction per use of a replicated parameter to its gradient.
        specs = (LAYOUT, REPLICATED, SHARDED_ROWS)
        mapped = jax.shard_map(one, mesh=self.mesh, in_specs=specs, out_specs=LAYOUT, check_vma=False)
        return jax.jit(mapped, donate_argnums=0)

    def _compile_fsdp(self, step: TrainingStep) -> CompiledStep:
        """Gradients within `shard_map`; the update, whose norms are of whole arrays, outside it under `jit`."""

        def gradient_output(state: State, frozen: Params, batch: Any) -> GradientOutput:
            specs = jax.tree.map(self._spec, state.params)
            frozen_specs = jax.tree.map(self._spec, frozen)
            all_specs = merge_params(specs, frozen_specs)
            collectives = Collectives(
                psum=_psum,
                view=lambda shards, others: GatheredParams.of(merge_params(shards, others), all_specs, AXIS),
                sum_gradients=lambda gradients: sum_gradients(gradients, specs, AXIS),
                gather=_gather,
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
        """Send this process's rows of a batch to the devices."""
        if self.mode == "pmap":
            count = len(self.devices)
            return jax.tree.map(lambda array: array.reshape(count, -1, *array.shape[1:]), arrays)
        rows = NamedSharding(self.mesh, SHARDED_ROWS)
        return jax.tree.map(lambda array: jax.make_array_from_process_local_data(rows, array), arrays)

    def enter(self, state: State) -> State:
        """The logical state in the form of the compiled step: under pmap, rows as [devices, rows of each, ...]."""
        return state._replace(carry=jax.tree.map(self._divide, state.carry)) if self.mode == "pmap" else state

    def leave(self, state: State) -> State:
        """The inverse of `enter`."""
        return state._replace(carry=jax.tree.map(self._join, state.carry)) if self.mode == "pmap" else state

    def _divide(self, array: jax.Array) -> jax.Array:
        count = len(self.devices)
        shape = (count, array.shape[0] // count, *array.shape[1:])
        return self._from_shards(shape, [shard.data[None] for shard in array.addressable_shards])

    def _join(self, array: jax.Array) -> jax.Array:
        shape = (array.shape[0] * array.shape[1], *array.shape[2:])
        return self._from_shards(shape, [shard.data[0] for shard in array.addressable_shards])

    def _from_shards(self, shape: tuple[int, ...], shards: list[jax.Array]) -> jax.Array:
        return jax.make_array_from_single_device_arrays(shape, NamedSharding(self.mesh, SHARDED_ROWS), shards)


def _psum(tree: Any) -> Any:
    return jax.lax.psum(tree, AXIS)


def _gather(tree: Any) -> Any:
    return jax.tree.map(lambda array: jax.lax.all_gather(array, AXIS, axis=0, tiled=True), tree)
