"""Every key of transformers' config classes is read, refused when it is not neutral, or known to change nothing."""

import dataclasses
import importlib
import inspect
import re
from typing import Any

import numpy as np
import pytest

from ctx_jax.encoders.transformer.huggingface.config import head_from_config, model_from_config
from ctx_jax.encoders.transformer.huggingface.gpt import GPT_READ
from ctx_jax.encoders.transformer.huggingface.keys import READ
from ctx_jax.encoders.transformer.huggingface.layouts import LAYOUTS, decided_keys
from ctx_jax.ops.dense import activate

# About the file, what is returned and labels: no config class computes hidden states with them.
UNTRIED = {
    *("architectures", "transformers_version", "name_or_path", "_name_or_path", "dtype", "torch_dtype"),
    *("output_attentions", "output_hidden_states", "return_dict", "use_return_dict", "use_cache"),
    *("id2label", "label2id", "problem_type"),
}
# Of classes whose defaults are no model that is read.
SETTINGS: dict[str, dict[str, Any]] = {
    "electra": {"embedding_size": 256},
    "deberta-v2": {
        "relative_attention": True,
        "position_buckets": 256,
        "pos_att_type": ["c2p", "p2c"],
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
    },
}
OTHERS = (True, False, None, 7, 0.25, "tanh", {"x": 1})  # values of another kind, or not the default


def _config_class(model_type: str) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.CONFIG_MAPPING[model_type]


def _entries(model_type: str) -> dict[str, Any]:
    """The entries of a whole config.json with the class's defaults."""
    return _config_class(model_type)(**SETTINGS.get(model_type, {})).to_dict()


def _keys(model_type: str) -> set[str]:
    """Fields, second names and settable properties of the class, and what modelling code asks a config for."""
    made = _config_class(model_type)
    names = {field.name for field in dataclasses.fields(made)} | {*made.attribute_map}
    names |= {name for name, value in inspect.getmembers(made) if isinstance(value, property) and value.fset}
    modules = [made.__module__.replace("configuration_", "modeling_")]
    modules += ["transformers.masking_utils", "transformers.utils.output_capturing", "transformers.utils.generic"]
    for module in modules:
        source = inspect.getsource(importlib.import_module(module))
        names |= set(re.findall(r"""getattr\((?:self\.)?config, ["'](\w+)["']""", source))
        names |= set(re.findall(r"\bconfig\.([a-z]\w+)\b(?!\()", source)) if module == modules[0] else set()
    return {name for name in names if not name.startswith("_")}


def _noticed(entries: dict[str, Any], key: str) -> bool:
    """Whether some other value of a key gives another model or head, or an error that names the key."""
    model = model_from_config(entries)
    head = head_from_config(entries, model)
    for value in (*OTHERS, *([entries[key] * 2] if isinstance(entries.get(key), int | float) else [])):
        changed = {**entries, key: value}
        try:
            other = model_from_config(changed)
            if (other, head_from_config(changed, other)) != (model, head):
                return True
        except ValueError as error:
            if key in str(error):
                return True
    return False


@pytest.mark.parametrize("model_type", LAYOUTS)
def test_every_key_of_the_installed_config_class_is_decided(model_type: str) -> None:
    entries, keys = _entries(model_type), _keys(model_type)
    assert {"vocab_size", "pad_token_id", "tie_last_hidden_states", "is_causal"} <= keys
    decided = decided_keys(model_type, keys)
    assert not decided["unknown"]
    wrong = sorted(key for key in decided["read"] + decided["neutral"] if not _noticed(entries, key))
    assert not wrong, wrong
    assert decided_keys(model_type, ["nobody_knows_it"])["unknown"] == ["nobody_knows_it"]


@pytest.mark.parametrize("model_type", LAYOUTS)
def test_keys_called_harmless_change_nothing_in_transformers(model_type: str) -> None:
    """The hidden states of a small model with each of the class's harmless keys set to something else."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    made = _config_class(model_type)
    small = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 23}
    small |= {"max_position_embeddings": 16, **SETTINGS.get(model_type, {})}
    small |= {"embedding_size": 8} if model_type in ("electra", "albert") else {}
    sizes = {"intermediate_size": 12, "hidden_dim": 12, "num_key_value_heads": 1, "head_dim": 4}
    sized = {field.name for field in dataclasses.fields(made)} & {*sizes}
    small |= {"pad_token_id": 0, **{name: sizes[name] for name in sized}}
    kinds = {"t5": transformers.T5EncoderModel, "mt5": transformers.MT5EncoderModel}
    ids = torch.tensor([[2, 5, 9, 4, 7, 3]])

    def states(state: Any, **entries: Any) -> Any:
        torch.manual_seed(0)
        config = made(**{**small, **entries})
        model = kinds.get(model_type, transformers.AutoModel.from_config)(config).eval()
        model.load_state_dict(state or model.state_dict())
        with torch.no_grad():
            return model(input_ids=ids, output_hidden_states=True, return_dict=True).hidden_states, model.state_dict()

    expected, state = states(None)
    fields = {field.name: field.default for field in dataclasses.fields(made)}
    for key in {*decided_keys(model_type, fields)["harmless"]} - UNTRIED:
        other = {bool: not fields[key], int: 3, float: 0.4, str: "mean"}.get(type(fields[key]), 3)
        if key == "summary_activation":
            other = "tanh"
        if key == "classifier_dropout":  # of a type that the default does not show
            other = 0.4
        if key == "chunk_size_feed_forward":
            other = 2  # transformers wants a divisor of the length
        found, _ = states(state, **{key: other})
        for ours, theirs in zip(expected, found, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6, err_msg=key)


@pytest.mark.parametrize("model_type", LAYOUTS)
def test_values_of_missing_keys_are_the_classes_own(model_type: str) -> None:
    entries = _entries(model_type)
    for key, value in LAYOUTS[model_type].keys.defaults.items():
        if value is not None:
            assert _config_class(model_type)().to_dict()[key] == value
            assert model_from_config({name: entries[name] for name in entries if name != key}) == model_from_config(
                {**entries, key: value}
            )


@pytest.mark.slow
def test_activations_are_those_of_transformers() -> None:
    torch = pytest.importorskip("torch")
    activations = pytest.importorskip("transformers.activations")
    openai = importlib.import_module("transformers.models.openai.modeling_openai")
    values = np.linspace(-9, 9, 400, dtype=np.float32)
    pairs = [(READ[name], activations.ACT2FN[name]) for name in READ]
    pairs += [(GPT_READ[name], function) for name, function in openai.ACT_FNS.items()]
    for name, function in pairs:
        np.testing.assert_allclose(activate(name, values), function(torch.tensor(values)), rtol=1e-5, atol=2e-6)
