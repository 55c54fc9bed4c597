"""Parse flags into settings, and name the flag of a setting in the errors of the library."""

import types
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import fields, is_dataclass
from io import StringIO
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import tyro

from ctx_jax.io.errors import ConfigError


def parse(options: Any, **choices: Any) -> Any:
    """`tyro.cli`: exits with status 2 for a wrong flag or value; ConfigError for a value that a setting refuses.

    tyro replaces a ValueError of a config's constructor by a message that does not name the flag. The original error
    is found in the context of tyro's SystemExit.
    """
    try:
        with redirect_stderr(StringIO()):  # tyro prints some messages even with console_outputs=False
            return tyro.cli(options, console_outputs=False, **choices)
    except SystemExit as stopped:
        error = stopped.__context__
        while error is not None and not isinstance(error, ConfigError):
            error = error.__context__
    if error is not None:
        raise error
    return tyro.cli(options, **choices)  # again, now printing the help or what is wrong


@contextmanager
def naming_flags(options: Any) -> Iterator[None]:
    """A ConfigError raised inside names the flag of `options`, a dataclass or an instance, in place of the field."""
    try:
        yield
    except ConfigError as error:
        error.args = (f"{with_flag(error.field, options)} {error.message}",)
        raise


def with_flag(field: str, options: Any) -> str:
    """The flag of a field of the dataclass `options`: "max_positions" gives "--model.max-positions". Of an instance
    only the flags of the dataclasses that it holds count, not all that its types allow.

    The field may lack its first dotted parts ("max_positions"), or have one that the flag lacks ("task.negatives";
    "tokenizer.size" of `ctx-jax tokenizer`). If no flag fits, or more than one, the field is returned unchanged.
    """
    known = set(_names(options, "") if isinstance(options, type) else _names(type(options), "", options))
    inner = field.partition(".")[2]
    found = {field} & known or {name for name in known if name.endswith(f".{field}")} or {inner or field} & known
    return f"--{found.pop().replace('_', '-')}" if len(found) == 1 else field


def _names(hint: Any, before: str, value: Any = None) -> Iterator[str]:
    """Dotted names of all settings below a type, or below a value of it, as tyro makes flags of them."""
    if is_dataclass(value):
        hint = type(value)
    origin = get_origin(hint)
    if origin is Annotated:
        yield from _names(get_args(hint)[0], before)
    elif origin in (Union, types.UnionType):
        for arm in get_args(hint):
            yield from _names(arm, before)
    elif is_dataclass(hint):
        hints = get_type_hints(hint, include_extras=True)
        for field in fields(hint):
            inner = hints[field.name]
            # `tyro.conf.arg(name="")` leaves the field's name out of the flags.
            unnamed = any(getattr(extra, "name", None) == "" for extra in get_args(inner)[1:])
            name = before if unnamed else f"{before}.{field.name}".lstrip(".")
            yield from _names(inner, name, getattr(value, field.name, None))
            yield name
