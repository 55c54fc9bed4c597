"""The stack that a folder of `save_stack` describes, its members read from where they are."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ctx_jax.embedding.encoder import Encoder
from ctx_jax.embedding.encoder_digest import encoder_digest
from ctx_jax.embedding.hub import hub_name
from ctx_jax.encoders.base import Source
from ctx_jax.encoders.stack import Member, Stack
from ctx_jax.encoders.stack.files import PROJECTIONS, STACK, MemberFile, StackFile
from ctx_jax.encoders.stack.model import member_name, projection_name
from ctx_jax.io import configs
from ctx_jax.io.errors import CtxJaxError, InputError, MissingFileError, brief
from ctx_jax.io.files import file_digest
from ctx_jax.io.safetensors_files import file_tensors


def read_stack(folder: Path, load: Callable[..., Encoder]) -> Encoder:
    """The stack of a folder of `save_stack`, its members read by `load`.

    Raises MissingFileError for a member that is not there; InputError, naming the file and the field, for a damaged
    file, a member that was changed, and projections that do not fit.
    """
    path = folder / STACK
    stored = _stored(folder, ())
    encoders = []
    for i, file in enumerate(stored.members):
        found = _loaded(path, i, file, load)
        encoders.append(as_member(found, stored, stored.pieces))
        if encoder_digest(encoders[-1]) != file.sha256:
            raise InputError(
                f"{path}: {member_name(i)}, {', '.join(found.source.paths.values())}, is not what it was when the "
                "stack was saved (its digest differs): restore it, or make the stack again"
            )
    try:
        members = tuple(Member(each.model, file.layers) for each, file in zip(encoders, stored.members, strict=True))
        model = Stack(members, stored.how, stored.dim, stored.compute)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    params: dict[str, Any] = {member_name(i): each.params for i, each in enumerate(encoders)}
    params |= _projections(folder, stored, model)
    processor = model.inputs_of([each.processor for each in encoders], stored.rule)
    sources = tuple(each.source for each in encoders)
    return Encoder(model, params, processor, source=Source({"path": str(folder)}, members=sources))


def _stored(folder: Path, outer: tuple[Path, ...]) -> StackFile:
    """The `stack.json` of a folder. InputError, before anything is loaded, if the stack is a member of itself or of its
    members; `outer` are the stacks that it is a member of."""
    stored: StackFile = configs.read(folder / STACK, StackFile)
    own = folder.resolve()
    if own in outer:
        raise InputError(f"{folder / STACK}: the stack is a member of itself: make it again")
    for path in (file.paths["path"] for file in stored.members if "path" in file.paths):
        if os.path.isfile(folder / path / STACK):  # noqa: PTH113 (Path raises for a name that no file can have)
            _stored(folder / path, (*outer, own))
    return stored


def _loaded(path: Path, number: int, file: MemberFile, load: Callable[..., Encoder]) -> Encoder:
    if {*file.paths} not in ({"path"}, {"options", "weights"}) or {*file.choices} & {"families", "heads", *file.paths}:
        raise InputError(f"{path}: members.{number}.paths must have path, or options and weights, got {brief(file)}")
    try:
        paths = {
            name: given if hub_name(given) is not None else str(path.parent / given)
            for name, given in file.paths.items()
        }
        return load(**paths, **file.choices)
    except FileNotFoundError as error:
        raise MissingFileError(f"{path}: {member_name(number)}: {str(error)[:1000]}") from error
    except (CtxJaxError, OSError) as error:
        raise InputError(f"{path}: {member_name(number)}: {str(error)[:1000]}") from error


def as_member(encoder: Encoder, stack: Any, pieces: Any) -> Encoder:
    """With the stack's precision and choice of pieces."""
    model: Any = replace(encoder.model, compute=stack.compute)  # type: ignore[type-var]
    return replace(encoder, model=model, processor=encoder.processor.with_pieces(pieces))


def _projections(folder: Path, stored: StackFile, model: Stack) -> dict[str, Any]:
    """The parameters of the projections by their names, of the right shapes."""
    path = folder / PROJECTIONS
    if bool(stored.projections) != bool(model.projected):
        raise InputError(f"{folder / STACK}: projections is {stored.projections!r}, of members {model.projected}")
    if not stored.projections:
        return {}
    if not path.is_file():
        raise MissingFileError(f"{path} is missing: it holds the projections of the stack")
    if file_digest(path) != stored.projections:
        raise InputError(f"{path} is not the file that the stack was saved with (its digest differs): restore it")
    tensors = dict(file_tensors(path))
    params: dict[str, Any] = {}
    for i in model.projected:
        name, width = projection_name(i), model.members[i].model.width
        shapes = {"kernel": (width, model.width), "bias": (model.width,)}
        for key, shape in shapes.items():
            array = tensors.pop(f"{name}/{key}", np.zeros(0))
            if array.shape != shape or array.dtype != np.float32:
                got = f"{array.dtype} of shape {array.shape}" if array.size else "none"
                raise InputError(f"{path}: {name}/{key} must be float32 of shape {shape}, got {got}")
            params.setdefault(name, {})[key] = array
    if tensors:
        raise InputError(f"{path}: {brief(sorted(tensors))} belong to no member of the stack")
    return params
