"""The frozen parameters of a run, saved once in `<run>/frozen/` as a step 0 with digests, and never trained.

Every checkpoint keeps the text of their digest files (`run_files`), so that it is restored with no others.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from ctx_jax.checkpoints import digests, run_files
from ctx_jax.checkpoints.orbax_manager import STATE
from ctx_jax.checkpoints.run_files import FROZEN
from ctx_jax.checkpoints.steps import StepFolder, remove_step
from ctx_jax.distributed.processes import on_first_process
from ctx_jax.io.errors import InputError, MissingFileError
from ctx_jax.typing import Params


def save_frozen(folder: Path, params: Params) -> None:
    """Save a nested dict of global arrays to `folder`, in place of those it holds; all processes call it together.

    Returns when they are complete. RunError if they cannot be written.
    """
    on_first_process(lambda: remove_step(folder / "0"))
    with StepFolder(folder, writable=True) as steps:
        steps.save_items(0, {STATE: ocp.args.PyTreeSave(params)})


def restore_frozen(folder: Path, abstract: Any) -> Any:
    """The parameters of `folder` with the shardings of `abstract`; all processes call it together.

    Raises as `RunCheckpoints.restore` does.
    """
    with StepFolder(folder, writable=True) as steps:
        return steps.restore_state(0, abstract)


def frozen_digests(run_dir: Path) -> dict[str, str]:
    """The texts of the digest files of a run's frozen parameters, by name under `run_dir`; empty if it has none.

    {"frozen/0.sha256.json": text}
    """
    step = run_dir / FROZEN / "0"
    if not digests.is_complete(step):
        return {}
    names = [path.relative_to(run_dir).as_posix() for path in digests.all_paths(step)]
    return run_files.read(run_dir, names)


def check_frozen(run_dir: Path, kept: Mapping[str, str], step: int) -> None:
    """Check that step `step`, which keeps the files `kept`, was saved with the frozen parameters of `run_dir`.

    MissingFileError if they are gone, InputError if there are others, naming the digest file.
    """
    before = {name: text for name, text in kept.items() if Path(name).parent == Path(FROZEN)}
    now = frozen_digests(run_dir)
    for name in before:
        if name not in now:
            raise MissingFileError(f"{run_dir / name} is missing: step {step} was saved with these frozen parameters")
    for name in now:
        if now[name] != before.get(name):
            raise InputError(f"{run_dir / name} is not of the frozen parameters that step {step} was saved with")


def merge_params(trained: Params, frozen: Params) -> dict[str, Any]:
    """One nested dict of both; InputError naming an array that both have.

    >>> merge_params({"encoder": {"b": 1}, "head": {"c": 2}}, {"encoder": {"a": 0}})
    {'encoder': {'b': 1, 'a': 0}, 'head': {'c': 2}}
    """
    merged = dict(trained)
    for name, part in frozen.items():
        if name not in trained:
            merged[name] = part
        elif isinstance(part, Mapping) and isinstance(trained[name], Mapping):
            merged[name] = merge_params(trained[name], part)
        else:
            raise InputError(f"parameters {name!r} are both trained and frozen")
    return merged
