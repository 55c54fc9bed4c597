"""Folders in the keys and names of the authors' own programs, which transformers' classes replaced."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ctx_jax.encoders.transformer import hidden_states, huggingface
from ctx_jax.encoders.transformer.huggingface_config import model_from_config
from ctx_jax.encoders.transformer.layers import rotation

IDS = np.array([[2, 5, 9, 4, 7, 3]])
SIZES = {"vocab_size": 23, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
# Of the config.json of nomic-embed-text-v1.5, with smaller sizes.
NOMIC: dict[str, Any] = {
    "model_type": "nomic_bert", "vocab_size": 23, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_inner": 12,
    "n_positions": 16, "activation_function": "swiglu", "type_vocab_size": 2, "layer_norm_epsilon": 1e-12,
    "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False, "rotary_emb_scale_base": None, "rotary_scaling_factor": None, "prenorm": False,
    "qkv_proj_bias": False, "mlp_fc1_bias": False, "mlp_fc2_bias": False, "use_rms_norm": False, "causal": False,
    "parallel_block": False, "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False,
    "auto_map": {"AutoModel": "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel"},
}  # fmt: skip
# Of gte-base-en-v1.5's.
GTE: dict[str, Any] = {
    **SIZES, "model_type": "new", "max_position_embeddings": 16, "type_vocab_size": 0, "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.0, "layer_norm_eps": 1e-12, "pad_token_id": 0,
    "position_embedding_type": "rope", "rope_theta": 500000.0, "rope_scaling": {"factor": 2.0, "type": "ntk"},
    "layer_norm_type": "layer_norm", "logn_attention_scale": False, "pack_qkv": True, "unpad_inputs": False,
    "use_memory_efficient_attention": False,
    "auto_map": {"AutoModel": "Alibaba-NLP/new-impl--modeling.NewModel"},
}  # fmt: skip


def _compare(kind: str, settings: dict[str, Any], config: dict[str, Any], prefix: str, folder: Path) -> None:
    """A folder with the authors' config and prefix gives the hidden states of transformers' model."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    made = getattr(transformers, kind)
    reference = made(made.config_class(**settings)).eval()
    reference.save_pretrained(folder)
    tensors = {prefix + name: tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    found = huggingface.read(folder)
    with torch.no_grad():
        expected = torch.stack(reference(torch.tensor(IDS), output_hidden_states=True).hidden_states).numpy()
    np.testing.assert_allclose(hidden_states(found.model, found.params, jnp.asarray(IDS)), expected, atol=2e-5)


def test_nomics_own_keys(tmp_path: Path) -> None:
    settings = {**SIZES, "max_position_embeddings": 16}
    _compare("NomicBertModel", settings, NOMIC, "bert.", tmp_path)


def test_gtes_own_keys(tmp_path: Path) -> None:
    """Its scaling of rotary positions is a linear one with another base (Peng et al. 2023, section 3)."""
    rotary = {"rope_type": "linear", "rope_theta": 1e6, "factor": 2.0 ** (2 / 4)}
    settings = {**SIZES, "max_position_embeddings": 16, "type_vocab_size": 0, "pad_token_id": 0}
    _compare("GteModel", {**settings, "rope_parameters": rotary}, GTE, "new.", tmp_path)


def test_scaled_rotary_positions_have_the_wavelengths_of_gtes_program() -> None:
    model = model_from_config(GTE)
    width, base, factor = 4, 500000.0, 2.0
    frequencies = 1 / (base * factor) ** (np.arange(0, width, 2) / width) / factor ** (2 / width)
    cosine, _ = rotation(jnp.arange(6)[None], width, model.rotary_theta, model.rotary_factor)
    np.testing.assert_allclose(cosine[0, :, 0, :2], np.cos(np.arange(6)[:, None] * frequencies), atol=1e-6)


@pytest.mark.parametrize(
    ("config", "changes", "says"),
    [
        (NOMIC, {"use_rms_norm": True}, "use_rms_norm is True"),
        (NOMIC, {"rotary_scaling_factor": 2.0}, "rotary_scaling_factor is 2.0"),
        (NOMIC, {"auto_map": {"AutoModel": "someone/else--modeling.Model"}}, "auto_map names a program"),
        (GTE, {"position_embedding_type": "absolute"}, "position_embedding_type is 'absolute'"),
        (GTE, {"rope_scaling": {"factor": 2.0, "type": "dynamic"}}, "rope_scaling is"),
        (GTE, {"rope_scaling": {"type": "ntk"}}, "factor of rope_scaling"),
        (GTE, {"logn_attention_scale": True}, "logn_attention_scale is True"),
    ],
)
def test_what_the_published_models_do_not_have_is_refused(
    config: dict[str, Any], changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        model_from_config({**config, **changes})
