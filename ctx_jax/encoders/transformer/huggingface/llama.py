"""Qwen3 and EuroBERT in Hugging Face's files: the tensors and keys of Llama.

RMS norms before attention and feed-forward, grouped queries, SwiGLU, rotary positions (Zhang et al. 2025, Boizard et
al. 2025). Qwen3 is causal and has a norm over each head.
"""

from collections.abc import Mapping
from typing import Any

from ctx_jax.encoders.transformer.huggingface.keys import SIZES, Keys
from ctx_jax.encoders.transformer.huggingface.names import Entry, LabelHead, Names, dense
from ctx_jax.encoders.transformer.huggingface.rotary import ROTARY, rotary_entries, rotary_fields
from ctx_jax.encoders.transformer.huggingface.values import check_constants, checked_number
from ctx_jax.encoders.transformer.model import Transformer
from ctx_jax.heads import VocabularyHead
from ctx_jax.io.errors import InputError, brief

_LAYER = "layers.{l}"
MATRICES = (
    *dense(f"{_LAYER}.self_attn.q_proj", "layer_{l}/query"),
    *dense(f"{_LAYER}.self_attn.k_proj", "layer_{l}/key"),
    *dense(f"{_LAYER}.self_attn.v_proj", "layer_{l}/value"),
    *dense(f"{_LAYER}.self_attn.o_proj", "layer_{l}/output"),
    *dense(f"{_LAYER}.mlp.gate_proj", "layer_{l}/gate"),
    *dense(f"{_LAYER}.mlp.up_proj", "layer_{l}/up"),
    *dense(f"{_LAYER}.mlp.down_proj", "layer_{l}/down"),
)
LAST_TOKEN = LabelHead("score", "score", bias=False)  # of texts; that of tokens has a bias
QWEN3_NAMES = Names(
    prefix="model.",
    body=(
        Entry("embed_tokens.weight", ("embeddings/tokens",)),
        *MATRICES,
        Entry(f"{_LAYER}.self_attn.q_norm.weight", ("layer_{l}/query_norm/scale",)),
        Entry(f"{_LAYER}.self_attn.k_norm.weight", ("layer_{l}/key_norm/scale",)),
        Entry(f"{_LAYER}.input_layernorm.weight", ("layer_{l}/attention_norm/scale",)),
        Entry(f"{_LAYER}.post_attention_layernorm.weight", ("layer_{l}/feed_forward_norm/scale",)),
        Entry("norm.weight", ("final_norm/scale",)),
    ),
    heads=(Entry("lm_head.weight", ("causal_lm/decoder/matrix",)),),
    head_prefixes={"causal_lm": ("lm_head.",)},
    embedding="embed_tokens.weight",
    tied_copy="lm_head.weight",
    ignored=r".*rotary_emb\.inv_freq",
    labels=(LAST_TOKEN, LabelHead("classifier", "score")),
    classes={
        frozenset(): "Qwen3Model",
        frozenset({"causal_lm"}): "Qwen3ForCausalLM",
        frozenset({"score"}): "Qwen3ForSequenceClassification",
        frozenset({"classifier"}): "Qwen3ForTokenClassification",
    },
)
EUROBERT_NAMES = QWEN3_NAMES._replace(
    heads=(
        Entry("lm_head.weight", ("masked_lm/decoder/matrix",)),
        Entry("lm_head.bias", ("masked_lm/decoder/bias",)),
    ),
    head_prefixes={"masked_lm": ("lm_head.",)},
    labels=(),  # a text's scores are means over its tokens
    shared_by_labels=(),
    classes={frozenset(): "EuroBertModel", frozenset({"masked_lm"}): "EuroBertForMaskedLM"},
)
LLAMA_SIZES = {
    **SIZES,
    "rms_norm_eps": ("norm_epsilon",),
    "attention_bias": ("attention_bias",),
    "attention_dropout": ("attention_dropout",),
    "pad_token_id": ("pad_id",),
}
LLAMA_FIXED = {
    "norm": "pre",
    "norm_kind": "rms",
    "norm_bias": False,
    "embedding_norm": False,
    "gated": True,
    "positions": "rotary",
    "token_types": 0,
    "feed_forward_bias": False,
    **dict.fromkeys(("embedding_dropout", "attention_output_dropout", "feed_forward_dropout"), 0.0),
    "local_rotary_theta": 10_000.0,
}
QWEN3_KEYS = Keys(
    required={**LLAMA_SIZES, "head_dim": ("head_dim",)},
    activations={"hidden_act": "activation"},
    fixed={**LLAMA_FIXED, "causal": True, "head_norms": True},
    constant={"use_sliding_window": False, "is_causal": True},
    defaults={"rms_norm_eps": 1e-6, "attention_bias": False, "attention_dropout": 0.0, "pad_token_id": None},
    further=(*ROTARY, "num_key_value_heads", "layer_types"),
    harmless=("sliding_window", "max_window_layers"),  # without windows
    tied=False,
)
EUROBERT_KEYS = Keys(
    required={**LLAMA_SIZES, "mlp_bias": ("feed_forward_bias",)},
    activations={"hidden_act": "activation"},
    fixed={key: value for key, value in LLAMA_FIXED.items() if key != "feed_forward_bias"},
    constant={"is_causal": False},
    defaults={"rms_norm_eps": 1e-5, "attention_bias": False, "attention_dropout": 0.0, "mlp_bias": False},
    further=(*ROTARY, "num_key_value_heads"),
    neutral=("head_dim",),
    harmless=("pretraining_tp", "mask_token_id", "clf_pooling"),
    code=r"(.*--)?modeling_eurobert\.EuroBert\w+",
    tied=False,
)


def kv_heads(config: Mapping[str, Any]) -> dict[str, Any]:
    """The heads of keys and values; null or no key: as many as those of queries."""
    count = config.get("num_key_value_heads")
    return {"kv_heads": None if count is None else checked_number("num_key_value_heads", count, "kv_heads")}


def qwen3_fields(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary positions and grouped queries; InputError for windows."""
    kinds = config.get("layer_types")
    if kinds is not None and kinds != ["full_attention"] * values["depth"]:
        raise InputError(f"layer_types is {brief(kinds)}, only full_attention for every layer can be expressed")
    return {**rotary_fields(config, values), **kv_heads(config)}


def eurobert_fields(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary positions and grouped queries."""
    if config.get("head_dim") is not None:
        check_constants(config, {"head_dim": values["dim"] // values["heads"]})
    return {**rotary_fields(config, values), **kv_heads(config)}


def eurobert_head(config: Mapping[str, Any], model: Transformer) -> dict[str, Any]:
    """A decoder alone, with a bias where the feed-forward part has biases."""
    return {"transform": False, "decoder_bias": model.feed_forward_bias}


def entries(model: Transformer, head: VocabularyHead | None) -> dict[str, Any]:
    """The entries of config.json that the tables do not write."""
    return {**rotary_entries(model), "num_key_value_heads": model.kv_heads}
