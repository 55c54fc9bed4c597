"""Flags that a command cannot follow are refused, never passed over."""

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from ctx_jax.io.errors import InputError


def refuse(options: Any, names: Iterable[str], what: str) -> None:
    """ValueError for the first of a dataclass's fields `names` that is not at its default; `what` cannot use it."""
    defaults = {field.name: field.default for field in fields(options)}
    for name in names:
        if getattr(options, name) != defaults[name]:
            raise InputError(f"--{name.replace('_', '-')} means nothing to {what}: leave it out")
