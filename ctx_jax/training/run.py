"""One call from a configuration to a trained run directory: opened, compared with what it holds, trained on."""

import errno
import fcntl
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from ctx_jax.checkpoints import run_files
from ctx_jax.checkpoints.run_files import CONFIG
from ctx_jax.checkpoints.runs import RunCheckpoints
from ctx_jax.distributed.processes import check_disk, check_same, on_first_process, stop_together
from ctx_jax.io import configs
from ctx_jax.io.build_once import locked
from ctx_jax.io.errors import DiskError, ExistingFileError, InputError, RunError
from ctx_jax.tasks.opening import complete, files_of, open_task
from ctx_jax.training.config import TrainConfig, check_config, check_resume
from ctx_jax.training.devices import (
    agreed_step,
    first_host_first,
    fix_kernels,
    is_first_host,
    join_hosts,
    kernels_folder,
)
from ctx_jax.training.loop import train
from ctx_jax.training.metrics import print_line
from ctx_jax.training.task import Task

_MORE = "More steps need --steps, another run --run-dir"


def run(config: TrainConfig) -> bool:
    """Train `config` in `config.run_dir`, from where the last complete checkpoint left it, to `config.steps`.

    True when the last step is done (also where it was done before), False when SIGTERM or Ctrl-C stopped it, saved.
    A run that was stopped before its first checkpoint begins anew.

    Raises ValueError for settings that do not fit each other, the machine or the run begun in the directory,
    RuntimeError while another process trains there or when another process of the job has stopped, OSError for a
    directory or disk that cannot be written to or that the job's processes do not share, `loop.NonFinite` for a
    diverged run, and what data and checkpoints raise.
    """
    if not config.run_dir:
        raise InputError("a run needs a directory: set --run-dir")
    run_dir = Path(config.run_dir)
    if run_dir.is_file():
        raise ExistingFileError(f"--run-dir {config.run_dir} is a file: a run needs a directory")
    fix_kernels(config.devices, run_dir)
    join_hosts(config.devices)
    say: Callable[[str], None] = print_line if is_first_host() else _quiet
    with ExitStack() as stack:
        stack.enter_context(_naming_flags())
        with stop_together():
            check_same(config)
            check_config(config)  # a process that refused its settings before it joined would leave the others waiting
            stack.enter_context(_alone(run_dir))
            check_disk(run_dir)
            if config.devices.deterministic:
                kernels_folder(run_dir).mkdir(exist_ok=True)
            folder = run_dir / "checkpoints"
            checkpoints = stack.enter_context(RunCheckpoints(folder, keep=config.checkpoint.keep, clean=True))
            opened = _open(config, run_dir, checkpoints, say)
        if opened is None:
            return True
        config, task, files = opened
        return train(config, task, checkpoints, say, begin=lambda: _write(run_dir / CONFIG, config), files=files)


def _open(
    config: TrainConfig, run_dir: Path, checkpoints: RunCheckpoints, say: Callable[[str], None]
) -> tuple[TrainConfig, Task, dict[str, str]] | None:
    """The completed config, the task, and the files that each checkpoint keeps; None where all steps are done."""
    latest = agreed_step(checkpoints.latest())
    # Read also where nothing was trained yet: somebody else's config.json is not written over.
    if latest is not None or (run_dir / CONFIG).is_file():
        old = configs.read(run_files.existing(run_dir, CONFIG), TrainConfig)
    if latest is not None:
        config = replace(config, model=complete(config, old))
        check_resume(old, config, configs.differences(old, config))
        if latest >= config.steps:
            say(f"resumed from step {latest}\nnothing to train: all {config.steps} steps are done. {_MORE}")
            return None
    task = first_host_first(lambda: open_task(config, run_dir, say, resumed=latest is not None))
    config = replace(config, model=task.model)
    say(f"{type(config.model).__name__} in {run_dir}, {config.steps} steps")
    return config, task, {CONFIG: configs.text(config)} | run_files.read(run_dir, files_of(task.model, run_dir))


@contextmanager
def _naming_flags() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if full and error.filename not in (None, tempfile.gettempdir()):  # for which TMPDIR is named already
            where = f"{error.strerror}, or set another --run-dir (for the text alone, --data.cache)"
            raise OSError(error.errno, where, error.filename) from error
        raise


@contextmanager
def _alone(run_dir: Path) -> Iterator[None]:
    """RuntimeError while another process trains in the directory: each would remove what the other has not finished."""
    with ExitStack() as stack:

        def lock() -> None:  # by the first host, which speaks for the job
            try:
                run_dir.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(run_dir / ".lock", fcntl.LOCK_EX | fcntl.LOCK_NB))
                run_files.remove_leftovers(run_dir)
            except BlockingIOError:
                raise RunError(
                    f"another process is training in {run_dir}: wait until it ends, or set another --run-dir"
                ) from None
            except OSError as error:
                reason = f"{run_dir} cannot be written to or locked ({error.strerror})"
                raise DiskError(f"a run needs a directory of its own, and {reason}: set another --run-dir") from None

        on_first_process(lock)
        yield


def _write(path: Path, config: TrainConfig) -> None:
    if is_first_host():
        configs.write(path, config)


def _quiet(text: str) -> None:
    """On the other hosts nothing is printed."""
