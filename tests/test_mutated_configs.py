"""Configs damaged by `mutations.py` that we read: transformers computes the same from them, where it takes them."""

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from mutations import mutated_json

from ctx_jax.encoders.transformer import hidden_states
from ctx_jax.encoders.transformer.huggingface import folders as huggingface
from ctx_jax.encoders.transformer.huggingface.layouts import LAYOUTS

SEEDS = 15
ENCODERS = ("t5", "mt5")
SETTINGS: dict[str, dict[str, Any]] = {
    "mpnet": {"pad_token_id": 1},
    **{encoder: {"d_kv": 4, "d_ff": 12} for encoder in ENCODERS},
    "deberta-v2": {
        "relative_attention": True,
        "position_buckets": 4,
        "pos_att_type": ["c2p", "p2c"],
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
    },
    "gemma3_text": {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"] * 2},
}
IDS = np.array([[2, 5, 9, 4, 7, 3], [3, 8, 22, 6, 3, 11]])


def _tiny(model_type: str) -> Any:
    """A random model of transformers."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    made = transformers.CONFIG_MAPPING[model_type]
    fields = {field.name for field in dataclasses.fields(made)}
    settings: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 4, "num_attention_heads": 2}
    settings |= {"vocab_size": 23, "max_position_embeddings": 16, "pad_token_id": 0}
    optional = {"intermediate_size": 12, "hidden_dim": 12, "embedding_size": 8, "local_attention": 4}
    optional |= dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 1)
    settings |= {key: value for key, value in optional.items() if key in fields}
    settings |= {"num_key_value_heads": 1, "head_dim": 4} if "num_key_value_heads" in fields else {}
    settings |= SETTINGS.get(model_type, {})
    torch.manual_seed(0)
    model = (
        (transformers.AutoModelForTextEncoding if model_type in ENCODERS else transformers.AutoModel)
        .from_config(made(**settings))
        .eval()
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def _states(folder: Path, encoder: bool) -> np.ndarray | None:
    """transformers' hidden states, of the `encoder` of T5; None for a config that it refuses."""
    import torch
    import transformers

    try:
        kind = transformers.AutoModelForTextEncoding if encoder else transformers.AutoModel
        model = kind.from_pretrained(folder, dtype=torch.float32).eval()
        with torch.no_grad():
            out = model(input_ids=torch.tensor(IDS), output_hidden_states=True, return_dict=True)
    except Exception:  # whatever a damaged config raises there
        return None
    return torch.stack(out.hidden_states).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("model_type", LAYOUTS)
def test_what_is_read_is_what_transformers_computes(model_type: str, tmp_path: Path) -> None:
    reference = _tiny(model_type)
    reference.save_pretrained(tmp_path)
    config = {**reference.config.to_dict(), "dtype": "float32", "is_causal": None, "tie_last_hidden_states": None}
    config |= {alias: getattr(reference.config, alias) for alias in reference.config.attribute_map}
    if model_type == "gemma3_text":
        config["is_causal"] = True  # null is refused
    if model_type == "modernbert":
        config |= {"sliding_window": 2, "global_attn_every_n_layers": 3, "rope_scaling": None}
    compared = 0
    for seed in range(SEEDS):
        data = mutated_json(json.dumps(config).encode(), random.Random(f"{model_type} {seed}"))
        (tmp_path / "config.json").write_bytes(data)
        try:
            found = huggingface.read(tmp_path)
        except ValueError:
            continue
        if (expected := _states(tmp_path, model_type in ENCODERS)) is None:
            continue
        ours = hidden_states(found.model, found.params, jnp.asarray(IDS))
        np.testing.assert_allclose(ours, expected, rtol=0, atol=3e-5, err_msg=f"seed {seed}: {data[:3000]!r}")
        compared += 1
    assert compared > SEEDS / 4
