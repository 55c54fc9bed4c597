"""The form of a state: the names, shapes and types of its arrays, by which a checkpoint is held to fit a run."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from ctx_jax.io.errors import InputError


def by_name(tree: Any) -> dict[str, Any]:
    """{"params.cnn.w": leaf}, the same for a NamedTuple and for the dict Orbax made of it."""
    parts = ("key", "name", "idx")
    return {
        ".".join(str(next(getattr(entry, part) for part in parts if hasattr(entry, part))) for entry in path): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def check_form(wanted: dict[str, Any], stored: dict[str, Any], path: Path) -> None:
    """Raises ValueError naming all that is missing, extra or of another shape or type in what `path` holds."""
    problems = [f"missing there: {name}" for name in wanted if name not in stored]
    problems += [f"only there: {name}" for name in stored if name not in wanted]
    for name in (name for name in wanted if name in stored):
        want, have = ((tuple(leaf.shape), np.dtype(leaf.dtype).name) for leaf in (wanted[name], stored[name]))
        if want != have:
            problems.append(f"{name}: needs {want[1]} {list(want[0])}, has {have[1]} {list(have[0])}")
    if problems:
        raise InputError("\n  ".join([f"{path} holds another state than this run's config makes:", *problems]))
