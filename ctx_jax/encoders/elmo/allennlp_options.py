"""ELMo's `options.json` to a `BiLM`, and back; every value is checked by its key."""

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from ctx_jax.encoders.elmo.model import BiLM
from ctx_jax.io.errors import ConfigError, InputError, brief, listed
from ctx_jax.tokenizers.characters import CHARACTERS

SOFTMAX_OPTIONS = {"n_tokens_vocab", "n_negative_samples_batch", "sample_softmax", "share_embedding_softmax"}
_TRAINING = SOFTMAX_OPTIONS | {
    "bidirectional",
    "dropout",
    "all_clip_norm_val",
    "n_epochs",
    "n_train_tokens",
    "batch_size",
    "unroll_steps",
    "learning_rate",
}
_LSTM = {"dim", "projection_dim", "n_layers", "cell_clip", "proj_clip", "use_skip_connections"}
_CHARACTERS = {"activation", "embedding", "filters", "max_characters_per_token", "n_characters", "n_highway"}

_Kind = TypeVar("_Kind", int, float, bool)
_FLOAT_MAX = 3.4028234e38  # of float32
_INT_MAX = 2**31 - 1
_MOST_CHARACTERS = 10_000  # of a word: a batch has room for so many at each word
KEYS = {
    "dim": "lstm dim",
    "projection": "lstm projection_dim",
    "depth": "lstm n_layers",
    "cell_clip": "lstm cell_clip",
    "projection_clip": "lstm proj_clip",
    "vocabulary": "n_tokens_vocab",
    "max_characters": "char_cnn max_characters_per_token",
    "character_dim": "char_cnn embedding dim",
    "filters": "char_cnn filters",
    "highways": "char_cnn n_highway",
}
"""Field of the model -> key of the options."""
_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


def model_from_options(options: Mapping[str, Any]) -> BiLM:
    """The model that `options.json` describes; options of training and of inference are both read.

    An absent clip means no clipping, an absent `n_highway` 0. Options without `char_cnn` describe bilm-tf's language
    model over words, whose table has `n_tokens_vocab` rows.

    Raises InputError for unknown or missing keys and for values that the model does not support.
    """
    try:
        return BiLM(**_fields(options))
    except ConfigError as error:
        raise InputError(f"options: {KEYS.get(error.field, error.field)} {error.message}") from error


def _fields(options: Mapping[str, Any]) -> dict[str, Any]:
    _check_keys("options", options, _TRAINING | {"lstm", "char_cnn"}, {"lstm"})
    if not _checked(options.get("bidirectional", True), bool, "bidirectional"):
        raise InputError("options: bidirectional is false; only bidirectional models are read")
    lstm = options["lstm"]
    _check_keys("options lstm", lstm, _LSTM, {"dim", "projection_dim", "n_layers"})
    words = _softmax_words(options)
    fields: dict[str, Any] = {
        "dim": _checked(lstm["dim"], int, "lstm dim"),
        "projection": _checked(lstm["projection_dim"], int, "lstm projection_dim"),
        "depth": _checked(lstm["n_layers"], int, "lstm n_layers"),
        "cell_clip": _clip(lstm.get("cell_clip"), "lstm cell_clip"),
        "projection_clip": _clip(lstm.get("proj_clip"), "lstm proj_clip"),
        "residual": _checked(lstm.get("use_skip_connections", False), bool, "lstm use_skip_connections"),
        "dropout": _checked(options.get("dropout", 0.0), float, "dropout"),
    }
    if "char_cnn" in options:
        return fields | _character_fields(options["char_cnn"])
    if not words:
        raise InputError("options: without char_cnn the model reads words and needs n_tokens_vocab")
    return {"token_input": "words", "vocabulary": words, **fields}


def options_from_model(model: BiLM) -> dict[str, Any]:
    """The content of `options.json` for inference (`n_characters` 262), as AllenNLP and bilm-tf read it."""
    if model.token_input != "characters" or model.cell != "lstm":
        raise InputError(
            "AllenNLP's files hold character models with LSTM cells; "
            f"this one has token_input={model.token_input!r}, cell={model.cell!r}"
        )
    return {
        "lstm": {
            "use_skip_connections": model.residual,
            "projection_dim": model.projection,
            "cell_clip": model.cell_clip,
            "proj_clip": model.projection_clip,
            "dim": model.dim,
            "n_layers": model.depth,
        },
        "char_cnn": {
            "activation": model.activation,
            "filters": [list(pair) for pair in model.filters],
            "n_highway": model.highways,
            "embedding": {"dim": model.character_dim},
            "n_characters": CHARACTERS + 1,  # inference ids are one higher
            "max_characters_per_token": model.max_characters,
        },
    }


def _softmax_words(options: Mapping[str, Any]) -> int:
    """V of the softmax in training options, after checking them; 0 for inference options."""
    words = _checked(options.get("n_tokens_vocab", 0), int, "n_tokens_vocab", least=0)
    if words and _checked(options.get("sample_softmax", True), bool, "sample_softmax"):
        if "n_negative_samples_batch" not in options:
            raise InputError("options: sampled softmax needs n_negative_samples_batch, or sample_softmax false")
        _checked(options["n_negative_samples_batch"], int, "n_negative_samples_batch")
    tied = _checked(options.get("share_embedding_softmax", False), bool, "share_embedding_softmax")
    if tied and "char_cnn" in options:
        raise InputError("options: share_embedding_softmax shares a word table, which a model with char_cnn lacks")
    return words


def _character_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    needed = {"embedding", "filters", "max_characters_per_token", "n_characters"}
    _check_keys("options char_cnn", options, _CHARACTERS, needed)
    _check_keys("options char_cnn embedding", options["embedding"], {"dim"}, {"dim"})
    if options["n_characters"] not in (CHARACTERS, CHARACTERS + 1):
        raise InputError(
            f"options char_cnn: n_characters must be {CHARACTERS} (training) or {CHARACTERS + 1} (inference), "
            f"got {brief(options['n_characters'])}"
        )
    filters, activation = options["filters"], options.get("activation", "relu")
    if not isinstance(filters, list | tuple) or any(
        not isinstance(pair, list | tuple) or len(pair) != 2 for pair in filters
    ):
        raise InputError(f"options: char_cnn filters must be a list of [width, count] pairs, got {brief(filters)}")
    if activation not in ("relu", "tanh"):
        raise InputError(f"options char_cnn: activation must be relu or tanh, got {brief(activation)}")
    characters = _checked(options["max_characters_per_token"], int, "char_cnn max_characters_per_token")
    if characters > _MOST_CHARACTERS:
        raise InputError(
            f"options: char_cnn max_characters_per_token must be at most {_MOST_CHARACTERS}, got {characters}"
        )
    highways = options.get("n_highway")
    return {
        "max_characters": characters,
        "character_dim": _checked(options["embedding"]["dim"], int, "char_cnn embedding dim"),
        "filters": tuple(
            (_checked(width, int, "a filter's width"), _checked(count, int, "a filter's count"))
            for width, count in filters
        ),
        "activation": activation,
        "highways": 0 if highways is None else _checked(highways, int, "char_cnn n_highway", least=0),
    }


def _clip(value: Any, key: str) -> float | None:
    """null and 0 mean no clipping, as in bilm-tf."""
    return None if value is None else _checked(value, float, key) or None


def _checked(value: Any, kind: type[_Kind], key: str, *, least: float = -math.inf) -> _Kind:
    """`value` converted to `kind`: 0 and 1 pass as booleans, true and false do not pass as numbers."""
    if kind is bool:
        fits = isinstance(value, int) and value in (0, 1)
    else:
        fits = isinstance(value, int | kind) and not isinstance(value, bool)
    if not fits:
        raise InputError(f"options: {key} must be {_KINDS[kind]}, got {brief(value)}")
    most = _INT_MAX if kind is int else _FLOAT_MAX
    if not max(least, -most) <= value <= most:
        raise InputError(f"options: {key} must be in {max(least, -most)} to {most}, got {brief(value)}")
    return kind(value)


def _check_keys(where: str, options: Any, known: set[str], needed: set[str]) -> None:
    if not isinstance(options, Mapping):
        raise InputError(f"{where} must be an object with {sorted(needed)}, got {type(options).__name__}")
    missing, extra = sorted(needed - set(options)), sorted(set(options) - known)
    if missing or extra:
        raise InputError(f"{where}: missing keys {missing}, unknown keys {listed(extra)}; known are {sorted(known)}")
