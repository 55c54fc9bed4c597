"""MPNet in Hugging Face's files (Song et al. 2020): BERT with one table of relative positions for all layers."""

from collections.abc import Mapping
from typing import Any

from ctx_jax.encoders.transformer.huggingface.keys import BERT, ROBERTA, Keys
from ctx_jax.encoders.transformer.huggingface.names import EMBEDDINGS, Entry, classes, dense, norm
from ctx_jax.encoders.transformer.huggingface.names import ROBERTA as ROBERTA_NAMES
from ctx_jax.io.errors import InputError

_LAYER = "encoder.layer.{l}"
NAMES = ROBERTA_NAMES._replace(
    prefix="mpnet.",
    body=(
        *EMBEDDINGS,
        Entry("encoder.relative_attention_bias.weight", ("relative/embedding",)),
        *dense(f"{_LAYER}.attention.attn.q", "layer_{l}/query"),
        *dense(f"{_LAYER}.attention.attn.k", "layer_{l}/key"),
        *dense(f"{_LAYER}.attention.attn.v", "layer_{l}/value"),
        *dense(f"{_LAYER}.attention.attn.o", "layer_{l}/output"),
        *norm(f"{_LAYER}.attention.LayerNorm", "layer_{l}/attention_norm"),
        *dense(f"{_LAYER}.intermediate.dense", "layer_{l}/up"),
        *dense(f"{_LAYER}.output.dense", "layer_{l}/down"),
        *norm(f"{_LAYER}.output.LayerNorm", "layer_{l}/feed_forward_norm"),
        *dense("pooler.dense", "pooler"),
    ),
    classes=classes("MPNet"),
)
KEYS = Keys(
    required={key: names for key, names in BERT.required.items() if key != "type_vocab_size"},
    activations=BERT.activations,
    fixed={
        **ROBERTA.fixed,
        "token_types": 0,
        "relative": "bias",
        "relative_buckets": 32,
        "relative_distance": 128,
    },
    # transformers computes with 32 buckets whatever the key says.
    constant={"relative_attention_num_buckets": 32, "is_causal": False},
    defaults={"layer_norm_eps": 1e-12},
)


def fields(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """None; InputError for a padding id from which transformers does not count positions."""
    if values["pad_id"] != 1:
        raise InputError(f"pad_token_id is {values['pad_id']}, and MPNet counts positions after 1: set 1")
    return {}
