"""Flags to settings, and from the name of a setting in an error of the library back to its flag."""

import types
from collections.abc import Iterator
from contextlib import redirect_stderr
from dataclasses import fields, is_dataclass
from io import StringIO
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import tyro

from ctx_jax.io.errors import ConfigError


def parse(options: Any, **choices: Any) -> Any:
    """`tyro.cli`, which exits with status 2 for a wrong flag or value; ConfigError for a value that a setting refuses.

    tyro turns every ValueError of a config's constructor into a message of its own, which does not name the flag.
    """
    try:
        with redirect_stderr(StringIO()):  # the value of a setting is reported even without console_outputs
            return tyro.cli(options, console_outputs=False, **choices)
    except SystemExit as left:
        error = left.__context__
        while error is not None and not isinstance(error, ConfigError):
            error = error.__context__
    if error is not None:
        raise error
    return tyro.cli(options, **choices)  # once more, to print the help or what is wrong


def with_flag(field: str, options: type) -> str:
    """The flag of a setting of the dataclass `options`: "max_positions" is "--model.max-positions".

    The field may lack dotted parts in front ("max_positions"), or have those of a room whose settings stand at the top
    of `options` ("task.negatives"; "tokenizer.size" of `ctx-jax tokenizer`). Where no flag, or more than one, fits, the
    field comes back as it is.
    """
    known = set(_names(options, ""))
    inner = field.partition(".")[2]
    found = {field} & known or {name for name in known if name.endswith(f".{field}")} or {inner or field} & known
    return f"--{found.pop().replace('_', '-')}" if len(found) == 1 else field


def _names(hint: Any, before: str) -> Iterator[str]:
    """Dotted names of all settings below a type; the fields of the task stand at the top."""
    origin = get_origin(hint)
    if origin is Annotated:
        yield from _names(get_args(hint)[0], before)
    elif origin in (Union, types.UnionType):
        for arm in get_args(hint):
            yield from _names(arm, before)
    elif is_dataclass(hint):
        hints = get_type_hints(hint, include_extras=True)
        for field in fields(hint):
            name = "" if field.name == "task" else f"{before}.{field.name}".lstrip(".")
            yield from _names(hints[field.name], name)
            yield name
