"""`run(config)`: open the run directory, compare the settings with those of an earlier start, and train."""

import errno
import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import jax

from ctx_jax.checkpoints import run_files
from ctx_jax.checkpoints.run_files import CONFIG, ENCODER, EncoderFile
from ctx_jax.checkpoints.runs import RunCheckpoints
from ctx_jax.distributed import processes
from ctx_jax.distributed.processes import is_first_process, on_first_process, stop_together
from ctx_jax.distributed.watch import ending_others, watching
from ctx_jax.io import configs
from ctx_jax.io.allocator import keep_freed_memory, share_one_arena
from ctx_jax.io.build_once import locked
from ctx_jax.io.errors import ConfigError, DiskError, RunError, listed
from ctx_jax.io.files import atomic_write
from ctx_jax.training.config import RunConfig, check_config, check_resume
from ctx_jax.training.devices import KERNELS, fix_kernels
from ctx_jax.training.loop import train
from ctx_jax.training.metrics import print_line
from ctx_jax.training.task import Task, TaskContext
from ctx_jax.typing import Log


def run(config: RunConfig) -> bool:
    """Train `config` in `config.run_dir` from its latest complete checkpoint, if any, to `config.steps`.

    True when the last step is done (also if it was done before), False if SIGTERM or Ctrl-C stopped the run, which is
    saved. A run that was stopped before its first checkpoint starts again.

    Raises:
      ConfigError: settings that do not fit each other, the machine or the run in the directory.
      RunError: another process trains in the directory, another process of the job has stopped, or the directory was
        removed.
      OSError: a directory or disk that cannot be written to, or that the job's processes do not share.
      loop.NonFinite: a diverged run.
    """
    if not config.run_dir:
        raise ConfigError("run_dir", "is needed: name a directory for the run")
    run_dir = Path(config.run_dir)
    if run_dir.is_file():
        raise ConfigError("run_dir", f"needs a directory, and {config.run_dir} is a file")
    if names := run_files.runs_below(run_dir):
        raise ConfigError("run_dir", f"{run_dir} holds several runs, {listed(names)}: name another directory, or one")
    share_one_arena()  # before jax starts threads
    fix_kernels(config.devices, run_dir)
    if config.devices.distributed:
        processes.join()
    log: Log = print_line if is_first_process() else _ignore
    with ExitStack() as stack:
        stack.enter_context(_advising_full_disk())
        stack.enter_context(_naming_removed(run_dir))
        stack.enter_context(watching())
        with stop_together():
            processes.check_same(config)
            check_config(config)  # after joining: a process that stopped before would leave the others waiting
            if jax.default_backend() == "cpu":
                keep_freed_memory()
            else:
                share_one_arena(False)
            stack.enter_context(locked_directory(run_dir))
            processes.check_disk(run_dir)
            if config.devices.deterministic:
                (run_dir / KERNELS).mkdir(exist_ok=True)
            folder = run_dir / "checkpoints"
            checkpoints = stack.enter_context(RunCheckpoints(folder, keep=config.checkpoint.keep, clean=True))
            opened = _open(config, run_dir, checkpoints, log)
        if opened is None:
            return True
        config, task, files = opened

        def on_start() -> None:
            if is_first_process():
                for name in (CONFIG, ENCODER):
                    atomic_write(run_dir / name, files[name])

        with ending_others():
            return train(config, task, checkpoints, log, on_start=on_start, files=files)


def _open(
    config: RunConfig, run_dir: Path, checkpoints: RunCheckpoints, log: Log
) -> tuple[RunConfig, Task, dict[str, str]] | None:
    """The completed config, the task, and the files that each checkpoint keeps; None if all steps are done."""
    latest = processes.broadcast(checkpoints.latest())
    # Read even without a checkpoint, so that another program's config.json is refused and not overwritten.
    if latest is not None or (run_dir / CONFIG).is_file():
        old = configs.read(run_files.existing(run_dir, CONFIG), type(config))
    if latest is not None:
        checkpoints.check_files(latest)  # before anything is read from them
        if type(old.task) is type(config.task):
            config = replace(config, task=config.task.merged(old.task), steps=config.steps or old.steps)
        check_resume(old, config, configs.differences(old, config))
        if latest >= config.steps:
            log(
                f"resumed from step {latest}\nnothing to train: all {config.steps} steps are done. "
                "For more steps set steps, for another run run_dir"
            )
            return None
    context = TaskContext(run_dir, config.seed, config.steps, latest is not None, log)
    task = processes.first_process_first(lambda: config.task.open(context))
    config = replace(config, task=task.config, steps=config.steps or task.default_steps)
    log(f"{type(task.model).__name__} in {run_dir}, {config.steps} steps")
    encoder = EncoderFile(task.model, dict(task.heads), task.processor.rule, task.processor.pieces, *task.origin)
    files = {CONFIG: configs.text(config), ENCODER: configs.text(encoder)}
    return config, task, files | run_files.read(run_dir, task.files)


@contextmanager
def _advising_full_disk() -> Iterator[None]:
    """Errors of a full disk say which setting names another one."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if full and error.filename not in (None, tempfile.gettempdir()):  # its error names TMPDIR already
            where = f"{error.strerror}, or set another run_dir (for the text alone, data.cache)"
            raise OSError(error.errno, where, error.filename) from error
        raise


@contextmanager
def _naming_removed(run_dir: Path) -> Iterator[None]:
    """Turn the error of a missing file into a RunError if the whole run directory has been removed."""
    try:
        yield
    except FileNotFoundError as error:
        if not run_dir.is_dir():
            raise RunError(f"{run_dir} was removed while the run used it ({error})") from error
        raise


@contextmanager
def locked_directory(run_dir: Path) -> Iterator[None]:
    """Make and lock the directory of a run, or of several; RunError while another process trains there, as each would
    remove the other's files."""
    with ExitStack() as stack:

        def lock() -> None:
            try:
                run_dir.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(run_dir / ".lock", fcntl.LOCK_EX | fcntl.LOCK_NB))
                run_files.remove_leftovers(run_dir)
            except BlockingIOError:
                raise RunError(
                    f"another process is training in {run_dir}: wait until it ends, or set another run_dir"
                ) from None
            except OSError as error:
                reason = f"{run_dir} cannot be written to or locked ({error.strerror})"
                raise DiskError(f"a run needs a directory of its own, and {reason}: set another run_dir") from None

        on_first_process(lock)  # for the whole job
        yield


def _ignore(line: str) -> None:
    """The log of all processes but the first."""
