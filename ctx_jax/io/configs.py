"""Config dataclasses as JSON and back, and what differs between two of them.

```
BiLM(dim=8, filters=((1, 4),))  <->  {"type": "BiLM", "dim": 8, "filters": [[1, 4]], ...}
```
Every dataclass is stored with the name of its type, so that a field `model: BiLM | Transformer` reads back as the
same type. A file also has `"format": 1` at the top. Values may be dataclasses, tuples, dicts with string keys,
`Literal`s, paths, strings, numbers and None. Types come from the annotations of the class that is read, so a union may
hold dataclasses of any module.

Not cattrs: it fills missing fields from defaults, takes a string for a tuple of strings and casts numbers, so every
rule here would still be a hook of ours, and the error paths a translation of its own; the code came out as long.
"""

import difflib
import json
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ctx_jax.io.errors import ConfigError, InputError, InputTypeError, brief
from ctx_jax.io.files import read_json

TYPE = "type"
FORMAT = "format"
VERSION = 1
"""The format that `text` writes and the only one that `read` accepts."""


def text(config: Any) -> str:
    """The config as the text of a JSON file."""
    return json.dumps({FORMAT: VERSION} | to_json(config), indent=2) + "\n"


def read(path: str | Path, hint: Any, any_of: Sequence[type] = ()) -> Any:
    """The config of a file of `text`. `hint`: its dataclass, or a union of dataclasses.

    `any_of` are the dataclasses of which an object in a field typed `Any` is one; without them it stays JSON.

    Raises InputError naming the file and the field that does not fit (see `from_json`).
    """
    stored = read_json(Path(path))
    version = stored.pop(FORMAT, VERSION)
    if type(version) is not int or version != VERSION:
        raise InputError(f"{path}: this version of ctx_jax reads {FORMAT} {VERSION}, got {brief(version)}")
    try:
        return from_json(hint, stored, any_of)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def to_json(config: Any) -> dict[str, Any]:
    """A nested frozen dataclass as a dict that `json.dumps` takes; `from_json` reads it back equal."""
    if not is_dataclass(config) or isinstance(config, type):
        raise InputTypeError(f"needs an instance of a config dataclass, got {config!r}")
    stored = {field.name: _plain(getattr(config, field.name), field.name) for field in fields(config)}
    return {TYPE: type(config).__name__} | stored


def _plain(value: Any, field: str) -> Any:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Path():
            return str(value)
        case tuple():
            return [_plain(item, field) for item in value]
        case dict():
            return {str(key): _plain(item, field) for key, item in value.items()}
    if is_dataclass(value):
        return to_json(value)
    raise InputTypeError(f"field {field!r} holds {value!r}: use dataclasses, tuples, dicts, strings, numbers or None")


def from_json(hint: Any, data: Any, any_of: Sequence[type] = ()) -> Any:
    """The config that `to_json` stored. `hint`: its dataclass, or a union of dataclasses. `any_of` as in `read`.

    Raises ConfigError for a type, field or value that does not fit, with the dotted field, what it needs and the near
    match. No field is filled in or left out.
    """
    return _dataclass(get_args(hint) or (hint,), data, "", any_of)


def _dataclass(classes: Iterable[Any], data: Any, where: str, any_of: Sequence[type]) -> Any:
    names = {cls.__name__: cls for cls in classes}
    if not isinstance(data, Mapping) or TYPE not in data:
        raise ConfigError(
            where or "config", f"needs an object with a {TYPE!r} of {' or '.join(names)}, got {brief(data)}"
        )
    cls = names.get(str(data[TYPE]))
    if cls is None:
        got = f"{brief(data[TYPE])}{_near(data[TYPE], names)}"
        raise ConfigError(_join(where, TYPE), f"needs {' or '.join(names)}, got {got}")
    known, hints = [field.name for field in fields(cls)], get_type_hints(cls)
    for name in data:
        if name not in known and name != TYPE:
            raise ConfigError(_join(where, name[:100]), f"is no field of {cls.__name__}{_near(name, known)}")
    for name in known:
        if name not in data:
            raise ConfigError(_join(where, name), f"is missing: {cls.__name__} needs it")
    return cls(**{name: _value(hints[name], data[name], _join(where, name), any_of) for name in known})


def _value(hint: Any, value: Any, where: str, any_of: Sequence[type]) -> Any:
    if hint is Any and any_of and isinstance(value, Mapping):
        return _dataclass(any_of, value, where, any_of)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _union(arguments, value, where, any_of)
    if is_dataclass(hint):
        return _dataclass([hint], value, where, any_of)
    if origin is Literal:
        for choice in arguments:
            if choice == value and type(choice) is type(value):  # True == 1
                return choice
        choices = ", ".join(map(repr, arguments))
        raise ConfigError(where, f"needs one of {choices}, got {brief(value)}{_near(value, map(str, arguments))}")
    if origin is tuple and isinstance(value, list | tuple):
        items = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
        if len(items) != len(value):
            raise ConfigError(where, f"needs {len(items)} values, got {len(value)}: {brief(value)}")
        return tuple(_value(item, value[index], f"{where}.{index}", any_of) for index, item in enumerate(items))
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        return {key: _value(arguments[1], item, f"{where}.{key}", any_of) for key, item in value.items()}
    if hint is float and type(value) is int:
        if abs(value) > sys.float_info.max:
            raise ConfigError(where, "needs a float, got an integer beyond the range of one")
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is Any or type(value) is hint:
        return value
    raise ConfigError(where, f"needs {'a list' if origin is tuple else _name(hint)}, got {brief(value)}")


def _union(arms: tuple[Any, ...], value: Any, where: str, any_of: Sequence[type]) -> Any:
    configs = [arm for arm in arms if is_dataclass(arm)]
    if configs and isinstance(value, Mapping):
        return _dataclass(configs, value, where, any_of)
    if type(value) in arms:  # None, and 1 stays an int under `float | int`
        return value
    others = [arm for arm in arms if arm not in configs and arm is not type(None)]
    errors = []
    for arm in others:
        try:
            return _value(arm, value, where, any_of)
        except ConfigError as error:
            errors.append(error)
    if len(errors) == 1 and not configs:
        raise errors[0]
    raise ConfigError(where, f"needs {' or '.join(map(_name, arms))}, got {brief(value)}")


def _near(name: Any, names: Iterable[str]) -> str:
    match = difflib.get_close_matches(str(name)[:100], list(names), n=1)
    return f"; did you mean {match[0]!r}?" if match else ""


def _name(hint: Any) -> str:
    return "None" if hint is type(None) else getattr(hint, "__name__", str(hint))


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def differences(old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    """What changed from one config, or object of JSON, to another: (dotted field, old value, new value), in order.

    `("model.dim", 8, 16)`. If a field holds another dataclass than before, only its type is named:
    `("model.type", "BiLM", "Transformer")`. Empty for equal configs.
    """
    return _differences(old, new, "")


def _differences(old: Any, new: Any, where: str) -> list[tuple[str, Any, Any]]:
    old, new = _by_name(old), _by_name(new)
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = {**old, **new} if old.get(TYPE) == new.get(TYPE) else [TYPE]
        pairs = [(name, old.get(name), new.get(name)) for name in names]
    elif old == new:
        return []
    else:
        return [(where, old, new)]
    return [found for name, before, after in pairs for found in _differences(before, after, _join(where, name))]


def _by_name(value: Any) -> Any:
    """Fields of a dataclass and items of a list of dataclasses, or of their JSON, by name; other values as they are."""
    if is_dataclass(value):
        return {TYPE: type(value).__name__} | {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, tuple | list) and any(is_dataclass(item) or isinstance(item, Mapping) for item in value):
        return {str(index): item for index, item in enumerate(value)}
    return value
