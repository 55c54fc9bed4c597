"""Folders in the keys and names of the authors' own programs, which transformers' classes replaced."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ctx_jax.encoders.transformer import hidden_states
from ctx_jax.encoders.transformer.huggingface import folders as huggingface
from ctx_jax.encoders.transformer.huggingface.config import model_from_config
from ctx_jax.encoders.transformer.layers import rotation
from ctx_jax.heads import Head, Pooler

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


ROTARY = {"rope_type": "default", "rope_theta": 1000}
DEBERTA: dict[str, Any] = {
    **SIZES, "type_vocab_size": 0, "relative_attention": True, "position_buckets": 4, "pos_att_type": "p2c|c2p",
    "norm_rel_ebd": "layer_norm", "share_att_key": True, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}  # fmt: skip
GEMMA: dict[str, Any] = {
    **SIZES, "model_type": "gemma3_text", "num_hidden_layers": 8, "head_dim": 4, "max_position_embeddings": 16,
    "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 4, "sliding_window": 4,
    "num_key_value_heads": 1, "rope_theta": 1e6, "rope_local_base_freq": 1e4,
}  # fmt: skip


def _compare(
    kind: str, settings: dict[str, Any], config: dict[str, Any], prefix: str, folder: Path, more: Any = None
) -> None:
    """A folder with the authors' config, prefix and `more` tensors gives the hidden states of transformers' model."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    made = getattr(transformers, kind)
    reference = made(made.config_class(**settings)).eval()
    reference.save_pretrained(folder)
    own = {**load_file(folder / "model.safetensors"), **(more or {})}
    tensors = {prefix + name: tensor for name, tensor in own.items()}
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


def test_nomics_vocabulary_head_without_biases_is_transformers_with_zeros(tmp_path: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    reference = transformers.NomicBertForMaskedLM(
        transformers.NomicBertConfig(**SIZES, max_position_embeddings=16, rope_parameters=ROTARY)
    ).eval()
    biases = {"cls.predictions.transform.dense.bias", "cls.predictions.decoder.bias", "cls.predictions.bias"}
    reference.load_state_dict({name: torch.zeros(23 if "dense" not in name else 8) for name in biases}, strict=False)
    reference.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors.keys() & biases
    save_file({name: tensor for name, tensor in tensors.items() if name not in biases}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(NOMIC))
    found = huggingface.read(tmp_path)
    with torch.no_grad():
        expected = reference(torch.tensor(IDS)).logits.numpy()
    head, table = found.heads["masked_lm"], found.params["embeddings"]["tokens"]
    states = hidden_states(found.model, found.params, jnp.asarray(IDS))
    np.testing.assert_allclose(head.module.logits(head.params, states[-1], table), expected, atol=2e-5)
    huggingface.write(
        tmp_path / "ours", found.model, found.params, heads=found.heads, architecture="nomic_bert"
    )  # refuses what transformers' class does not have
    (tmp_path / "config.json").write_text(json.dumps({key: NOMIC[key] for key in NOMIC if key != "mlp_fc1_bias"}))
    with pytest.raises(ValueError, match=r"missing cls\.predictions\.transform\.dense\.bias"):
        huggingface.read(tmp_path)


def test_debertas_table_of_positions_is_left_alone_where_it_is_switched_off(tmp_path: Path) -> None:
    settings = {**DEBERTA, "position_biased_input": False, "max_position_embeddings": 16}
    config = {"model_type": "deberta-v2", **settings}
    table = {"embeddings.position_embeddings.weight": np.ones((16, 8), np.float32)}
    _compare("DebertaV2Model", settings, config, "deberta.", tmp_path, table)


@pytest.mark.parametrize("kind", ["NomicBert", "Gte"])
def test_a_pooler_alone_is_left_out_where_transformers_model_has_none(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = model_from_config(NOMIC if kind == "NomicBert" else GTE)
    pooler = Head(Pooler(), Pooler().init(jax.random.key(0), width=8))
    kinds = {"NomicBert": "nomic_bert", "Gte": "gte"}
    with pytest.warns(UserWarning, match="the pooler is left out"):
        huggingface.write(
            tmp_path / "out",
            replace(model, rotary_factor=1.0),
            model.init(jax.random.key(1)),
            heads={"pooler": pooler},
            architecture=kinds[kind],
        )
    _, info = getattr(transformers, f"{kind}Model").from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values()), info


@pytest.mark.parametrize("pattern", [{"sliding_window_pattern": 3}, {"_sliding_window_pattern": 6}])
def test_gemmas_pattern_of_layers_is_that_of_transformers(pattern: dict[str, int]) -> None:
    transformers = pytest.importorskip("transformers")
    kinds = transformers.Gemma3TextConfig(**{**GEMMA, **pattern}).layer_types
    local = tuple(layer for layer, kind in enumerate(kinds) if kind == "sliding_attention")
    assert model_from_config({**GEMMA, **pattern}).local_layers == local


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
        (GEMMA, {"_sliding_window_pattern": 3}, "_sliding_window_pattern is 3"),
    ],
)
def test_what_the_published_models_do_not_have_is_refused(
    config: dict[str, Any], changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        model_from_config({**config, **changes})
