"""Single values of a `config.json`, checked by key: files are written by tools of any kind."""

from collections.abc import Mapping
from typing import Any

from ctx_jax.encoders.transformer.checks import number_problem
from ctx_jax.encoders.transformer.huggingface.keys import NULLABLE, READ
from ctx_jax.encoders.transformer.model import Transformer
from ctx_jax.io.errors import InputError, brief

_MOST = 2**31 - 1  # of a size or an id: what an int32 holds
# Of fields that are None by default.
_EXAMPLES = {"embedding_dim": 1, "kv_heads": 1, "head_dim": 1, "attention_scale": 1.0}


def checked_number(key: str, value: Any, field: str) -> Any:
    """The value of `key`, which must be a number of the type and range of `field`."""
    default = _EXAMPLES.get(field, getattr(Transformer(), field))
    # By exact type: True is an int to isinstance.
    if type(value) not in {bool: (bool,), int: (int,), float: (int, float)}[type(default)]:
        raise InputError(f"{key} needs a {type(default).__name__}, got {brief(value)}")
    problem = number_problem(field, value)
    if problem is None and type(default) is int and value > _MOST:
        problem = f"must be at most {_MOST}"
    if problem is not None:
        raise InputError(f"{key} {problem}, got {brief(value)}")
    return float(value) if type(default) is float else value


def checked_flag(config: Mapping[str, Any], key: str, default: bool) -> bool:
    """An optional key that must be true or false."""
    value = config.get(key, default)
    if type(value) is not bool:
        raise InputError(f"{key} needs a bool, got {brief(value)}")
    return value


def checked_activation(name: Any, key: str, known: Mapping[str, str] = READ) -> str:
    """Our name of the activation that `key` names."""
    if not isinstance(name, str) or name not in known:
        raise InputError(f"{key} is {brief(name)}; these can be expressed: {sorted(known)}")
    return known[name]


def check_constants(config: Mapping[str, Any], constants: Mapping[str, Any]) -> None:
    """Raise for a key that is there with another value than the one that can be expressed."""
    for key, value in constants.items():
        given = config.get(key, value)
        unset = given is None and key in NULLABLE
        if not unset and (type(given) is not type(value) or given != value):
            raise InputError(f"{key} is {brief(given)}, only {value!r} can be expressed")
