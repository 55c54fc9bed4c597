"""GTE in Hugging Face's files (Zhang et al. 2024): BERT with rotary positions and a gate, `model_type` gte or new.

transformers' names of tensors are those of the authors' program, so that both kinds of files have one table.
"""

from collections.abc import Mapping
from typing import Any

from ctx_jax.encoders.transformer.huggingface.keys import BERT, Keys
from ctx_jax.encoders.transformer.huggingface.names import LINEAR, ROBERTA, Entry, classes, dense, norm
from ctx_jax.encoders.transformer.huggingface.rotary import ROTARY, rotary_entries, rotary_fields
from ctx_jax.encoders.transformer.huggingface.values import check_constants
from ctx_jax.encoders.transformer.model import Transformer
from ctx_jax.heads import VocabularyHead

_LAYER = "encoder.layer.{l}"
NAMES = ROBERTA._replace(
    prefix="gte.",
    old_prefixes=("new.",),
    body=(
        Entry("embeddings.word_embeddings.weight", ("embeddings/tokens",)),
        Entry("embeddings.token_type_embeddings.weight", ("embeddings/types",)),
        *norm("embeddings.LayerNorm", "embeddings/norm"),
        *dense(f"{_LAYER}.attention.qkv_proj", "layer_{l}/query", "layer_{l}/key", "layer_{l}/value"),
        *dense(f"{_LAYER}.attention.o_proj", "layer_{l}/output"),
        *norm(f"{_LAYER}.attn_ln", "layer_{l}/attention_norm"),
        *dense(f"{_LAYER}.mlp.up_gate_proj", "layer_{l}/up", "layer_{l}/gate"),
        *dense(f"{_LAYER}.mlp.down_proj", "layer_{l}/down"),
        *norm(f"{_LAYER}.mlp_ln", "layer_{l}/feed_forward_norm"),
        *dense("pooler.dense", "pooler"),
    ),
    heads=(
        *dense("lm_head.dense", "masked_lm/dense"),
        *norm("lm_head.norm", "masked_lm/norm"),
        Entry("lm_head.decoder.weight", ("masked_lm/decoder/matrix",)),
        Entry("lm_head.decoder.bias", ("masked_lm/decoder/bias",)),
    ),
    bias_copy=None,
    ignored=r".*rotary_emb\.inv_freq",
    labels=LINEAR[:1],
    classes={
        heads: name
        for heads, name in classes("Gte", "pooler", "classifier").items()
        if heads not in ({"pooler"}, {"qa_outputs"})  # transformers' model alone has no pooler
    },
)
# The authors' keys that must have the value of the published models.
_PUBLISHED: Mapping[str, Any] = {
    "position_embedding_type": "rope",
    "layer_norm_type": "layer_norm",
    "logn_attention_scale": False,
    "pack_qkv": True,
}
KEYS = Keys(
    required={
        **BERT.required,
        "hidden_dropout_prob": (*BERT.required["hidden_dropout_prob"], "feed_forward_inner_dropout"),
    },
    activations={"hidden_act": "activation"},
    fixed={
        "gated": True,
        "positions": "rotary",
        "feed_forward_bias": False,
        "down_bias": True,
        "local_rotary_theta": 10_000.0,
    },
    constant={"is_causal": False},
    defaults={"layer_norm_eps": 1e-12, "pad_token_id": None},
    further=ROTARY,
    neutral=("head_dim", *_PUBLISHED),
    code=r"Alibaba-NLP/new-impl--modeling\.New\w+",
)


def fields(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary positions; InputError for what the published models do not have."""
    check_constants(config, {"head_dim": values["dim"] // values["heads"], **_PUBLISHED})
    return rotary_fields(config, values)


def entries(model: Transformer, head: VocabularyHead | None) -> dict[str, Any]:
    """The entries of config.json that the tables do not write."""
    return rotary_entries(model)
