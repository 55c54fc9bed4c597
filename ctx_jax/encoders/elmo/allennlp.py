"""ELMo's published files, `options.json` and an HDF5 of weights, to our model and parameters and back.

Names and shapes are those of allenai/bilm-tf, which AllenNLP reads too; kernels are stored [in, out], so nothing is
transposed. Letters: C characters, F CNN filters in all, P projection, D cell, V vocabulary.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from ctx_jax.encoders.elmo.model import BiLM
from ctx_jax.io.errors import InputError
from ctx_jax.tokenizers.characters import CHARACTERS
from ctx_jax.typing import Params

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


_CELL = "RNN/MultiRNNCell/Cell{}/LSTMCell/"
_NAMES = {
    "characters/embedding": "char_embed",
    "words/embedding": "embedding",
    "convolution/kernel": "CNN/W_cnn_{}",
    "convolution/bias": "CNN/b_cnn_{}",
    # The original's "carry" gates the transform; our name says so.
    "highway/gate_kernel": "CNN_high_{}/W_carry",
    "highway/gate_bias": "CNN_high_{}/b_carry",
    "highway/kernel": "CNN_high_{}/W_transform",
    "highway/bias": "CNN_high_{}/b_transform",
    "projection/kernel": "CNN_proj/W_proj",
    "projection/bias": "CNN_proj/b_proj",
    "forward/kernel": "RNN_0/" + _CELL + "W_0",
    "forward/bias": "RNN_0/" + _CELL + "B",
    "forward/projection": "RNN_0/" + _CELL + "W_P_0",
    "backward/kernel": "RNN_1/" + _CELL + "W_0",
    "backward/bias": "RNN_1/" + _CELL + "B",
    "backward/projection": "RNN_1/" + _CELL + "W_P_0",
}
"""Our module, without its number, and array -> the file's name."""
_SOFTMAX = {"softmax/W": "matrix", "softmax/b": "bias"}

_Kind = TypeVar("_Kind", int, float, bool)
_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


def model_from_options(options: Mapping[str, Any]) -> BiLM:
    """The model that `options.json` describes, in its training form or its inference form.

    An absent clip means none, an absent `n_highway` 0. Options without `char_cnn` describe the original's language
    model over words, whose table has `n_tokens_vocab` rows.

    Raises InputError for keys that are unknown or missing and for values the model cannot express.
    """
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
        return BiLM(**fields, **_character_fields(options["char_cnn"]))
    if not words:
        raise InputError("options: without char_cnn the model reads words and needs n_tokens_vocab")
    return BiLM(token_input="words", vocabulary=words, **fields)


def options_from_model(model: BiLM) -> dict[str, Any]:
    """The inference form of `options.json` (`n_characters` 262), as AllenNLP and bilm-tf read it."""
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


def params_from_arrays(model: BiLM, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters from arrays under the original's names, float32.

    Without softmax arrays the encoder's tree. With `softmax/W` [V, P] and `softmax/b` [V] (of a model over words whose
    softmax is tied, `softmax/b` alone)

        {"encoder": tree, "head": {"softmax": {"decoder": {"matrix": [V, P], "bias": [V]}}}}

    With one layer the original leaves `MultiRNNCell/Cell0` out of the names; both forms are read.

    Raises one InputError that lists every array that is missing, extra or of a wrong shape.
    """
    if model.depth == 1:
        arrays = {name.replace("RNN/LSTMCell/", _CELL.format(0)): array for name, array in arrays.items()}
    head = {name for name in arrays if name.startswith("softmax/")}
    specs = _encoder_specs(model) | (_softmax_specs(model, arrays) if head else {})
    problems = [f"missing: {name} {spec.shape}" for name, spec in specs.items() if name not in arrays]
    problems += [f"extra: {name} {tuple(array.shape)}" for name, array in arrays.items() if name not in specs]
    for name, spec in specs.items():
        if name in arrays and tuple(arrays[name].shape) != spec.shape:
            shape = tuple(arrays[name].shape)
            hint = ""
            if name == "char_embed" and shape == (CHARACTERS + 1, model.character_dim):
                hint = " (the zero row of padding is added by readers and must not be in the file)"
            problems.append(f"wrong shape: {name} is {shape}, the model needs {spec.shape}{hint}")
    if problems:
        raise InputError("the arrays do not fit the model:\n  " + "\n  ".join(problems))
    params: dict[str, Any] = {}
    for name, spec in specs.items():
        node = params
        path = spec.path if name in head or not head else ("encoder", *spec.path)
        for key in path[:-1]:
            node = node.setdefault(key, {})
        array = np.asarray(arrays[name], dtype=np.float32)
        node[path[-1]] = jnp.asarray(array[0] if spec.squeeze else array)
    return params


def arrays_from_params(model: BiLM, params: Params) -> dict[str, np.ndarray]:
    """The inverse of `params_from_arrays`, of either form: arrays under the original's names, float32.

    Also for any other tree of these arrays, such as gradients. Raises InputError for a model of GRU cells, and where
    `params` lacks an array of the model or has one of another shape.
    """
    if model.cell != "lstm":
        raise InputError(f"the original's files hold LSTM cells; this model has cell={model.cell!r}")
    encoder = params.get("encoder", params)
    arrays = {name: _array(encoder, spec) for name, spec in _encoder_specs(model).items()}
    decoder = params.get("head", {}).get("softmax", {}).get("decoder", {})
    softmax = {name: decoder[key] for name, key in _SOFTMAX.items() if key in decoder}
    for name, spec in (_softmax_specs(model, softmax) if softmax else {}).items():
        arrays[name] = _array(params, spec)
    return arrays


class _Spec(NamedTuple):
    """An array of the file: its path in the parameters and its shape."""

    path: tuple[str, ...]
    shape: tuple[int, ...]  # in the file
    squeeze: bool = False  # the file has a leading axis of 1 (a 2-d convolution's height)


def _array(params: Any, spec: _Spec) -> np.ndarray:
    for key in spec.path:
        if key not in params:
            raise InputError(f"params lack {'/'.join(spec.path)}, which the model needs")
        params = params[key]
    array = np.asarray(params, dtype=np.float32)
    array = array[None] if spec.squeeze else array
    if array.shape != spec.shape:
        raise InputError(f"{'/'.join(spec.path)} would be {array.shape}, the model needs {spec.shape}")
    return array


def _softmax_specs(model: BiLM, arrays: Mapping[str, Any]) -> dict[str, _Spec]:
    """Of a softmax of as many words as these arrays have; tied where a model over words has no `softmax/W`."""
    tied = model.token_input == "words" and "softmax/W" not in arrays
    sized = arrays.get("softmax/b", arrays.get("softmax/W"))
    vocabulary = model.vocabulary if tied or sized is None else (*np.shape(sized), 0)[0]
    shapes = {"softmax/W": (vocabulary, model.projection), "softmax/b": (vocabulary,)}
    return {
        name: _Spec(("head", "softmax", "decoder", _SOFTMAX[name]), shape)
        for name, shape in shapes.items()
        if not (tied and name == "softmax/W")
    }


def _encoder_specs(model: BiLM) -> dict[str, _Spec]:
    specs: dict[str, _Spec] = {}
    for module, arrays in jax.eval_shape(model.init, jax.random.key(0)).items():
        kind, _, number = module.partition("_")
        for array, like in arrays.items():
            name = _NAMES[f"{kind}/{array}"].format(number)
            squeeze = (kind, array) == ("convolution", "kernel")
            specs[name] = _Spec((module, array), (1, *like.shape) if squeeze else like.shape, squeeze)
    return specs


def _softmax_words(options: Mapping[str, Any]) -> int:
    """V of the softmax that training options describe, which is checked; 0 for inference options."""
    words = _checked(options.get("n_tokens_vocab", 0), int, "n_tokens_vocab")
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
            f"got {options['n_characters']}"
        )
    activation = options.get("activation", "relu")
    if activation not in ("relu", "tanh"):
        raise InputError(f"options char_cnn: activation must be relu or tanh, got {activation!r}")
    return {
        "max_characters": _checked(options["max_characters_per_token"], int, "char_cnn max_characters_per_token"),
        "character_dim": _checked(options["embedding"]["dim"], int, "char_cnn embedding dim"),
        "filters": _filters(options["filters"]),
        "activation": activation,
        "highways": _checked(options.get("n_highway") or 0, int, "char_cnn n_highway"),
    }


def _clip(value: Any, key: str) -> float | None:
    """0 means none, as in the original programs."""
    return _checked(value, float, key) if value else None


def _checked(value: Any, kind: type[_Kind], key: str) -> _Kind:
    """`value` as an int, float or bool; 0 and 1 are booleans too, and true and false are no numbers."""
    if kind is bool:
        fits = isinstance(value, int) and value in (0, 1)
    else:
        fits = isinstance(value, int | kind) and not isinstance(value, bool)
    if not fits:
        raise InputError(f"options: {key} must be {_KINDS[kind]}, got {value!r}")
    return kind(value)


def _filters(value: Any) -> tuple[tuple[int, int], ...]:
    if not isinstance(value, list | tuple) or any(
        not isinstance(pair, list | tuple) or len(pair) != 2 for pair in value
    ):
        raise InputError(f"options: char_cnn filters must be a list of [width, count] pairs, got {value!r}")
    return tuple(
        (_checked(width, int, "a filter's width"), _checked(count, int, "a filter's count")) for width, count in value
    )


def _check_keys(where: str, options: Any, known: set[str], needed: set[str]) -> None:
    if not isinstance(options, Mapping):
        raise InputError(f"{where} must be an object with {sorted(needed)}, got {type(options).__name__}")
    missing, extra = sorted(needed - set(options)), sorted(set(options) - known)
    if missing or extra:
        raise InputError(f"{where}: missing keys {missing}, unknown keys {extra}; known are {sorted(known)}")
