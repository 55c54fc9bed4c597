"""The checkpoints of a run: complete steps, saved while training goes on.

```
checkpoints/
  40/state/             Orbax: the state's arrays, each process's shards in `ocdbt.process_<i>`
  40/position/          where step 40 left the data, as JSON
  40/metrics/           as JSON, where the step has any
  40/files/             the run's config, vocabulary and so on, as JSON: {"config.json": text, ...} (`run_files`)
  40.sha256.json        digests, written last: a step without it is incomplete
```
"""

import math
import re
import shutil
import sys
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp

from ctx_jax.checkpoints import digests, run_files
from ctx_jax.checkpoints.forms import by_name, check_form
from ctx_jax.checkpoints.orbax_manager import (
    FILES,
    METRICS,
    POSITION,
    SAVE_SECONDS,
    STATE,
    drop_orbax_log,
    open_manager,
    without_orbax_log,
)
from ctx_jax.distributed.processes import on_first_host, stopping_all, wait_for_all
from ctx_jax.io.errors import InputError, MissingFileError, RunError
from ctx_jax.io.files import leftovers

NAME = re.compile(r"(?P<step>0|[1-9]\d*)((?P<temporary>\.orbax-checkpoint-tmp.*)|\.sha256(\.\d+)?\.json)?")


class RunCheckpoints:
    """The checkpoints in a run's `checkpoints/` folder: `save` while training, `restore` anywhere.

    Opened with `clean=True` it is for training: what a killed run left unfinished is removed, `save` works, and the
    last `keep` steps and the best one (lowest `metrics["loss"]`) are kept. Otherwise it only reads, changes nothing on
    disk, and belongs to one process alone: in a job of several each may open, restore and close it when it likes. A
    context manager: leaving it waits for the save in flight. A process that ends without `close` loses that save, and
    no other: Python stops the thread pools Orbax writes with before anything else.

    For training with several processes, all construct it with `clean=True`, save, restore, wait and close together, on
    one shared folder:
    - every process writes the shards it holds, then hashes the files it wrote into a digest file of its own;
    - process 0 also writes the position, the metrics and the files, which must be the same everywhere, and, after all
      the others, the digest file that makes the step complete; only then it removes steps no longer kept. It alone
      cleans;
    - process 0 verifies all digests before any restores; a step it finds damaged stops all of them, and none hangs.

    The state is logical: global arrays, unreplicated, whose top level has `params`. Metrics are Python floats.
    """

    def __init__(self, folder: str | Path, *, keep: int = 3, clean: bool = False) -> None:
        if keep < 1:
            raise InputError(f"keep must be at least 1, since a run resumes from its last checkpoint; got {keep}")
        self.folder = Path(folder).absolute()
        self.keep = keep
        self.writable = clean
        self._finishing: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._save_failed = False  # Orbax then says so again when it is closed, and leaves what it wrote
        with ExitStack() as opened:  # what is open already is closed where the rest fails
            opened.enter_context(without_orbax_log())
            if clean:  # and none lists the folder before
                on_first_host(lambda: _clean(self.folder))
            self._manager = open_manager(self.folder, writable=clean)
            opened.callback(self._close_manager)
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(Exception) if error is not None else nullcontext():  # what has gone wrong first counts
            self.close()

    def save(
        self,
        step: int,
        state: Any,
        position: dict[str, np.ndarray],
        metrics: dict[str, float] | None = None,
        files: Mapping[str, str] | None = None,
    ) -> None:
        """Save a step in the background; returns when the arrays are copied, so the caller may donate their buffers.

        files: texts of files of the run directory by name (`run_files.read`). Whoever restores the step is refused
        where the directory holds others.

        Waits for the save before it, and raises what went wrong with that one. A step already saved is left as it is.
        """
        if not self.writable:
            raise InputError(f"{self.folder} was opened for reading: open it with clean=True to save")
        self.wait()
        if step in self._manager.all_steps():
            return
        items: dict[str, Any] = {
            STATE: ocp.args.PyTreeSave(state),
            POSITION: ocp.args.JsonSave({name: _array_to_json(array) for name, array in position.items()}),
        }
        if metrics is not None:
            items[METRICS] = ocp.args.JsonSave({name: float(value) for name, value in metrics.items()})
        if files:
            items[FILES] = ocp.args.JsonSave(dict(files))
        name = f"checkpoint-{step}"
        try:
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)
        except (OSError, ValueError) as error:
            raise self._unwritten(name, error) from error
        self._finishing = threading.Thread(target=self._finish, args=(step,), name=name)
        self._finishing.start()

    def _finish(self, step: int) -> None:
        try:
            self._manager.wait_until_finished()
            process, processes = jax.process_index(), jax.process_count()
            if process != 0:
                digests.write(self._path(step), process=process, processes=processes)
            wait_for_all(f"digests_{step}", seconds=SAVE_SECONDS)
            if process == 0:
                digests.write(self._path(step), process=process, processes=processes)
                self._drop_old()
            wait_for_all(f"complete_{step}", seconds=SAVE_SECONDS)  # then all see the same steps
        except BaseException as error:  # raised again in the thread that trains, by `wait`, which may be much later
            self._failure = error
            with suppress(OSError):
                print(f"warning: {self._unwritten(f'checkpoint-{step}', error)}", file=sys.stderr, flush=True)

    def _drop_old(self) -> None:
        steps = self.steps()
        kept = {*steps[-self.keep :], self.best()}
        for step in steps:
            if step not in kept:
                try:
                    _remove(self._path(step))
                except OSError as error:  # the new step is whole all the same
                    with suppress(OSError):
                        print(f"warning: an old step could not be removed: {error}", file=sys.stderr, flush=True)

    def wait(self) -> None:
        """Wait until the save in flight is complete, digests and all; raises `RuntimeError` if it failed."""
        if self._finishing is None:
            return
        self._finishing.join()
        name, self._finishing = self._finishing.name, None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise self._unwritten(name, failure) from failure

    def _unwritten(self, name: str, failure: BaseException) -> RunError:
        self._save_failed = True
        last = self.latest()
        return RunError(
            f"{name} could not be written to {self.folder}: {str(failure).rstrip('.')}. See to space "
            "and permissions there, or move the run to another disk and name it with --run-dir; "
            + ("no step is complete" if last is None else f"the last complete step is {last}")
        )

    def close(self) -> None:
        """Wait for the save in flight and let Orbax's threads go."""
        try:
            self.wait()
        finally:
            self._opened.close()

    def _close_manager(self) -> None:
        if not self._save_failed:
            self._manager.close()
            return
        drop_orbax_log()
        with suppress(Exception):  # which `wait` has raised
            self._manager.close()
        if jax.process_index() == 0:
            with suppress(OSError):
                _clean(self.folder)

    def _path(self, step: int) -> Path:
        return self.folder / str(step)

    def steps(self) -> list[int]:
        """The complete steps, ascending, as the folder holds them now."""
        if not self.folder.is_dir():
            return []
        matches = (NAME.fullmatch(path.name) for path in self.folder.iterdir())
        found = {int(match["step"]) for match in matches if match is not None}
        return sorted(step for step in found if digests.is_complete(self._path(step)))

    def latest(self) -> int | None:
        """The last complete step; None if there is none."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """The complete step with the lowest finite `metrics["loss"]`, the later of equals.

        Where no step has one it is the last step; None if there is no step.
        """
        steps = self.steps()
        losses = [((self.metrics(step) or {}).get("loss", math.nan), -step) for step in steps]
        finite = [pair for pair in losses if math.isfinite(pair[0])]
        return -min(finite)[1] if finite else max(steps, default=None)

    def metrics(self, step: int) -> dict[str, float] | None:
        """The metrics a step was saved with; None if it has none, or they cannot be read."""
        try:
            return self._manager.metrics(step)
        except ValueError:
            return None

    def restore(self, step: int, abstract_state: Any) -> tuple[Any, dict[str, np.ndarray]]:
        """The state of a step, laid out as `abstract_state` asks, and where that step left the data.

        `abstract_state`: a pytree of `jax.ShapeDtypeStruct`, each with its sharding. The devices may be others, more
        or fewer than those it was saved from. Raises `FileNotFoundError` for a step that is not complete, and
        `ValueError` for a damaged one (naming the file, and the step before it that is whole), for a state of another
        form (naming all that is missing, extra or of another shape), and for a run directory whose files are not
        those the step was saved with (naming the file).
        """
        self._verify(step)
        bare = [name for name, leaf in by_name(abstract_state).items() if getattr(leaf, "sharding", None) is None]
        if bare:
            raise InputError(f"abstract_state needs a sharding on every array; {', '.join(bare)} have none")
        with self._all_stopping():
            check_form(by_name(abstract_state), by_name(self._metadata(step)), self._path(step))
        self._check_files(step)
        arguments = ocp.args.PyTreeRestore(
            item=abstract_state, restore_args=ocp.checkpoint_utils.construct_restore_args(abstract_state)
        )
        found = self._manager.restore(step, args=ocp.args.Composite(state=arguments, position=ocp.args.JsonRestore()))
        return found[STATE], {name: _array_from_json(entry) for name, entry in found[POSITION].items()}

    def restore_params(self, step: int, abstract_params: Any = None) -> Any:
        """The parameters of a step alone, as jax arrays on the default device of this process; where the run keeps
        their moving average, that.

        Reads neither optimizer state nor carry, and needs no model: names and shapes are the checkpoint's own, and
        must be those of `abstract_params` (as `jax.eval_shape` gives them) where it is given. Raises as `restore` does.
        """
        self._verify(step)
        metadata = self._metadata(step)
        if "params" not in metadata:
            raise InputError(f"{self._path(step)}: needs `params` at the top of the state, holds {', '.join(metadata)}")
        name = "average" if metadata.get("average") else "params"
        params = {name: metadata[name]}
        if abstract_params is not None:
            check_form(by_name({name: abstract_params}), by_name(params), self._path(step))
        self._check_files(step)
        arguments = ocp.args.PyTreeRestore(
            item=params,
            # numpy, not the sharding of old: the devices it names may not be here
            restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), params),
            partial_restore=True,
        )
        found = self._manager.restore(step, args=ocp.args.Composite(state=arguments))
        return jax.device_put(found[STATE][name])

    def _metadata(self, step: int) -> dict[str, Any]:
        return self._manager.item_metadata(step)[STATE].tree

    def _check_files(self, step: int) -> None:
        if (self._path(step) / FILES).is_dir():
            kept = self._manager.restore(step, args=ocp.args.Composite(files=ocp.args.JsonRestore()))[FILES]
            with self._all_stopping():
                run_files.check(self.folder.parent, kept, step)

    def _all_stopping(self) -> AbstractContextManager[None]:
        """Where all processes are here: what one of them refuses stops the others before devices meet."""
        return stopping_all() if self.writable else nullcontext()

    def _verify(self, step: int) -> None:
        self.wait()
        if self.writable:  # all processes are here, and one reads the files for them
            on_first_host(lambda: self._verify_alone(step))
        else:
            self._verify_alone(step)

    def _verify_alone(self, step: int) -> None:
        steps = self.steps()
        if step not in steps:
            raise MissingFileError(f"{self.folder} needs a complete step {step}; it has {_listed(steps)}")
        try:
            digests.verify(self._path(step))
        except digests.DamagedFile as damage:
            raise InputError(f"step {step} is damaged: {damage}. {self._offer(step, steps)}") from damage

    def _offer(self, damaged: int, steps: list[int]) -> str:
        for step in reversed([step for step in steps if step < damaged]):
            try:
                digests.verify(self._path(step))
            except digests.DamagedFile:
                continue
            return (
                f"Step {step} before it is whole: load it with step={step}, or train on from it after removing "
                f"{self._path(damaged)} and {digests.path_of(self._path(damaged))}"
            )
        return f"No whole step comes before it (complete: {_listed(steps)})"


def _clean(folder: Path) -> None:
    """Remove what a killed run left: steps without digests, digests without a step, temporary folders and files."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = NAME.fullmatch(path.name)
        if match is None or (digests.is_complete(folder / match["step"]) and match["temporary"] is None):
            continue
        if path.is_dir():
            _remove(path)
        else:
            path.unlink(missing_ok=True)
    for path in (*leftovers(folder, "*.sha256*.json"), *folder.glob(".probe-*")):
        path.unlink()


def _remove(path: Path) -> None:
    digests.remove(path)  # first: killed in between, the step is incomplete, and not damaged
    shutil.rmtree(path)


def _array_to_json(array: np.ndarray) -> dict[str, Any]:
    array = np.asarray(array)
    return {"dtype": array.dtype.str, "shape": list(array.shape), "values": array.ravel().tolist()}


def _array_from_json(entry: dict[str, Any]) -> np.ndarray:
    return np.array(entry["values"], dtype=entry["dtype"]).reshape(entry["shape"])


def _listed(steps: list[int]) -> str:
    return ", ".join(map(str, steps)) or "none"
