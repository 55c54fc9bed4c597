"""NomicBERT in Hugging Face's files (Nussbaum et al. 2024): BERT with rotary positions, SwiGLU and no biases.

A config.json may have transformers' keys or those of the authors' own program, which are GPT-2's.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ctx_jax.encoders.transformer.huggingface.keys import BERT, READ, Keys
from ctx_jax.encoders.transformer.huggingface.names import BERT as BERT_NAMES
from ctx_jax.encoders.transformer.huggingface.names import LINEAR, Entry, classes, dense, norm
from ctx_jax.encoders.transformer.huggingface.rotary import ROTARY, rotary_entries, rotary_fields
from ctx_jax.encoders.transformer.huggingface.values import check_constants
from ctx_jax.encoders.transformer.model import Transformer
from ctx_jax.heads import VocabularyHead

_LAYER = "encoder.layers.{l}"
NAMES = BERT_NAMES._replace(
    prefix="nomic_bert.",
    old_prefixes=("bert.",),
    body=(
        Entry("embeddings.word_embeddings.weight", ("embeddings/tokens",)),
        Entry("embeddings.token_type_embeddings.weight", ("embeddings/types",)),
        *norm("emb_ln", "embeddings/norm"),
        *dense(f"{_LAYER}.attn.Wqkv", "layer_{l}/query", "layer_{l}/key", "layer_{l}/value"),
        *dense(f"{_LAYER}.attn.out_proj", "layer_{l}/output"),
        *norm(f"{_LAYER}.norm1", "layer_{l}/attention_norm"),
        *dense(f"{_LAYER}.mlp.fc11", "layer_{l}/up"),
        *dense(f"{_LAYER}.mlp.fc12", "layer_{l}/gate"),
        *dense(f"{_LAYER}.mlp.fc2", "layer_{l}/down"),
        *norm(f"{_LAYER}.norm2", "layer_{l}/feed_forward_norm"),
        *dense("pooler.dense", "pooler"),
    ),
    heads=(
        *dense("cls.predictions.transform.dense", "masked_lm/dense"),
        *norm("cls.predictions.transform.layer_norm", "masked_lm/norm"),
        Entry("cls.predictions.decoder.weight", ("masked_lm/decoder/matrix",)),
        Entry("cls.predictions.bias", ("masked_lm/decoder/bias",)),
    ),
    head_prefixes={"masked_lm": ("cls.predictions.",), "pooler": ("pooler.",)},
    ignored=r".*rotary_emb\.inv_freq",
    labels=LINEAR[:1],
    classes={
        heads: name
        for heads, name in classes("NomicBert", "pooler", "classifier").items()
        if heads not in ({"pooler"}, {"qa_outputs"})  # transformers' model alone has no pooler
    },
)
# The authors' keys that must have the value of the published models.
_PUBLISHED: Mapping[str, Any] = {
    **dict.fromkeys(("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias", "prenorm", "parallel_block", "causal"), False),
    **dict.fromkeys(("use_rms_norm", "rotary_emb_interleaved", "scale_attn_by_inverse_layer_idx"), False),
    "scale_attn_weights": True,
    "rotary_emb_fraction": 1.0,
}
_UNSCALED = ("rotary_emb_scale_base", "rotary_scaling_factor")
KEYS = Keys(
    required=BERT.required,
    activations={"hidden_act": "activation"},
    fixed={
        "gated": True,
        "positions": "rotary",
        "attention_bias": False,
        "feed_forward_bias": False,
        "local_rotary_theta": 10_000.0,
    },
    constant={"is_causal": False},
    defaults={"layer_norm_eps": 1e-12, "pad_token_id": 0},
    aliases={
        "n_embd": "hidden_size",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_inner": "intermediate_size",
        "n_positions": "max_position_embeddings",
        "activation_function": "hidden_act",
        "resid_pdrop": "hidden_dropout_prob",
        "attn_pdrop": "attention_probs_dropout_prob",
        "layer_norm_epsilon": "layer_norm_eps",
        "rotary_emb_base": "rope_theta",
    },
    further=(*ROTARY, *_UNSCALED),
    neutral=("head_dim", *_PUBLISHED),
    readable={**READ, "swiglu": "silu", "geglu": "gelu"},
    code=r"nomic-ai/.*modeling_hf_nomic_bert\.NomicBert\w+",
)


def fields(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary positions; InputError for what the published models do not have."""
    check_constants(config, {"head_dim": values["dim"] // values["heads"], **_PUBLISHED})
    check_constants({key: value for key, value in config.items() if value is not None}, dict.fromkeys(_UNSCALED))
    return rotary_fields(config, values)


def completed(config: Mapping[str, Any], tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Zeros for the biases that the authors' vocabulary head has only with `mlp_fc1_bias`, and transformers' always."""
    dense, decoder = "cls.predictions.transform.dense", "cls.predictions.decoder"
    if config.get("mlp_fc1_bias", True) or f"{dense}.weight" not in tensors or NAMES.embedding not in tensors:
        return {}
    sizes = {f"{dense}.bias": len(tensors[f"{dense}.weight"])}
    if f"{decoder}.bias" not in tensors:
        sizes["cls.predictions.bias"] = len(tensors[NAMES.embedding])
    return {name: np.zeros(size, np.float32) for name, size in sizes.items() if name not in tensors}


def entries(model: Transformer, head: VocabularyHead | None) -> dict[str, Any]:
    """The entries of config.json that the tables do not write."""
    return rotary_entries(model)
