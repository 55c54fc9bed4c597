"""Convert ELMo's published files, `options.json` and an HDF5 of weights, to a `BiLM` with parameters, and back.

Names and shapes are those of allenai/bilm-tf, which AllenNLP reads too; kernels are stored [in, out], so nothing is
transposed. Letters: P projection, V vocabulary.
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
    # bilm-tf's "carry" gate multiplies the transform, hence "gate" here.
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
"""Our module (without its number) and array -> name in the file."""
_SOFTMAX = {"softmax/W": "matrix", "softmax/b": "bias"}

_Kind = TypeVar("_Kind", int, float, bool)
_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


def model_from_options(options: Mapping[str, Any]) -> BiLM:
    """The model that `options.json` describes; options of training and of inference are both read.

    An absent clip means no clipping, an absent `n_highway` 0. Options without `char_cnn` describe bilm-tf's language
    model over words, whose table has `n_tokens_vocab` rows.

    Raises InputError for unknown or missing keys and for values that the model does not support.
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


def params_from_arrays(model: BiLM, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Float32 parameters from arrays under bilm-tf's names.

    Without softmax arrays, the result is the encoder's tree. With `softmax/W` [V, P] and `softmax/b` [V] (for a tied
    softmax of a model over words, `softmax/b` alone) it is

        {"encoder": tree, "head": {"softmax": {"decoder": {"matrix": [V, P], "bias": [V]}}}}

    For one layer, bilm-tf leaves `MultiRNNCell/Cell0` out of the names; both forms are read.

    Raises one InputError that lists every array that is missing, extra or of the wrong shape.
    """
    if model.depth == 1:
        arrays = {name.replace("RNN/LSTMCell/", _CELL.format(0)): array for name, array in arrays.items()}
    head = {name for name in arrays if name.startswith("softmax/")}
    specs = _encoder_specs(model) | (_softmax_specs(model, arrays) if head else {})
    shapes = {name: tuple(array.shape) for name, array in arrays.items()}
    problems = [f"missing: {name} {spec.shape}" for name, spec in specs.items() if name not in shapes]
    problems += [f"extra: {name} {shape}" for name, shape in shapes.items() if name not in specs]
    for name, shape in shapes.items():
        if name in specs and shape != specs[name].shape:
            problems.append(f"wrong shape: {name} is {shape}, the model needs {specs[name].shape}")
            if name == "char_embed" and shape == (CHARACTERS + 1, model.character_dim):
                problems[-1] += " (the zero row of padding is added by readers and must not be in the file)"
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
    """The inverse of `params_from_arrays`: float32 arrays under bilm-tf's names, from either form of `params`.

    Trees of the same structure, such as gradients, are converted too. Raises InputError for a model of GRU cells, and
    where an array of the model is missing from `params` or has another shape.
    """
    if model.cell != "lstm":
        raise InputError(f"the original's files hold LSTM cells; this model has cell={model.cell!r}")
    encoder = params.get("encoder", params)
    decoder = params.get("head", {}).get("softmax", {}).get("decoder", {})
    softmax = {name: decoder[key] for name, key in _SOFTMAX.items() if key in decoder}
    arrays = {}
    for name, spec in (_encoder_specs(model) | (_softmax_specs(model, softmax) if softmax else {})).items():
        node, path = params if name in _SOFTMAX else encoder, "/".join(spec.path)
        for key in spec.path:
            if key not in node:
                raise InputError(f"params lack {path}, which the model needs")
            node = node[key]
        array = np.asarray(node, dtype=np.float32)
        arrays[name] = array[None] if spec.squeeze else array
        if arrays[name].shape != spec.shape:
            raise InputError(f"{path} would be {arrays[name].shape}, the model needs {spec.shape}")
    return arrays


class _Spec(NamedTuple):
    """An array of the file."""

    path: tuple[str, ...]  # in the parameters
    shape: tuple[int, ...]  # in the file
    squeeze: bool = False  # the file has a leading axis of 1, the height of a 2-d convolution


def _softmax_specs(model: BiLM, arrays: Mapping[str, Any]) -> dict[str, _Spec]:
    """Arrays of the softmax, with V taken from `arrays`; a model over words without `softmax/W` has a tied softmax."""
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
    """V of the softmax in training options, after checking them; 0 for inference options."""
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
    filters, activation = options["filters"], options.get("activation", "relu")
    if not isinstance(filters, list | tuple) or any(
        not isinstance(pair, list | tuple) or len(pair) != 2 for pair in filters
    ):
        raise InputError(f"options: char_cnn filters must be a list of [width, count] pairs, got {filters!r}")
    if activation not in ("relu", "tanh"):
        raise InputError(f"options char_cnn: activation must be relu or tanh, got {activation!r}")
    return {
        "max_characters": _checked(options["max_characters_per_token"], int, "char_cnn max_characters_per_token"),
        "character_dim": _checked(options["embedding"]["dim"], int, "char_cnn embedding dim"),
        "filters": tuple(
            (_checked(width, int, "a filter's width"), _checked(count, int, "a filter's count"))
            for width, count in filters
        ),
        "activation": activation,
        "highways": _checked(options.get("n_highway") or 0, int, "char_cnn n_highway"),
    }


def _clip(value: Any, key: str) -> float | None:
    """0 means no clipping, as in bilm-tf."""
    return _checked(value, float, key) if value else None


def _checked(value: Any, kind: type[_Kind], key: str) -> _Kind:
    """`value` converted to `kind`: 0 and 1 pass as booleans, true and false do not pass as numbers."""
    if kind is bool:
        fits = isinstance(value, int) and value in (0, 1)
    else:
        fits = isinstance(value, int | kind) and not isinstance(value, bool)
    if not fits:
        raise InputError(f"options: {key} must be {_KINDS[kind]}, got {value!r}")
    return kind(value)


def _check_keys(where: str, options: Any, known: set[str], needed: set[str]) -> None:
    if not isinstance(options, Mapping):
        raise InputError(f"{where} must be an object with {sorted(needed)}, got {type(options).__name__}")
    missing, extra = sorted(needed - set(options)), sorted(set(options) - known)
    if missing or extra:
        raise InputError(f"{where}: missing keys {missing}, unknown keys {extra}; known are {sorted(known)}")
