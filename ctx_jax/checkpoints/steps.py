"""Numbered steps in a folder: saved with Orbax in the background, complete with their digests, verified when read."""

import logging
import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp

from ctx_jax.checkpoints import digests
from ctx_jax.checkpoints.orbax_manager import SAVE_SECONDS, STATE, drop_orbax_log, open_manager, without_orbax_log
from ctx_jax.distributed.processes import barrier, on_first_process, stop_together
from ctx_jax.io.errors import CtxJaxError, InputError, MissingFileError, RunError
from ctx_jax.io.files import is_same, leftovers

NAME = re.compile(r"(?P<step>0|[1-9]\d*)((?P<temporary>\.orbax-checkpoint-tmp.*)|\.sha256(\.\d+)?\.json)?")

LOGGER = logging.getLogger("ctx_jax")


class StepFolder:
    """The steps of one folder.

    `writable`: for all processes of a job together, on one shared folder. What a killed process left unfinished is
    removed, and all of them construct it, save, restore, wait and close together:
    - every process writes the shards it holds, then hashes the files it wrote into its own digest file;
    - process 0 also writes the JSON entries, which must be the same everywhere, and, after all others, the digest file
      that completes the step. It alone cleans;
    - process 0 verifies all digests before any process restores; damage stops all of them, and none hangs.

    Otherwise it only reads, changes nothing on disk, and belongs to one process alone: in a job of several each may
    open, restore and close it at any time.

    A context manager: leaving it waits for the save in flight. A process that ends without `close` loses that save and
    no other, since Python stops Orbax's thread pools first.
    """

    def __init__(self, folder: str | Path, *, writable: bool) -> None:
        self.folder = Path(folder).absolute()
        self.writable = writable
        self._finishing: threading.Thread | None = None
        self._failure: RunError | None = None  # of the save in flight
        self._save_failed = False  # then Orbax raises again when it is closed, and leaves partial files
        with ExitStack() as opened:  # closes what is open already if the rest fails
            opened.enter_context(without_orbax_log())
            if writable:  # before any process lists the folder
                on_first_process(lambda: _clean(self.folder))
            else:
                _warn_of_incomplete(self.folder, "left out")
            self._manager = open_manager(self.folder, writable=writable)
            opened.callback(self._close_manager)
            self._stat = self.folder.stat() if writable else None
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with suppress(Exception) if error is not None else nullcontext():  # the first error is the one to raise
            self.close()

    def save_items(self, step: int, items: Mapping[str, Any]) -> None:
        """Save Orbax's arguments by entry in the background; returns when the arrays are copied.

        Waits for the save before it, and raises its error. A step that exists is left as it is. RunError if the folder
        was removed: Orbax would make it again, without the run's other files.
        """
        if not self.writable:
            raise InputError(f"{self.folder} was opened for reading: open it with clean=True to save")
        self.wait()
        on_first_process(self._check_folder)
        if step in self._manager.all_steps():
            return
        try:
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)
        except (OSError, ValueError) as error:
            raise self._save_error(step, error) from error
        self._finishing = threading.Thread(target=self._finish, args=(step,))
        self._finishing.start()

    def _check_folder(self) -> None:
        if self._stat is None or not is_same(self.folder, self._stat):
            raise RunError(f"{self.folder} was removed or replaced while the run wrote to it: nothing more is saved")

    def _finish(self, step: int) -> None:
        try:
            self._manager.wait_until_finished()
            process, processes = jax.process_index(), jax.process_count()
            if process != 0:
                digests.write(self.path(step), process=process, processes=processes)
            barrier(f"digests_{self.folder.name}_{step}", seconds=SAVE_SECONDS)
            if process == 0:
                digests.write(self.path(step), process=process, processes=processes)
                self._on_complete()
            barrier(f"complete_{self.folder.name}_{step}", seconds=SAVE_SECONDS)  # then all see the same steps
        except BaseException as error:  # raised again by `wait`, in the main thread and maybe much later
            self._failure = self._save_error(step, error)
            self._failure.__cause__ = error
            LOGGER.warning("%s", self._failure)

    def _on_complete(self) -> None:
        """Called in the background on process 0 when a step is complete."""

    def wait(self) -> None:
        """Wait until the save in flight is complete, digests included; RunError if it failed."""
        if self._finishing is None:
            return
        self._finishing.join()
        failure, self._finishing, self._failure = self._failure, None, None
        if failure is not None:
            raise failure

    def _save_error(self, step: int, failure: BaseException) -> RunError:
        self._save_failed = True
        last = self.latest()
        complete = "no step is complete" if last is None else f"the last complete step is {last}"
        return RunError(
            f"checkpoint-{step} could not be written to {self.folder}: {str(failure).rstrip('.')}. Check space and "
            f"permissions there, or move the run to another disk and set run_dir; {complete}"
        )

    def close(self) -> None:
        """Wait for the save in flight and release Orbax's threads."""
        try:
            self.wait()
        finally:
            self._opened.close()

    def _close_manager(self) -> None:
        if not self._save_failed:
            self._manager.close()
            return
        drop_orbax_log()
        with suppress(Exception):  # `wait` has raised it
            self._manager.close()
        if jax.process_index() == 0:
            with suppress(OSError):
                _clean(self.folder)

    def path(self, step: int) -> Path:
        """The folder of a step."""
        return self.folder / str(step)

    def steps(self) -> list[int]:
        """The complete steps that the folder holds now, ascending."""
        if not self.folder.is_dir():
            return []
        folders = (path for path in self.folder.iterdir() if path.name.isdecimal())
        return sorted(int(path.name) for path in folders if digests.is_complete(path))

    def latest(self) -> int | None:
        """The last complete step; None if there is none."""
        return max(self.steps(), default=None)

    def tree(self, step: int) -> dict[str, Any]:
        """The stored state's nested dict, with shapes and dtypes as leaves."""
        with _naming(self.path(step) / STATE / "_METADATA"):
            tree = self._manager.item_metadata(step)[STATE].tree
            for leaf in named_leaves(tree).values():
                if not all(type(length) is int and length >= 0 for length in leaf.shape) or leaf.dtype is None:
                    raise ValueError(f"an array of shape {leaf.shape} and type {leaf.dtype}")
            return dict(tree)

    def restore_items(self, step: int, items: Mapping[str, Any]) -> Any:
        """Entries of a step by Orbax's arguments; the caller has verified the step."""
        with _naming(self.path(step) / STATE):
            return self._manager.restore(step, args=ocp.args.Composite(**items))

    def sharded(self, step: int, abstract: Any) -> ocp.args.PyTreeRestore:
        """Orbax's argument to restore a state like `abstract`; InputError if the stored one differs from it."""
        bare = [name for name, leaf in named_leaves(abstract).items() if getattr(leaf, "sharding", None) is None]
        if bare:
            raise InputError(f"the abstract state needs a sharding on every array; {', '.join(bare)} have none")
        with self.stopping_together():
            check_arrays(named_leaves(abstract), named_leaves(self.tree(step)), self.path(step))
        return ocp.args.PyTreeRestore(item=abstract, restore_args=ocp.checkpoint_utils.construct_restore_args(abstract))

    def stopping_together(self) -> AbstractContextManager[None]:
        """If all processes are here, an error of one stops the others before their devices wait for each other."""
        return stop_together() if self.writable else nullcontext()

    def verify(self, step: int) -> None:
        """Check a step's digests. MissingFileError if it is not complete; InputError naming the damaged file."""
        self.wait()
        if self.writable:  # process 0 reads the files for all
            on_first_process(lambda: self._verify(step))
        else:
            self._verify(step)

    def _verify(self, step: int) -> None:
        self._need(step)
        try:
            digests.verify(self.path(step))
        except digests.DamagedFile as damage:
            self._need(step)  # training may have removed it
            raise InputError(f"step {step} is damaged: {damage}. {self._remedy(step)}") from damage

    def _need(self, step: int) -> None:
        steps = self.steps()
        if step not in steps:
            raise MissingFileError(f"{self.folder} needs a complete step {step}; it has {listed(steps)}")

    def _remedy(self, step: int) -> str:
        """What to do about a damaged step."""
        return f"Copy {self.path(step)} from a backup"


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file or folder `path` in errors of Orbax, which has as many kinds as there are kinds of damage."""
    try:
        yield
    except (CtxJaxError, MemoryError, jax.errors.JaxRuntimeError):  # the last is of the devices
        raise
    except Exception as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__}: {error!s:.500})") from error


def unsharded(tree: Any) -> ocp.args.PyTreeRestore:
    """Orbax's argument to restore a part of a stored `StepFolder.tree` as numpy arrays."""
    # Not with the stored sharding: the devices it names may not exist here.
    restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    return ocp.args.PyTreeRestore(item=tree, restore_args=restore_args, partial_restore=True)


def named_leaves(tree: Any) -> dict[str, Any]:
    """{"params.cnn.w": leaf}, the same for a NamedTuple and for the dict Orbax stores it as."""
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def check_arrays(wanted: dict[str, Any], stored: dict[str, Any], path: Path) -> None:
    """InputError naming every array that `path` lacks, has in excess, or holds with another shape or dtype."""
    problems = [f"missing there: {name}" for name in wanted if name not in stored]
    problems += [f"only there: {name}" for name in stored if name not in wanted]
    for name in (name for name in wanted if name in stored):
        want, have = ((tuple(leaf.shape), np.dtype(leaf.dtype).name) for leaf in (wanted[name], stored[name]))
        if want != have:
            problems.append(f"{name}: needs {want[1]} {list(want[0])}, has {have[1]} {list(have[0])}")
    if problems:
        raise InputError("\n  ".join([f"{path} holds other arrays than this run's config makes:", *problems]))


def remove_step(path: Path) -> None:
    """Remove a step's folder and its digests."""
    digests.remove(path)  # first: killed in between, the step is incomplete, and not damaged
    if path.exists():
        shutil.rmtree(path)


def listed(steps: list[int]) -> str:
    """`1, 2`, or `none`."""
    return ", ".join(map(str, steps)) or "none"


def _warn_of_incomplete(folder: Path, what: str) -> None:
    """Log the steps without a digest file: a save that is going on or was killed, or a lost file."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name.isdecimal() and not digests.is_complete(path):
            LOGGER.warning("incomplete step %s is %s: there is no %s", path.name, what, digests.path_of(path))


def _clean(folder: Path) -> None:
    """Remove what a killed run left: steps without digests, digests without a step, temporary folders and files."""
    _warn_of_incomplete(folder, "removed")
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = NAME.fullmatch(path.name)
        if match is None or (digests.is_complete(folder / match["step"]) and match["temporary"] is None):
            continue
        if path.is_dir():
            remove_step(path)
        else:
            path.unlink(missing_ok=True)
    for path in (*leftovers(folder, "*.sha256*.json"), *folder.glob(".probe-*")):
        path.unlink()
