"""Convert ELMo's published weights, arrays of an HDF5 file, to the parameters of a `BiLM`, and back.

Names and shapes are those of allenai/bilm-tf, which AllenNLP reads too; kernels are stored [in, out], so nothing is
transposed. Letters: P projection, V vocabulary.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from ctx_jax.encoders.elmo.allennlp_options import KEYS
from ctx_jax.encoders.elmo.model import BiLM
from ctx_jax.io.errors import InputError
from ctx_jax.tokenizers.characters import CHARACTERS
from ctx_jax.typing import Params

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


_Value = TypeVar("_Value")
_MOST_PROBLEMS = 50  # that one error lists


class _Spec(NamedTuple):
    """An array of the file."""

    path: tuple[str, ...]  # in the parameters
    shape: tuple[int, ...]  # in the file
    squeeze: bool = False  # the file has a leading axis of 1, the height of a 2-d convolution


def params_from_arrays(model: BiLM, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Float32 parameters from arrays under bilm-tf's names.

    Without softmax arrays, the result is the encoder's tree. With `softmax/W` [V, P] and `softmax/b` [V] (for a tied
    softmax of a model over words, `softmax/b` alone) it is

        {"encoder": tree, "head": {"softmax": {"decoder": {"matrix": [V, P], "bias": [V]}}}}

    For one layer, bilm-tf leaves `MultiRNNCell/Cell0` out of the names; both forms are read.

    Raises one InputError that lists every array that is missing, extra or of the wrong shape.
    """
    arrays = _with_cell_names(model, arrays)
    specs = _checked_specs(model, {name: tuple(array.shape) for name, array in arrays.items()})
    head = any(name.startswith("softmax/") for name in arrays)
    params: dict[str, Any] = {}
    for name, spec in specs.items():
        node = params
        path = spec.path if not head or spec.path[0] == "head" else ("encoder", *spec.path)
        for key in path[:-1]:
            node = node.setdefault(key, {})
        array = np.asarray(arrays[name], dtype=np.float32)
        node[path[-1]] = jnp.asarray(array[0] if spec.squeeze else array)
    return params


def check_shapes(model: BiLM, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise the InputError of `params_from_arrays` for the shapes of arrays, before any is read."""
    _checked_specs(model, _with_cell_names(model, shapes))


def _with_cell_names(model: BiLM, arrays: Mapping[str, _Value]) -> dict[str, _Value]:
    """The arrays by name, the cell's name added where bilm-tf leaves it out."""
    if model.depth > 1:
        return dict(arrays)
    return {name.replace("RNN/LSTMCell/", _CELL.format(0)): array for name, array in arrays.items()}


def _checked_specs(model: BiLM, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, _Spec]:
    """The arrays of the model, after a check that `shapes` are theirs."""
    # Counts first: the options may ask for more layers than could be listed.
    for field, wanted, pattern in (
        ("depth", model.depth, r"RNN_[01]/RNN/MultiRNNCell/Cell(\d{1,9})/"),
        ("highways", model.highways if model.token_input == "characters" else 0, r"CNN_high_(\d{1,9})/"),
        ("filters", len(model.filters) if model.token_input == "characters" else 0, r"CNN/[Wb]_cnn_(\d{1,9})$"),
    ):
        numbers = {int(match[1]) for name in shapes if (match := re.match(pattern, name))}
        if wanted > max(numbers, default=-1) + 1:
            held = max(numbers, default=-1) + 1
            raise InputError(f"options: {KEYS[field]} asks for {wanted}, the weights hold {held}")
    head = {name: shape for name, shape in shapes.items() if name.startswith("softmax/")}
    specs = _encoder_specs(model) | (_softmax_specs(model, head) if head else {})
    problems = [f"missing: {name} {spec.shape}" for name, spec in specs.items() if name not in shapes]
    problems += [f"extra: {name[:200]} {shape}" for name, shape in shapes.items() if name not in specs]
    for name, shape in shapes.items():
        if name in specs and shape != specs[name].shape:
            problems.append(f"wrong shape: {name} is {shape}, the model needs {specs[name].shape}")
            if name == "char_embed" and shape == (CHARACTERS + 1, model.character_dim):
                problems[-1] += " (the zero row of padding is added by readers and must not be in the file)"
    if problems:
        more = [f"and {len(problems) - _MOST_PROBLEMS} more"] if len(problems) > _MOST_PROBLEMS else []
        raise InputError("the arrays do not fit the model:\n  " + "\n  ".join(problems[:_MOST_PROBLEMS] + more))
    return specs


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
    shapes = {name: np.shape(array) for name, array in softmax.items()}
    for name, spec in (_encoder_specs(model) | (_softmax_specs(model, shapes) if shapes else {})).items():
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


def _softmax_specs(model: BiLM, given: Mapping[str, tuple[int, ...]]) -> dict[str, _Spec]:
    """Arrays of the softmax, with V taken from the shapes `given`; a model over words without `softmax/W` has a tied
    softmax."""
    tied = model.token_input == "words" and "softmax/W" not in given
    sized = given.get("softmax/b", given.get("softmax/W"))
    vocabulary = model.vocabulary if tied or sized is None else (*sized, 0)[0]
    shapes = {"softmax/W": (vocabulary, model.projection), "softmax/b": (vocabulary,)}
    return {
        name: _Spec(("head", "softmax", "decoder", _SOFTMAX[name]), shape)
        for name, shape in shapes.items()
        if not (tied and name == "softmax/W")
    }


def _encoder_specs(model: BiLM) -> dict[str, _Spec]:
    specs: dict[str, _Spec] = {}
    # Layers of one kind have the same shapes: one of each is traced.
    small = jax.eval_shape(replace(model, depth=1, highways=min(model.highways, 1)).init, jax.random.key(0))
    modules = dict(small)
    for kind, count in (("highway", model.highways), ("forward", model.depth), ("backward", model.depth)):
        if f"{kind}_0" in small:
            modules |= {f"{kind}_{number}": small[f"{kind}_0"] for number in range(count)}
    for module, arrays in modules.items():
        kind, _, number = module.partition("_")
        for array, like in arrays.items():
            name = _NAMES[f"{kind}/{array}"].format(number)
            squeeze = (kind, array) == ("convolution", "kernel")
            specs[name] = _Spec((module, array), (1, *like.shape) if squeeze else like.shape, squeeze)
    return specs
