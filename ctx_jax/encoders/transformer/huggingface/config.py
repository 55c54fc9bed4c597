"""Hugging Face's `config.json` to our `Transformer` and `VocabularyHead`; `export` is the way back.

The tables of its architecture (`layouts`) say which key is which field, which fields the architecture
fixes, and which keys must have one value. A key that is in no table changes nothing that is read.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ctx_jax.encoders.transformer.huggingface.keys import EVERYWHERE, MOST_LAYERS, Keys
from ctx_jax.encoders.transformer.huggingface.layouts import LAYOUTS, RENAMED
from ctx_jax.encoders.transformer.huggingface.names import Architecture
from ctx_jax.encoders.transformer.huggingface.values import (
    check_constants,
    checked_activation,
    checked_flag,
    checked_number,
)
from ctx_jax.encoders.transformer.model import Transformer
from ctx_jax.heads import VocabularyHead
from ctx_jax.io.errors import ConfigError, InputError, brief


@contextmanager
def naming(source: object) -> Iterator[None]:
    """Put `source` (a folder or file) in front of the messages of value errors."""
    try:
        yield
    except ValueError as error:
        raise InputError(f"{source}: {error}") from error


def architecture_of_config(config: Mapping[str, Any]) -> Architecture:
    """`model_type` of a config.json, or transformers' name for it; InputError for a missing or an unknown one."""
    for architecture in LAYOUTS:
        if config.get("model_type") in (architecture, *(name for name, now in RENAMED.items() if now == architecture)):
            return architecture
    if "model_type" not in config:
        raise InputError(f"config.json: the key model_type is missing; add the model's, one of {list(LAYOUTS)}")
    raise InputError(f"config.json: model_type is {brief(config['model_type'])}; these are read: {list(LAYOUTS)}")


def key_of(architecture: Architecture, field: str) -> str:
    """The key of config.json that sets a field of `Transformer`; the field's own name if none does."""
    return next((key for key, names in LAYOUTS[architecture].keys.required.items() if field in names), field)


def model_from_config(config: Mapping[str, Any]) -> Transformer:
    """The encoder that a parsed config.json describes.

    Raises InputError for keys that are missing (class defaults are not trusted: they change between releases) and for
    settings that the model cannot express.
    """
    architecture = architecture_of_config(config)
    with naming(f"config.json of {architecture}"):
        try:
            return Transformer(**_model_fields(config, architecture))
        except ConfigError as error:
            raise InputError(f"{key_of(architecture, error.field)} ({error.field}) {error.message}") from error


def _model_fields(config: Mapping[str, Any], architecture: Architecture) -> dict[str, Any]:
    layout = LAYOUTS[architecture]
    keys = layout.keys
    config = _with_one_name_each(config, keys)
    absent = sorted({*keys.required, *keys.activations} - {*config})
    if absent:
        raise InputError(f"these keys are needed and missing: {absent}")
    neutral = {**keys.constant, **EVERYWHERE}
    check_constants(config, {key: value for key, value in neutral.items() if key not in keys.harmless})
    _check_code(config, keys.code)
    values: dict[str, Any] = dict(keys.fixed)
    for key, names in keys.required.items():
        if key != "pad_token_id":
            values |= dict.fromkeys(names, checked_number(key, config[key], names[0]))
    if values["depth"] > MOST_LAYERS:
        raise InputError(f"{key_of(architecture, 'depth')} must be at most {MOST_LAYERS}, got {values['depth']}")
    for key, name in keys.activations.items():
        values[name] = checked_activation(config[key], key, keys.readable)
    values["pad_id"] = _pad_id(config, values)
    values |= layout.fields(config, values)
    if "initializer_range" in config:
        values["initial_scale"] = checked_number("initializer_range", config["initializer_range"], "initial_scale")
    return values


def _with_one_name_each(config: Mapping[str, Any], keys: Keys) -> dict[str, Any]:
    """The entries with transformers' second names replaced, and with the values of old files' missing keys."""
    result = {**keys.defaults, **config}
    for alias, key in keys.aliases.items():
        if alias not in config:
            continue
        if key in config and (type(config[alias]) is not type(config[key]) or config[alias] != config[key]):
            raise InputError(
                f"{alias} and {key} are two names of one setting, got {brief(config[alias])} and {brief(config[key])}: "
                "remove the wrong one"
            )
        result[key] = config[alias]
    return result


def _check_code(config: Mapping[str, Any], known: str) -> None:
    """Raise for a folder whose model is computed by a program of its own, unless its name matches `known`."""
    code = config.get("auto_map")
    own: Any = code
    if isinstance(code, Mapping):
        models = [key for key in code if str(key).startswith("AutoModel")]
        own = sorted(str(key) for key in models if not known or not re.fullmatch(known, str(code[key])))
    if own:
        raise InputError(
            f"auto_map names a program of its own for {brief(own)}, which is not run; if the model is the standard "
            "one, remove that entry"
        )


def _pad_id(config: Mapping[str, Any], values: Mapping[str, Any]) -> int | None:
    """pad_token_id, which models that count positions after padding must have."""
    pad_id = config.get("pad_token_id")
    if pad_id is None and "positions_after_padding" not in values:
        return None
    pad_id = checked_number("pad_token_id", pad_id, "pad_id")
    if pad_id >= values["vocabulary"]:
        raise InputError(f"pad_token_id must be below vocab_size, which is {values['vocabulary']}, got {pad_id}")
    return int(pad_id)


def head_from_config(config: Mapping[str, Any], model: Transformer) -> VocabularyHead:
    """The vocabulary head that a parsed config.json describes; `model` is the encoder that it describes."""
    architecture = architecture_of_config(config)
    with naming(f"config.json of {architecture}"):
        layout = LAYOUTS[architecture]
        tied = checked_flag(config, "tie_word_embeddings", layout.keys.tied)
        return VocabularyHead(**layout.head(config, model), tied=tied)
