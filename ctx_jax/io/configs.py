"""Config dataclasses as JSON and back, and what differs between two of them.

```
BiLM(dim=8, filters=((1, 4),))  <->  {"type": "BiLM", "dim": 8, "filters": [[1, 4]], ...}
```
A file has `"format": 1` beside the fields of the outermost dataclass: files of older formats are read for ever.
Every dataclass carries its type's name, so that a field `model: BiLM | Transformer` reads back as what it was.
Values may be dataclasses, tuples, lists, dicts with string keys, `Literal`s, paths, strings, numbers and None.
"""

import difflib
import json
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ctx_jax.io.errors import InputError, InputTypeError
from ctx_jax.io.files import atomic_write

TYPE = "type"
FORMAT = "format"

NEWEST = 1
"""The format that `write` stores. A field that is new since the last release raises it, and has an entry in `ADDED`."""

ADDED: Mapping[int, Mapping[str, Mapping[str, Any]]] = {}
"""What a format added, and what runs without it had done: {2: {"BiLM": {"new_field": its value in JSON}}}."""


def write(path: str | Path, config: Any) -> None:
    """Store a config as a JSON file, atomically: a killed process leaves the old file or the new one."""
    atomic_write(Path(path), text(config))


def text(config: Any) -> str:
    """What `write` writes."""
    return json.dumps({FORMAT: NEWEST} | to_json(config), indent=2) + "\n"


def read(path: str | Path, allowed: Sequence[type]) -> Any:
    """The config `write` stored; `ValueError` names the file and what in it does not fit (see `from_json`)."""
    try:
        return from_json(allowed, newest(json.loads(Path(path).read_text(encoding="utf-8"))))
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def newest(stored: Any) -> Any:
    """The JSON of a file as `to_json` gives it today: without the format's number, older formats with what was `ADDED`.

    A file without a number is of format 1. Raises ValueError for a format that this version does not know.
    """
    if not isinstance(stored, Mapping):
        return stored
    number = stored.get(FORMAT, 1)
    if type(number) is not int or number < 1:
        raise InputError(f"{FORMAT}: needs a whole number from 1 to {NEWEST}, got {number!r}")
    if number > NEWEST:
        raise InputError(f"{FORMAT} {number} is of a newer ctx_jax, this one reads up to {NEWEST}: update it")
    return _filled({name: value for name, value in stored.items() if name != FORMAT}, number)


def _filled(data: Any, number: int) -> Any:
    if isinstance(data, list):
        return [_filled(item, number) for item in data]
    if not isinstance(data, Mapping):
        return data
    later = (ADDED.get(after, {}).get(str(data.get(TYPE)), {}) for after in range(number + 1, NEWEST + 1))
    added = {name: value for fields in later for name, value in fields.items() if name not in data}
    return {name: _filled(value, number) for name, value in (*data.items(), *added.items())}


def to_json(config: Any) -> dict[str, Any]:
    """A nested frozen dataclass as a dict that `json.dumps` takes; `from_json` reads it back equal."""
    if not is_dataclass(config) or isinstance(config, type):
        raise InputTypeError(f"needs an instance of a config dataclass, got {config!r}")
    return {TYPE: type(config).__name__} | {
        field.name: _plain(getattr(config, field.name), field.name) for field in fields(config)
    }


def _plain(value: Any, where: str) -> Any:
    if is_dataclass(value):
        return to_json(value)
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Path():
            return str(value)
        case tuple() | list():
            return [_plain(item, where) for item in value]
        case dict():
            return {str(key): _plain(item, where) for key, item in value.items()}
    raise InputTypeError(
        f"field {where!r} holds {value!r}, which JSON has no form for: use tuples, numbers, strings or None"
    )


def from_json(allowed: Sequence[type], data: Mapping[str, Any]) -> Any:
    """Build the config that `to_json` stored; the inverse of `to_json`.

    `allowed`: the dataclasses the outermost one may be; those inside are found from the annotations.
    Raises `ValueError` for a type, field or value that does not fit, naming the field, what it needs and the near
    match: nothing is filled in or left out silently.
    """
    return _dataclass(allowed, data, "config")


def _near(name: str, names: Iterable[str]) -> str:
    match = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {match[0]!r}?" if match else ""


def _dataclass(allowed: Sequence[type], data: Any, where: str) -> Any:
    names = {cls.__name__: cls for cls in allowed}
    if not isinstance(data, Mapping) or TYPE not in data:
        raise InputError(f"{where}: needs an object with a {TYPE!r} of {' or '.join(names)}, got {data!r}")
    if data[TYPE] not in names:
        near = _near(str(data[TYPE]), names)
        raise InputError(f"{where}.{TYPE}: needs {' or '.join(names)}, got {data[TYPE]!r}{near}")
    cls = names[data[TYPE]]
    known = [field.name for field in fields(cls) if field.init]
    given = [name for name in data if name != TYPE]
    for name in given:
        if name not in known:
            raise InputError(f"{where}.{name}: {cls.__name__} has no such field{_near(name, known)}")
    for name in known:
        if name not in data:
            raise InputError(
                f"{where}.{name}: missing, and {cls.__name__} needs it; it has {', '.join(given) or 'none'}"
            )
    hints = get_type_hints(cls)
    return cls(**{name: _value(hints[name], data[name], f"{where}.{name}") for name in known})


def _value(hint: Any, value: Any, where: str) -> Any:
    origin = get_origin(hint)
    if is_dataclass(hint):
        return _dataclass([hint], value, where)  # type: ignore[list-item]
    if origin in (Union, types.UnionType):
        return _union(get_args(hint), value, where)
    if origin is Literal:
        # True == 1: the type must agree too
        for choice in get_args(hint):
            if choice == value and type(choice) is type(value):
                return choice
        near = _near(str(value), [str(choice) for choice in get_args(hint)])
        raise InputError(f"{where}: needs one of {', '.join(map(repr, get_args(hint)))}, got {value!r}{near}")
    if tuple in (origin, hint):
        return _tuple(get_args(hint), value, where)
    if origin in (list, Sequence) and isinstance(value, list):
        items = (_value(get_args(hint)[0], item, f"{where}.{index}") for index, item in enumerate(value))
        return list(items) if origin is list else tuple(items)
    if origin in (dict, Mapping) and isinstance(value, dict):
        return {key: _value(get_args(hint)[1], item, f"{where}.{key}") for key, item in value.items()}
    return _scalar(hint, value, where)


def _scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    if hint in (None, type(None)) and value is None:
        return None
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint in (bool, int, float, str) and type(value) is hint:
        return value
    raise InputError(f"{where}: needs {_name(hint)}, got {value!r}")


def _union(arms: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in arms:
        return None
    configs = [arm for arm in arms if is_dataclass(arm)]
    if configs and isinstance(value, Mapping):
        return _dataclass(configs, value, where)  # type: ignore[arg-type]
    others = [arm for arm in arms if not is_dataclass(arm)]
    exact = [arm for arm in others if arm is type(value)]  # 1 stays an int under `float | int`
    errors: list[str] = []
    for arm in exact + others:
        try:
            return _value(arm, value, where)
        except ValueError as error:
            errors.append(str(error))
    if len(errors) == 1 or (len(errors) == 2 and type(None) in arms):
        raise InputError(errors[0])
    raise InputError(f"{where}: needs {' or '.join(map(_name, arms))}, got {value!r}")


def _tuple(items: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise InputError(f"{where}: needs a list, got {value!r}")
    if not items:
        return tuple(value)
    if len(items) == 2 and items[1] is Ellipsis:
        items = (items[0],) * len(value)
    if len(items) != len(value):
        raise InputError(f"{where}: needs {len(items)} values, got {len(value)}: {value!r}")
    return tuple(
        _value(item, part, f"{where}.{index}") for index, (item, part) in enumerate(zip(items, value, strict=True))
    )


def _name(hint: Any) -> str:
    return "None" if hint is type(None) else getattr(hint, "__name__", None) or str(hint)


def differences(old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    """What changed from one config to another: (dotted field, old value, new value), in the fields' order.

    `("model.dim", 8, 16)`. Where a field holds another dataclass than before, only its type is named:
    `("model.type", "BiLM", "Transformer")`. Empty for equal configs.
    """
    return _differences(old, new, "")


def _differences(old: Any, new: Any, where: str) -> list[tuple[str, Any, Any]]:
    if is_dataclass(old) and is_dataclass(new):
        if type(old) is not type(new):
            return [(_join(where, TYPE), type(old).__name__, type(new).__name__)]
        pairs = [(field.name, getattr(old, field.name), getattr(new, field.name)) for field in fields(old)]
    elif isinstance(old, tuple) and isinstance(new, tuple) and len(old) == len(new) and any(map(is_dataclass, old)):
        pairs = [(str(index), before, after) for index, (before, after) in enumerate(zip(old, new, strict=True))]
    else:
        return [] if old == new else [(where, old, new)]
    return [found for name, before, after in pairs for found in _differences(before, after, _join(where, name))]


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
