"""Hugging Face folders against transformers: the same numbers in, and no tensor missing or new on the way out."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctx_jax.encoders.transformer import Transformer, hidden_states
from ctx_jax.encoders.transformer.huggingface import folders as huggingface
from ctx_jax.heads import Head

SIZES = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
GPT2 = {"vocab_size": 23, "n_positions": 16, "n_embd": 8, "n_layer": 2, "n_head": 2}
T5 = {"vocab_size": 23, "d_model": 8, "d_kv": 6, "d_ff": 12, "num_layers": 2, "num_heads": 2}
DEBERTA = {
    "vocab_size": 23,
    "max_position_embeddings": 16,
    **SIZES,
    "relative_attention": True,
    "position_buckets": 4,
    "pos_att_type": ["p2c", "c2p"],
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "type_vocab_size": 0,
    "position_biased_input": False,
}
SPECIAL = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 0)
GROUPED = {"vocab_size": 23, "max_position_embeddings": 16, **SIZES, "num_key_value_heads": 1, **SPECIAL}
WINDOWED = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
# (class of transformers, its config's settings)
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertForPreTraining", {"vocab_size": 23, "max_position_embeddings": 16, **SIZES}),
    "bert headless": ("BertModel", {"vocab_size": 23, "max_position_embeddings": 16, **SIZES, "hidden_act": "relu"}),
    "minilm": ("BertForMaskedLM", {"vocab_size": 23, "max_position_embeddings": 16, **SIZES, "hidden_act": "gelu_new"}),
    "bert untied": (
        "BertForMaskedLM",
        {"vocab_size": 23, "max_position_embeddings": 16, **SIZES, "tie_word_embeddings": False},
    ),
    "roberta": (
        "RobertaForMaskedLM",
        {"vocab_size": 23, "max_position_embeddings": 16, **SIZES, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    ),
    "xlm-roberta": (
        "XLMRobertaForMaskedLM",
        {"vocab_size": 23, "max_position_embeddings": 16, **SIZES, "type_vocab_size": 1},
    ),
    "camembert": (
        "CamembertForMaskedLM",
        {"vocab_size": 23, "max_position_embeddings": 16, **SIZES, "type_vocab_size": 1},
    ),
    "electra": ("ElectraForMaskedLM", {"vocab_size": 23, "max_position_embeddings": 16, **SIZES, "embedding_size": 8}),
    "electra small": (
        "ElectraForMaskedLM",
        {"vocab_size": 23, "max_position_embeddings": 16, **SIZES, "embedding_size": 4},
    ),
    "xlm-roberta-xl": (
        "XLMRobertaXLForMaskedLM",
        {"vocab_size": 23, "max_position_embeddings": 16, **SIZES, "type_vocab_size": 1},
    ),
    "data2vec-text": (
        "Data2VecTextForMaskedLM",
        {"vocab_size": 23, "max_position_embeddings": 16, **SIZES, "type_vocab_size": 1},
    ),
    "electra headless": (
        "ElectraModel",
        {"vocab_size": 23, "max_position_embeddings": 16, **SIZES, "embedding_size": 8, "hidden_act": "relu"},
    ),
    "distilbert": (
        "DistilBertForMaskedLM",
        {"vocab_size": 23, "max_position_embeddings": 16, "dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 12},
    ),
    "mpnet": ("MPNetForMaskedLM", {"vocab_size": 23, "max_position_embeddings": 16, **SIZES, "hidden_act": "relu"}),
    "mpnet headless": ("MPNetModel", {"vocab_size": 23, "max_position_embeddings": 16, **SIZES}),
    "albert": (
        "AlbertForPreTraining",
        {"vocab_size": 23, "max_position_embeddings": 16, **SIZES, "num_hidden_layers": 3, "embedding_size": 4},
    ),
    "albert masked": (
        "AlbertForMaskedLM",
        {"vocab_size": 23, "max_position_embeddings": 16, **SIZES, "embedding_size": 8},
    ),
    "nomic_bert": ("NomicBertForMaskedLM", {"vocab_size": 23, "max_position_embeddings": 16, **SIZES}),
    "gte": (
        "GteForMaskedLM",
        {"vocab_size": 23, "max_position_embeddings": 16, **SIZES, "pad_token_id": 0, "type_vocab_size": 0},
    ),
    "gte linear": (
        "GteModel",
        {
            "vocab_size": 23,
            "max_position_embeddings": 16,
            **SIZES,
            "pad_token_id": 0,
            "rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 100.0},
        },
    ),
    "t5": ("T5EncoderModel", {**T5, "layer_norm_epsilon": 1e-5}),
    "mt5": ("MT5EncoderModel", {**T5, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 6}),
    "deberta-v2": ("DebertaV2ForMaskedLM", DEBERTA),
    "deberta-v2 positions": (
        "DebertaV2Model",
        {
            **DEBERTA,
            "pos_att_type": "c2p",
            "position_biased_input": True,
            "type_vocab_size": 2,
            "max_relative_positions": 7,
        },
    ),
    "qwen3": ("Qwen3ForCausalLM", {**GROUPED, "head_dim": 6}),
    "qwen3 tied": ("Qwen3ForCausalLM", {**GROUPED, "head_dim": 4, "attention_bias": True, "tie_word_embeddings": True}),
    "eurobert": ("EuroBertForMaskedLM", GROUPED),
    "eurobert biases": ("EuroBertForMaskedLM", {**GROUPED, "mlp_bias": True, "attention_bias": True}),
    "gemma3_text": (
        "Gemma3TextModel",
        {**GROUPED, **WINDOWED, "use_bidirectional_attention": True, "query_pre_attn_scalar": 5, "head_dim": 6},
    ),
    "gemma3_text causal": ("Gemma3ForCausalLM", {**GROUPED, **WINDOWED, "head_dim": 6, "attention_bias": True}),
    "modernbert": (
        "ModernBertForMaskedLM",
        {
            "vocab_size": 23,
            "max_position_embeddings": 16,
            **SIZES,
            "num_hidden_layers": 4,
            "local_attention": 4,
            **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0),
        },
    ),
    "gpt2": ("GPT2LMHeadModel", {**GPT2, "bos_token_id": 0, "eos_token_id": 0}),
    "openai-gpt": ("OpenAIGPTLMHeadModel", GPT2),
}
IDS = np.array([[2, 5, 9, 4, 7, 3, 8, 22], [2, 6, 3, 11, 3, 0, 0, 0]])
MASK = np.array([[1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0, 0]])
TYPES = np.array([[0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 1, 0, 0, 0]])


def _theirs(model: Any, ids: np.ndarray, token_types: bool) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """transformers' hidden states and named outputs."""
    import torch

    given = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(MASK)}
    if token_types:
        given["token_type_ids"] = torch.tensor(TYPES)
    with torch.no_grad():
        out = model.eval()(**given, output_hidden_states=True)
    names = ("logits", "prediction_logits", "seq_relationship_logits", "sop_logits", "pooler_output")
    return torch.stack(out.hidden_states).numpy(), {name: out[name].numpy() for name in names if name in out}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_parity_with_transformers_in_and_out(name: str, tmp_path: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    kind, settings = ARCHITECTURES[name]
    torch.manual_seed(0)
    made = getattr(transformers, kind)
    reference = made(made.config_class(**settings))
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    reference.save_pretrained(tmp_path / "theirs")

    model, params, heads, config = huggingface.read(tmp_path / "theirs")
    types = model.token_types > 1
    ids = np.where(MASK, IDS, 1) if model.positions_after_padding else IDS
    hidden, outputs = _theirs(reference, ids, types)
    ours = _ours(model, params, heads, ids, types)
    real = MASK.astype(bool)
    np.testing.assert_allclose(ours["hidden"][:, real], hidden[:, real], rtol=0, atol=2e-5)
    for output in ("logits", "prediction_logits"):
        if output in outputs:
            np.testing.assert_allclose(ours["logits"][real], outputs[output][real], rtol=0, atol=2e-5)
    for output in outputs.keys() - {"logits", "prediction_logits"}:
        np.testing.assert_allclose(ours[output], outputs[output], rtol=0, atol=2e-5)

    huggingface.write(tmp_path / "ours", model, params, heads=heads, architecture=config["model_type"])
    back, info = made.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values()), info
    again, named = _theirs(back, ids, types)
    # Gemma's files hold norms less 1, and torch's products depend on where tensors stand in a file.
    same = partial(np.testing.assert_allclose, rtol=0, atol=2e-6 if config["model_type"] == "gemma3_text" else 0)
    same(again, hidden)
    assert named.keys() == outputs.keys()
    for output, values in named.items():
        same(values, outputs[output])


def _ours(
    model: Transformer, params: Any, heads: dict[str, Head], ids: np.ndarray, token_types: bool
) -> dict[str, np.ndarray]:
    @jax.jit
    def run(params: Any, trees: dict[str, Any]) -> dict[str, jax.Array]:
        given = {"token_types": jnp.asarray(TYPES)} if token_types else {}
        hidden = hidden_states(model, params, jnp.asarray(ids), mask=jnp.asarray(MASK, bool), **given)
        results = {"hidden": hidden}
        for name in heads.keys() & {"masked_lm", "causal_lm"}:
            table = params["embeddings"]["tokens"]
            results["logits"] = heads[name].module.logits(trees[name], hidden[-1], table)
        if "pooler" in heads:
            results["pooler_output"] = heads["pooler"].module.vectors(trees["pooler"], hidden[-1])
        for name, output in (("next_sentence", "seq_relationship_logits"), ("sentence_order", "sop_logits")):
            if name in heads:
                results[output] = heads[name].module.logits(trees[name], results["pooler_output"])
        return results

    trees = {name: head.params for name, head in heads.items()}
    return {name: np.asarray(value) for name, value in run(params, trees).items()}
