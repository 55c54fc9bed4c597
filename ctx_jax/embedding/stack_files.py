"""A stack as a small folder that names its members; `stack_loading` reads it.

The members stay where they are; digests tell whether they are what they were.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctx_jax.embedding.encoder import Encoder
from ctx_jax.embedding.encoder_digest import encoder_digest
from ctx_jax.embedding.hub import hub_name
from ctx_jax.embedding.load import load
from ctx_jax.embedding.stack_loading import as_member
from ctx_jax.embedding.stacking import member_encoder, stack_parts
from ctx_jax.encoders import FAMILIES
from ctx_jax.encoders.base import Family, Source
from ctx_jax.encoders.stack.files import PROJECTIONS, STACK, MemberFile, StackFile
from ctx_jax.encoders.stack.model import member_name, projection_name
from ctx_jax.heads import HEADS
from ctx_jax.io import configs
from ctx_jax.io.errors import InputError
from ctx_jax.io.files import atomic_folder, atomic_write, file_digest
from ctx_jax.io.safetensors_files import write_tensors


def save_stack(
    folder: str | Path, encoder: Encoder, *, families: Sequence[Family] = FAMILIES, heads: Sequence[type] = HEADS
) -> None:
    """Write a stack into a new folder: where its members are, and its projections. `load` and `--encoder` take it.

        ctx_jax.save_stack("stacks/both", ctx_jax.stack([ctx_jax.load("bert"), ctx_jax.load("glove.txt")]))

    A member's path is written as it was given to `load`: an absolute one stays so, a relative one becomes relative to
    `folder`, so that both can be moved together. Of a run it is the step that was loaded. The members' digests are
    written too: if one is changed later, `load` refuses the stack. `families` and `heads` as in `load`, by which every
    member is read once more, to see that the folder will give the same.

    Raises InputTypeError for an encoder that is no stack; InputError for a member that was not read by `load`, or that
    is no longer what was read; ExistingFileError for a folder that is not empty.
    """
    folder = Path(folder)
    model, processor = stack_parts(encoder)
    members = []
    for i, member in enumerate(model.members):
        source = encoder.source.members[i] if i < len(encoder.source.members) else Source()
        if not source.paths:
            raise InputError(
                f"{member_name(i)} was not read by ctx_jax.load, so a stack's folder cannot name it: save it first as "
                "a run or a folder, and load it"
            )
        digest = encoder_digest(member_encoder(encoder, i))
        arguments: dict[str, Any] = {**source.paths, **source.choices, "families": families, "heads": heads}
        if encoder_digest(as_member(load(**arguments), model, processor.pieces)) != digest:
            raise InputError(
                f"{member_name(i)} is not what {', '.join(source.paths.values())} holds: save it first, and load it"
            )
        paths = {name: _path_from(folder, path) for name, path in source.paths.items()}
        members.append(MemberFile(paths, dict(source.choices), digest, member.layers))
    tensors = {
        f"{projection_name(i)}/{name}": np.asarray(encoder.params[projection_name(i)][name])
        for i in model.projected
        for name in ("kernel", "bias")
    }
    with atomic_folder(folder) as partial:
        if tensors:
            write_tensors(partial / PROJECTIONS, tensors)
        digest = file_digest(partial / PROJECTIONS) if tensors else ""
        settings = (model.how, model.dim, model.compute, processor.rule, processor.pieces)
        atomic_write(partial / STACK, configs.text(StackFile(tuple(members), *settings, digest)))


def _path_from(folder: Path, path: str) -> str:
    """A relative path from the current folder as one from the stack's; an absolute one, and a name of the Hub, as it
    is."""
    if Path(path).is_absolute() or hub_name(path) is not None:
        return path
    return os.path.relpath(Path(path).parent.resolve() / Path(path).name, folder.resolve())
