"""The frozen parameters of a run, saved once in `<run>/frozen/` as a step 0 with digests, and never trained.

Every checkpoint keeps the text of their digest files (`run_files`), so that it is restored with no others.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ctx_jax.checkpoints import digests, run_files
from ctx_jax.checkpoints.run_files import FROZEN
from ctx_jax.io.errors import InputError, MissingFileError
from ctx_jax.typing import Params


def frozen_digests(run_dir: Path) -> dict[str, str]:
    """The texts of the digest files of a run's frozen parameters, {"frozen/0.sha256.json": text}; {} if it has none."""
    step = run_dir / FROZEN / "0"
    if not digests.is_complete(step):
        return {}
    return run_files.read(run_dir, [f"{FROZEN}/{path.name}" for path in digests.all_paths(step)])


def check_frozen(run_dir: Path, kept: Iterable[str], step: int) -> None:
    """Check that `run_dir` has frozen parameters if step `step`, which keeps the files `kept`, was saved with some.

    MissingFileError if they are gone, InputError if there were none, naming the digest file. That they are the same
    is for `run_files.check` to say.
    """
    now = frozen_digests(run_dir)
    for name in kept:
        if name.startswith(f"{FROZEN}/") and name not in now:
            raise MissingFileError(f"{run_dir / name} is missing: step {step} was saved with these frozen parameters")
    for name in now.keys() - kept:
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
