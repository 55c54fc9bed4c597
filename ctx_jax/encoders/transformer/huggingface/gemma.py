"""Gemma 3's text models in Hugging Face's files, EmbeddingGemma among them (Vera et al. 2025).

Scaled embeddings, four RMS norms a layer, whose tensors hold their scales less 1, a norm over each head, and layers
with a window and a rotary base of their own. EmbeddingGemma is not causal.
"""

from collections.abc import Mapping
from typing import Any

from ctx_jax.encoders.transformer.huggingface.keys import Keys
from ctx_jax.encoders.transformer.huggingface.llama import (
    LAST_TOKEN,
    LLAMA_FIXED,
    LLAMA_SIZES,
    MATRICES,
    QWEN3_NAMES,
    kv_heads,
)
from ctx_jax.encoders.transformer.huggingface.modern import KINDS, layer_kinds, thetas
from ctx_jax.encoders.transformer.huggingface.names import Entry
from ctx_jax.encoders.transformer.huggingface.values import checked_flag, checked_number
from ctx_jax.encoders.transformer.model import Transformer
from ctx_jax.heads import VocabularyHead
from ctx_jax.io.errors import InputError, brief

_LAYER = "layers.{l}"
_NORMS = {
    f"{_LAYER}.input_layernorm": "layer_{l}/attention_norm",
    f"{_LAYER}.post_attention_layernorm": "layer_{l}/attention_output_norm",
    f"{_LAYER}.pre_feedforward_layernorm": "layer_{l}/feed_forward_norm",
    f"{_LAYER}.post_feedforward_layernorm": "layer_{l}/feed_forward_output_norm",
    f"{_LAYER}.self_attn.q_norm": "layer_{l}/query_norm",
    f"{_LAYER}.self_attn.k_norm": "layer_{l}/key_norm",
    "norm": "final_norm",
}
NAMES = QWEN3_NAMES._replace(
    body=(
        Entry("embed_tokens.weight", ("embeddings/tokens",)),
        *MATRICES,
        *(Entry(f"{name}.weight", (f"{path}/scale",), less_one=True) for name, path in _NORMS.items()),
    ),
    labels=(LAST_TOKEN,),
    classes={
        frozenset(): "Gemma3TextModel",
        frozenset({"causal_lm"}): "Gemma3ForCausalLM",
        frozenset({"score"}): "Gemma3TextForSequenceClassification",
    },
)
KEYS = Keys(
    required={**LLAMA_SIZES, "head_dim": ("head_dim",)},
    activations={"hidden_activation": "activation"},
    fixed={
        **{key: value for key, value in LLAMA_FIXED.items() if key != "local_rotary_theta"},
        "norm": "both",
        "head_norms": True,
        "scaled_embeddings": True,
    },
    constant={"attn_logit_softcapping": None, "final_logit_softcapping": None},
    defaults={"rms_norm_eps": 1e-6, "attention_bias": False, "attention_dropout": 0.0, "pad_token_id": 0},
    further=(
        *("num_key_value_heads", "query_pre_attn_scalar", "use_bidirectional_attention", "sliding_window"),
        *("layer_types", "_sliding_window_pattern", "sliding_window_pattern"),
        *("rope_parameters", "rope_theta", "rope_local_base_freq"),
    ),
    neutral=("rope_scaling", "is_causal"),
    harmless=("text_config", "vision_config", "image_token_id", "mm_tokens_per_image"),  # of models that see
)
_PATTERN = 6
_OLD = {"full_attention": "rope_theta", "sliding_attention": "rope_local_base_freq"}


def fields(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """What its own keys set."""
    if config.get("is_causal", True) is not True:  # null means the windows on both sides in transformers 5.24
        raise InputError(f"is_causal is {brief(config['is_causal'])}, only True can be expressed")
    for key in ("query_pre_attn_scalar", "sliding_window"):
        if key not in config:
            raise InputError(f"these keys are needed and missing: [{key!r}]")
    scalar = checked_number("query_pre_attn_scalar", config["query_pre_attn_scalar"], "heads")
    both_sides = checked_flag(config, "use_bidirectional_attention", False)
    window = checked_number("sliding_window", config["sliding_window"], "heads")
    global_theta, local_theta = thetas(config, _OLD)
    return {
        **kv_heads(config),
        "attention_scale": None if scalar == values["head_dim"] else scalar**-0.5,
        "causal": not both_sides,
        # A token attends to as many tokens behind as before it, or to so many with itself.
        "window": window // 2 if both_sides else window - 1,
        "local_layers": _local_layers(config, values["depth"]),
        "rotary_theta": global_theta,
        "local_rotary_theta": local_theta,
    }


def _local_layers(config: Mapping[str, Any], depth: int) -> tuple[int, ...]:
    """Of a file without layer_types all but every sixth, unless sliding_window_pattern says otherwise. transformers
    writes the second name of that key and does not read it."""
    known = "sliding_window_pattern" in config or "_sliding_window_pattern" in config
    if config.get("layer_types") is not None or not known:
        return layer_kinds(config, depth)
    unread = config.get("_sliding_window_pattern", _PATTERN)
    count = checked_number("sliding_window_pattern", config.get("sliding_window_pattern", _PATTERN), "heads")
    if unread not in (count, _PATTERN):
        raise InputError(
            f"_sliding_window_pattern is {brief(unread)}, which transformers leaves unread: give layer_types, or "
            "sliding_window_pattern"
        )
    return tuple(layer for layer in range(depth) if (layer + 1) % count)


def entries(model: Transformer, head: VocabularyHead | None) -> dict[str, Any]:
    """The entries of config.json that the tables do not write."""
    bases = {"full_attention": model.rotary_theta, "sliding_attention": model.local_rotary_theta}
    return {
        "num_key_value_heads": model.kv_heads or model.heads,
        "query_pre_attn_scalar": round(model.score_scale**-2),
        "use_bidirectional_attention": not model.causal,
        "sliding_window": model.window + 1 if model.causal else 2 * model.window,
        "layer_types": [KINDS[layer in model.local_layers] for layer in range(model.depth)],
        "rope_parameters": {kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in bases.items()},
    }
