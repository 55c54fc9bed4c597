"""From the name of a setting in an error of the library to its flag on the command line."""

import types
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints


def with_flag(field: str, options: type) -> str:
    """The flag of a setting of the dataclass `options`: "max_positions" is "--model.max-positions".

    The field may be dotted in part. Where no flag, or more than one, ends with it, the field comes back as it is.
    """
    known = set(_names(options, ""))
    found = {field} & known or {name for name in known if name.endswith(f".{field}")}
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
