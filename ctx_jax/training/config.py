"""The settings of a run that every task has: frozen dataclasses, whose field names become flags."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from tyro.conf import AvoidSubcommands, arg

from ctx_jax.checkpoints.run_files import is_free
from ctx_jax.io.errors import ConfigError
from ctx_jax.training.optimizer import Adagrad, AdamW, Lamb, Muon


@dataclass(frozen=True)
class DevicesConfig:
    """Where the step runs. These settings change results by rounding only."""

    mode: Literal["shard", "pmap", "fsdp"] = "shard"
    """`shard`: `jit(shard_map)` over all devices, with parameters and optimizer replicated. `pmap`: the same step under
    `jax.pmap`. `fsdp`: parameters, their average and the optimizer's state are sharded over the devices, for a model
    too large for one. It costs traffic: every pass of every micro-batch gathers each layer's parameters where they are
    used and reduces each layer's gradient separately. With `model.remat` a device holds one layer's gathered parameters
    at a time; without it, those of all layers until the backward pass. An evaluation gathers all parameters."""

    count: int = 0
    """How many of this machine's devices to use; 0: all of them."""

    micro_batches: int = 1
    """Each device splits its rows into this many parts and processes them in sequence, to save memory."""

    deterministic: Annotated[bool, arg(aliases=["--deterministic"])] = False
    """On GPUs: use only operations that give the same bits every time, and the same kernels when the run is resumed
    (recorded in `autotune/` of the run directory). Slower. CPUs are always deterministic. It has no effect in a program
    that used jax before it calls `run`; such a program sets XLA_FLAGS itself, as `devices.fix_kernels` does."""

    distributed: bool = False
    """Join the other processes of a job over many hosts (`jax.distributed`). Coordinator, process count and process
    number come from Slurm, Kubernetes or the TPU's environment, or from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES
    and JAX_PROCESS_ID."""


@dataclass(frozen=True)
class CheckpointConfig:
    """When the run is saved, and how much of it is kept."""

    every: int = 1000
    """Steps between checkpoints. The run is also saved at the end, when it is stopped, and whenever it is the best so
    far."""

    keep: int = 3
    """How many of the latest checkpoints to keep, besides the best one."""


@dataclass(frozen=True)
class LogConfig:
    """What is written during the run."""

    every: int = 50
    """Steps between lines of metrics.jsonl; a line holds the means over the steps since the previous line."""

    tensorboard: bool = False
    """Also write TensorBoard files to `tensorboard/` of the run directory (needs the `[tensorboard]` extra)."""


@dataclass(frozen=True)
class RunConfig:
    """One run of any task. `tasks.TrainConfig` restricts `task` to the tasks of the package."""

    task: Any
    """A `TaskConfig`."""
    optimizer: AvoidSubcommands[AdamW | Lamb | Muon | Adagrad] = field(default_factory=AdamW)
    devices: DevicesConfig = field(default_factory=DevicesConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)

    run_dir: str = ""
    """The run's directory; the same command with the same directory resumes it. Empty: runs/<name of the config>."""

    steps: int = 1000
    """Total training steps, including those before a resume. 0: as many as the number of epochs takes, where there
    is one (`classify`, `tag`, `pairs`)."""

    seed: int = 0
    """Seed of initial parameters, text order, dropout and sampling."""


def check_config(config: RunConfig) -> None:
    """ConfigError for settings out of range, or that the task refuses."""
    for name, value, least in (
        ("steps", config.steps, 0),
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
    """ConfigError if settings that must stay the same differ from those the run was started with.

    `differences` are (dotted field, old value, new value), from `io.configs.differences`. `steps` may grow if the
    learning rate does not depend on it: under a constant schedule whose warm-up is no share of the steps.
    """
    scheduled = new.optimizer.schedule != "constant" or 0 < new.optimizer.warmup < 1
    more_steps = not scheduled and new.steps > old.steps
    refused = [
        (name.removeprefix("task."), before, after)
        for name, before, after in differences
        if not is_free(name) and not (name == "steps" and more_steps)
    ]
    if refused:
        listed = "\n".join(
            f"  {name}: the run has {before!r}, this command {after!r}" for name, before, after in refused
        )
        raise ConfigError(
            refused[0][0],
            f"differs from the settings this run was started with:\n{listed}\nRepeat the original command, or choose "
            "another run_dir. Only devices, log, checkpoint and evaluate settings may change, and steps may grow if "
            "the schedule is constant and optimizer.warmup is 0 or a number of steps, not a share of them",
        )
