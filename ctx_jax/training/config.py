"""The settings of a run that no task changes: frozen dataclasses, whose field names are the command line's flags."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from tyro.conf import AvoidSubcommands, arg

from ctx_jax.checkpoints.run_files import is_free
from ctx_jax.io.errors import ConfigError
from ctx_jax.training.optimizer import Adagrad, AdamW, Lamb, Muon


@dataclass(frozen=True)
class DevicesConfig:
    """Where the step runs. None of these changes what is computed, beyond rounding."""

    mode: Literal["shard", "pmap", "fsdp"] = "shard"
    """`shard`: `jit(shard_map)` over all devices, with parameters and optimizer replicated. `pmap`: the same step under
    `jax.pmap`. `fsdp`: parameters, their average and the optimizer's state are sharded over the devices, for a model
    that leaves too little memory on one. It costs traffic: in every pass of every micro-batch each layer's parameters
    are gathered where they are used, and each layer's gradient is reduced on its own. With `model.remat` a device
    holds one layer's parameters at a time, without it all that the forward pass has gathered. An evaluation gathers all
    parameters."""

    count: int = 0
    """How many of this machine's devices to use; 0: all of them."""

    micro_batches: int = 1
    """Parts in which each device takes its rows, one after the other, to save memory."""

    deterministic: Annotated[bool, arg(aliases=["--deterministic"])] = False
    """On GPUs: only operations that give the same bits every time, and the same choice of kernels when the run is
    resumed (kept in `autotune/` of the run directory). Slower. CPUs are deterministic anyway. A program that has used
    jax before it calls `run` is too late for this: it sets XLA_FLAGS itself, as `devices.fix_kernels` does."""

    distributed: bool = False
    """Join the other processes of a job over many hosts (`jax.distributed`): coordinator, process count and number
    come from Slurm, Kubernetes or the TPU's environment, or from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID."""


@dataclass(frozen=True)
class CheckpointConfig:
    """When the run is saved, and how much of it is kept."""

    every: int = 1000
    """Steps from one checkpoint to the next; one more at the end, where the run is told to stop, and wherever the
    validation loss is the lowest so far."""

    keep: int = 3
    """The latest checkpoints kept, beside the one with the lowest validation loss."""


@dataclass(frozen=True)
class LogConfig:
    """What is written during the run."""

    every: int = 50
    """Steps from one line of metrics.jsonl to the next; a line holds the means over the steps since the last."""

    tensorboard: bool = False
    """Write the same numbers for TensorBoard, to `tensorboard/` of the run directory (needs the `[tensorboard]`
    extra)."""


@dataclass(frozen=True)
class RunConfig:
    """One run of any task. `tasks.TrainConfig` is this with the tasks of the package to choose from."""

    task: Any
    """A `TaskConfig`."""
    optimizer: AvoidSubcommands[AdamW | Lamb | Muon | Adagrad] = field(default_factory=AdamW)
    devices: DevicesConfig = field(default_factory=DevicesConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)

    run_dir: str = ""
    """Where the run lives; the same command with the same directory resumes it. Empty: runs/<name of the config>."""

    steps: int = 1000
    """Batches to train on, counted from the first one; a run that has done them trains nothing."""

    seed: int = 0
    """Decides initial parameters, order of the text, dropout and sampling."""


def check_config(config: RunConfig) -> None:
    """ConfigError for settings that no run can follow."""
    for name, value, least in (
        ("steps", config.steps, 1),
        ("devices.count", config.devices.count, 0),
        ("devices.micro_batches", config.devices.micro_batches, 1),
        ("checkpoint.every", config.checkpoint.every, 1),
        ("checkpoint.keep", config.checkpoint.keep, 1),
        ("log.every", config.log.every, 1),
    ):
        if value < least:
            raise ConfigError(name, f"must be at least {least}, got {value}")
    if not 0 <= config.seed < 2**32:
        raise ConfigError("seed", f"must be between 0 and 2**32 - 1, got {config.seed}")
    config.task.check(config.steps)


def check_resume(old: RunConfig, new: RunConfig, differences: list[tuple[str, object, object]]) -> None:
    """ConfigError where a run would be resumed with other settings than it was begun with.

    `differences` are (dotted field, old value, new value), as `io.configs.differences` gives them. `steps` may grow
    where the learning rate does not depend on it.
    """
    refused = []
    for name, before, after in differences:
        if is_free(name):
            continue
        if name == "steps" and new.optimizer.schedule == "constant" and new.steps > old.steps:
            continue
        refused.append((name.removeprefix("task."), before, after))
    if refused:
        listed = "\n".join(
            f"  {name}: the run has {before!r}, this command {after!r}" for name, before, after in refused
        )
        raise ConfigError(
            refused[0][0],
            f"differs from what this run directory was begun with:\n{listed}\nRepeat the command it was begun with, or "
            "choose another run_dir. Only devices, log, checkpoint and evaluate settings may change, and steps may "
            "grow where the schedule is constant",
        )
