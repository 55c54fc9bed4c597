"""DeBERTa-v2 and v3 in Hugging Face's files (He et al. 2021): attention to contents and to distances."""

from collections.abc import Mapping
from typing import Any

from ctx_jax.encoders.transformer.huggingface.keys import BERT, Keys
from ctx_jax.encoders.transformer.huggingface.names import BERT as BERT_NAMES
from ctx_jax.encoders.transformer.huggingface.names import (
    DENSE_HEAD,
    EMBEDDINGS,
    LINEAR,
    Entry,
    classes,
    dense,
    norm,
)
from ctx_jax.encoders.transformer.huggingface.values import check_constants, checked_flag, checked_number
from ctx_jax.encoders.transformer.model import Transformer
from ctx_jax.heads import VocabularyHead
from ctx_jax.io.errors import InputError, brief

_LAYER = "encoder.layer.{l}"
NAMES = BERT_NAMES._replace(
    prefix="deberta.",
    body=(
        *EMBEDDINGS,
        Entry("encoder.rel_embeddings.weight", ("relative/embedding",)),
        *norm("encoder.LayerNorm", "relative/norm"),
        *dense(f"{_LAYER}.attention.self.query_proj", "layer_{l}/query"),
        *dense(f"{_LAYER}.attention.self.key_proj", "layer_{l}/key"),
        *dense(f"{_LAYER}.attention.self.value_proj", "layer_{l}/value"),
        *dense(f"{_LAYER}.attention.output.dense", "layer_{l}/output"),
        *norm(f"{_LAYER}.attention.output.LayerNorm", "layer_{l}/attention_norm"),
        *dense(f"{_LAYER}.intermediate.dense", "layer_{l}/up"),
        *dense(f"{_LAYER}.output.dense", "layer_{l}/down"),
        *norm(f"{_LAYER}.output.LayerNorm", "layer_{l}/feed_forward_norm"),
    ),
    heads=BERT_NAMES.heads[:-2],  # but the next sentence's
    head_prefixes={"masked_lm": ("cls.predictions.",)},
    # The published files have the names of "legacy": false.
    renamed=(
        (r"lm_predictions\.lm_head\.bias", "cls.predictions.bias"),
        (r"lm_predictions\.lm_head\.(dense|LayerNorm)\.(weight|bias)", r"cls.predictions.transform.\1.\2"),
    ),
    unused=("embeddings.position_embeddings.weight",),  # without position_biased_input
    labels=(DENSE_HEAD._replace(out="classifier", dense="pooler.dense", activation="gelu"), *LINEAR),
    classes={heads: name for heads, name in classes("DebertaV2").items() if "pooler" not in heads},
)
KEYS = Keys(
    required={**BERT.required, "position_buckets": ("relative_buckets",)},
    activations=BERT.activations,
    fixed={"relative": "disentangled"},
    constant={"relative_attention": True, "pooler_hidden_act": "gelu", "is_causal": False},
    defaults={"layer_norm_eps": 1e-7, "pad_token_id": 0},
    further=("position_biased_input", "max_relative_positions", "pos_att_type"),
    neutral=(
        *("share_att_key", "norm_rel_ebd", "conv_kernel_size", "embedding_size", "attention_head_size"),
        "pooler_hidden_size",
    ),
    harmless=("pooler_dropout", "legacy", "cls_dropout", "conv_act", "conv_groups"),
)
_TERMS = {"c2p", "p2c"}


def fields(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The positions and the terms of attention; InputError for what versions 2 and 3 do not have."""
    for key, needed in (("relative_attention", True), ("share_att_key", True), ("norm_rel_ebd", "layer_norm")):
        if config.get(key) != needed:
            raise InputError(f"{key} is {brief(config.get(key))}, only {needed!r} can be expressed")
    sizes = {"embedding_size": values["dim"], "pooler_hidden_size": values["dim"], "conv_kernel_size": 0}
    check_constants(config, {**sizes, "attention_head_size": values["dim"] // values["heads"]})
    terms = config.get("pos_att_type")
    terms = [term.strip() for term in terms.lower().split("|")] if isinstance(terms, str) else terms
    if not isinstance(terms, list) or not terms or not all(isinstance(term, str) and term in _TERMS for term in terms):
        raise InputError(f"pos_att_type is {brief(config.get('pos_att_type'))}; these can be expressed: c2p, p2c")
    furthest = config.get("max_relative_positions", -1)
    if type(furthest) is not int:
        raise InputError(f"max_relative_positions needs a int, got {brief(furthest)}")
    if furthest < 1:
        furthest = values["max_positions"]
    return {
        "positions": "learned" if checked_flag(config, "position_biased_input", True) else "none",
        "relative_terms": tuple(sorted({*terms})),
        "relative_distance": checked_number("max_relative_positions", furthest, "relative_distance"),
    }


def entries(model: Transformer, head: VocabularyHead | None) -> dict[str, Any]:
    """The entries of config.json that the tables do not write."""
    return {
        "position_biased_input": model.positions == "learned",
        "pos_att_type": list(model.relative_terms),
        "max_relative_positions": model.relative_distance,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
    }
