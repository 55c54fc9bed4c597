"""The folder of a stack: where its members are, what they were when it was saved, and its projections.

stack.json                 a `StackFile`
projections.safetensors    if vectors are projected: "projection_1/kernel" [I, D], "projection_1/bias" [D]
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ctx_jax.encoders.facts import Facts, tensor_facts
from ctx_jax.io import configs
from ctx_jax.io.safetensors_files import file_shapes
from ctx_jax.ops.linear import Compute
from ctx_jax.tokenizers.alignment import WordPieces
from ctx_jax.tokenizers.words import Rule

STACK = "stack.json"
PROJECTIONS = "projections.safetensors"


@dataclass(frozen=True)
class MemberFile:
    """How a member is loaded, and what it was."""

    paths: dict[str, str]
    """`load`'s "path", or "options" and "weights"; relative ones start at the stack's folder."""
    choices: dict[str, str | int | bool]
    """`load`'s other arguments."""
    sha256: str
    """Of the member's model, parameters and input processor."""
    layers: int | tuple[float, ...] | None
    """`Member.layers`."""


@dataclass(frozen=True)
class StackFile:
    """What `stack.json` holds."""

    members: tuple[MemberFile, ...]
    how: Literal["concat", "add"]
    dim: int | None
    compute: Compute
    rule: Rule
    pieces: WordPieces
    projections: str
    """SHA-256 of `projections.safetensors`; "": there is none."""


def facts(path: Path) -> Facts | None:
    """What the folder says without loading its members; None for another kind of path."""
    if not (path / STACK).is_file():
        return None

    def members() -> list[dict[str, Any]]:
        stored: StackFile = configs.read(path / STACK, StackFile)
        return [{**each.paths, **each.choices} for each in stored.members]

    return {
        "format": lambda: "stack",
        "members": members,
        "tensors": lambda: tensor_facts(file_shapes(path / PROJECTIONS)) if (path / PROJECTIONS).is_file() else None,
        "files": lambda: [name for name in (STACK, PROJECTIONS) if (path / name).is_file()],
    }
