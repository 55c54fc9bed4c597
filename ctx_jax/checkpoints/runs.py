"""The checkpoints of a run: complete steps, saved while training goes on.

```
checkpoints/
  40/state/             the state's arrays
  40/position/          where step 40 left the data, as JSON
  40/metrics/           as JSON, if the step has any; they decide which step is the best
  40/files/             the run's config, vocabulary and so on, as JSON: {"config.json": text, ...} (`run_files`)
  40.sha256.json        digests
frozen/                 the frozen parameters, if any, saved once (`frozen`)
```
"""

import math
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from ctx_jax.checkpoints import digests, run_files
from ctx_jax.checkpoints.frozen import check_frozen, frozen_digests, merge_params
from ctx_jax.checkpoints.orbax_manager import FILES, METRICS, POSITION, STATE
from ctx_jax.checkpoints.run_files import FROZEN, SELECTION
from ctx_jax.checkpoints.steps import LOGGER, StepFolder, check_arrays, listed, named_leaves, remove_step, unsharded
from ctx_jax.distributed.processes import broadcast, on_first_process
from ctx_jax.io.errors import InputError, MissingFileError
from ctx_jax.io.files import read_json
from ctx_jax.typing import Params


class RunCheckpoints(StepFolder):
    """The checkpoints in a run's `checkpoints/` folder: `save` while training, `restore` anywhere.

    Opened with `clean=True` it is writable, for training (see `StepFolder`); the last `keep` steps and the `best` one
    are kept. Otherwise it only reads. The state's top level has `params`, the trained ones.
    """

    def __init__(self, folder: str | Path, *, keep: int = 3, clean: bool = False) -> None:
        self.keep = keep
        super().__init__(folder, writable=clean)
        self.run_dir = self.folder.parent

    def save(
        self,
        step: int,
        state: Any,
        position: dict[str, np.ndarray],
        metrics: dict[str, float] | None = None,
        files: Mapping[str, str] | None = None,
    ) -> None:
        """Save a step in the background; returns when the arrays are copied, so the caller may donate their buffers.

        files: texts of files of the run directory by name (`run_files.read`). A restore is refused if the directory
        holds others. The digests of the frozen parameters are added. See also `save_items`.
        """
        items: dict[str, Any] = {
            STATE: ocp.args.PyTreeSave(state),
            POSITION: ocp.args.JsonSave({name: _array_to_json(array) for name, array in position.items()}),
        }
        if metrics is not None:
            items[METRICS] = ocp.args.JsonSave({name: float(value) for name, value in metrics.items()})
        if kept := {**(files or {}), **frozen_digests(self.run_dir)}:
            items[FILES] = ocp.args.JsonSave(kept)
        self.save_items(step, items)

    def save_frozen(self, params: Params) -> None:
        """Save the frozen parameters before the first step; returns when they are complete. All processes call it.

        If there are none, it removes those of a run that was killed before its first step. With complete steps it does
        nothing: those that the steps were saved with stay. InputError if `params` has some and the steps have none.
        """
        latest, folder = broadcast(self.latest()), self.run_dir / FROZEN

        def prepare() -> None:
            if latest is None:
                remove_step(folder / "0")
            elif params and not frozen_digests(self.run_dir):
                raise InputError(f"step {latest} of {self.folder} was saved without frozen parameters")

        on_first_process(prepare)
        if latest is None and params:
            with StepFolder(folder, writable=True) as steps:
                steps.save_items(0, {STATE: ocp.args.PyTreeSave(params)})

    def restore_frozen(self, abstract: Any) -> Any:
        """The frozen parameters with the shardings of `abstract`. All processes call it; raises as `restore` does."""
        with StepFolder(self.run_dir / FROZEN, writable=True) as steps:
            steps.verify(0)
            return steps.restore_items(0, {STATE: steps.sharded(0, abstract)})[STATE]

    def _on_complete(self) -> None:
        steps = self.steps()
        if len(steps) <= self.keep:
            return
        try:
            kept = {*steps[-self.keep :], self._best()}
            for step in steps:
                if step not in kept:
                    remove_step(self.path(step))
        except (OSError, InputError) as error:  # the new step is complete all the same
            LOGGER.warning("an old step could not be removed: %s", error)

    def best(self) -> int | None:
        """The complete step with the lowest finite `selection_of(metrics)`, the earlier of equals.

        If no step has one, the last step; None if there is no step. Opened for training, all processes call it, and
        process 0 reads for all. InputError, naming the file, if the metrics of a step are not those it was saved with:
        another step would be chosen.
        """
        if not self.writable:
            return self._best()
        found: list[int | None] = []
        on_first_process(lambda: found.append(self._best()))
        return broadcast(found[0] if found else None)

    def _best(self) -> int | None:
        values = {step: value for step in self.steps() if (value := self._selection(step)) is not None}
        finite = [(value, step) for step, value in values.items() if math.isfinite(value)]
        return min(finite)[1] if finite else max(values, default=None)

    def _selection(self, step: int) -> float | None:
        """`selection_of` a step; None if training has removed the step in the meantime."""
        try:
            return selection_of(self.metrics(step))
        except MissingFileError:
            return None

    def metrics(self, step: int) -> dict[str, float] | None:
        """The metrics a step was saved with, None if it has none. InputError, naming the file, if it is damaged."""
        found, path = self._entry(step, METRICS), self.path(step) / METRICS / METRICS
        try:
            return None if found is None else {name: operator.truediv(value, 1) for name, value in found.items()}
        except (TypeError, OverflowError) as error:
            raise InputError(f"{path} must hold numbers by name, got {found!s:.200}") from error

    def _entry(self, step: int, name: str) -> dict[str, Any] | None:
        """The JSON object of a step's entry, verified by its own digest and no other; None if the step has none.

        InputError, naming the file, if it is damaged; MissingFileError if the step is gone.
        """
        folder = self.path(step)
        try:
            return read_json(folder / name / name) if digests.verify_entry(folder, name) else None
        except (InputError, FileNotFoundError) as damage:
            self._need(step)  # training may have removed it
            raise InputError(
                f"step {step} is damaged: {damage}. Its {name} are needed to choose a step or to use it: restore the "
                f"file, ask for another step by number, or remove both {folder} and {digests.path_of(folder)}"
            ) from damage

    def restore(self, step: int, abstract_state: Any) -> tuple[Any, dict[str, np.ndarray]]:
        """The state of a step with the shardings of `abstract_state`, and where that step left the data.

        `abstract_state`: a pytree of `jax.ShapeDtypeStruct`, each with its sharding. The devices may differ from those
        it was saved from, in number too. Raises MissingFileError for a step that is not complete, and InputError for a
        damaged one (naming the file, and the intact step before it), for a state of other arrays (naming all that are
        missing, extra or of another shape), and for a run directory whose files or frozen parameters are not those
        the step was saved with (naming the file).
        """
        self.verify(step)
        state = self.sharded(step, abstract_state)
        self.check_files(step)
        with self.stopping_together():
            position = self._position(step)
        return self.restore_items(step, {STATE: state})[STATE], position

    def _position(self, step: int) -> dict[str, np.ndarray]:
        path = self.path(step) / POSITION / POSITION
        try:
            return {name: _array_from_json(entry) for name, entry in read_json(path).items()}
        except (FileNotFoundError, KeyError, TypeError, OverflowError, ValueError) as error:
            raise InputError(f"{path} does not hold the position of the data ({error!r})") from error

    def restore_params(self, step: int, abstract_params: Any = None) -> Any:
        """The parameters of a step, trained and frozen in one tree, on the default device of this process.

        Of the trained ones their moving average if the run keeps one. No model is needed: names and shapes are the
        checkpoint's own. Where `abstract_params` (as `jax.eval_shape` gives them) has a part, "encoder" say, they must
        be the same. Raises as `restore` does.
        """
        self.verify(step)
        tree = self.tree(step)
        if "params" not in tree:
            raise InputError(f"{self.path(step)}: needs `params` at the top of the state, holds {', '.join(tree)}")
        name = "average" if tree.get("average") else "params"
        self.check_files(step)
        params = self.restore_items(step, {STATE: unsharded({name: tree[name]})})[STATE][name]
        if frozen_digests(self.run_dir):
            with StepFolder(self.run_dir / FROZEN, writable=False) as folder:
                folder.verify(0)
                params = merge_params(params, folder.restore_items(0, {STATE: unsharded(folder.tree(0))})[STATE])
        if abstract_params is not None:
            known = {part: params[part] for part in abstract_params if part in params}
            check_arrays(named_leaves({name: abstract_params}), named_leaves({name: known}), self.path(step))
        return jax.device_put(params)

    def check_files(self, step: int) -> None:
        """Compare the files of the run directory with the copies in step `step`, whose digests are verified.

        Raises as `restore` does, but reads nothing else of the step: call it before the files are used. Opened for
        training, all processes call it, and process 0 reads for all.
        """
        if self.writable:
            on_first_process(lambda: self._check_files(step))
        else:
            self._check_files(step)

    def _check_files(self, step: int) -> None:
        kept = self._entry(step, FILES) or {}
        for name, text in kept.items():
            if not isinstance(text, str):
                raise InputError(f"{self.path(step) / FILES / FILES} holds no text of {name}, got {text!r:.60}")
        check_frozen(self.run_dir, kept, step)
        run_files.check(self.run_dir, kept, step)

    def _remedy(self, damaged: int) -> str:
        steps = self.steps()
        for step in reversed([step for step in steps if step < damaged]):
            try:
                digests.verify(self.path(step))
            except digests.DamagedFile:
                continue
            return (
                f"Step {step} before it is intact: load it with step={step}, or train on from it after removing "
                f"{self.path(damaged)} and {digests.path_of(self.path(damaged))}"
            )
        return f"No intact step comes before it (complete: {listed(steps)})"


def selection_of(metrics: Mapping[str, float] | None) -> float:
    """What the best step has least of: its `selection`, else its `loss`; NaN if it has neither."""
    metrics = metrics or {}
    return metrics.get(SELECTION, metrics.get("loss", math.nan))


def _array_to_json(array: np.ndarray) -> dict[str, Any]:
    array = np.asarray(array)
    return {"dtype": array.dtype.str, "shape": list(array.shape), "values": array.ravel().tolist()}


def _array_from_json(entry: dict[str, Any]) -> np.ndarray:
    return np.array(entry["values"], dtype=entry["dtype"]).reshape(entry["shape"])
