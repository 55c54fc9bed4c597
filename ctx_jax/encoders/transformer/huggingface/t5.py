"""The encoders of T5, mT5 and ByT5 in Hugging Face's files (Raffel et al. 2020, Xue et al. 2021 and 2022).

RMS norms without biases, a bias of distances shared by all layers, which the first one's tensors hold, scores without
scaling. A file of a whole T5 is read too: its decoder is left out.
"""

from collections.abc import Mapping
from typing import Any

from ctx_jax.encoders.transformer.huggingface.keys import WRITTEN, Keys
from ctx_jax.encoders.transformer.huggingface.names import Entry, Names, dense
from ctx_jax.encoders.transformer.huggingface.values import checked_activation
from ctx_jax.encoders.transformer.model import Transformer
from ctx_jax.heads import VocabularyHead
from ctx_jax.io.errors import InputError, brief

_BLOCK = "encoder.block.{l}.layer"
_FIRST = "encoder.block.0.layer.0.SelfAttention"
NAMES = Names(
    prefix="",
    body=(
        Entry("shared.weight", ("embeddings/tokens",)),
        Entry(f"{_FIRST}.relative_attention_bias.weight", ("relative/embedding",)),
        *dense(f"{_BLOCK}.0.SelfAttention.q", "layer_{l}/query"),
        *dense(f"{_BLOCK}.0.SelfAttention.k", "layer_{l}/key"),
        *dense(f"{_BLOCK}.0.SelfAttention.v", "layer_{l}/value"),
        *dense(f"{_BLOCK}.0.SelfAttention.o", "layer_{l}/output"),
        Entry(f"{_BLOCK}.0.layer_norm.weight", ("layer_{l}/attention_norm/scale",)),
        # A gated one has no `gate` under the first name, and another one no `gate` under the second.
        Entry(f"{_BLOCK}.1.DenseReluDense.wi.weight", ("layer_{l}/up/kernel",), True, unless="layer_{l}/gate/kernel"),
        Entry(f"{_BLOCK}.1.DenseReluDense.wi_0.weight", ("layer_{l}/gate/kernel",), True),
        Entry(f"{_BLOCK}.1.DenseReluDense.wi_1.weight", ("layer_{l}/up/kernel",), True, given="layer_{l}/gate/kernel"),
        *dense(f"{_BLOCK}.1.DenseReluDense.wo", "layer_{l}/down"),
        Entry(f"{_BLOCK}.1.layer_norm.weight", ("layer_{l}/feed_forward_norm/scale",)),
        Entry("encoder.final_layer_norm.weight", ("final_norm/scale",)),
    ),
    heads=(),
    head_prefixes={},
    classes={frozenset(): "T5EncoderModel"},
    labels=(),
    tied_copy="encoder.embed_tokens.weight",
    embedding="shared.weight",
    ignored=r"decoder\.embed_tokens\.weight",
)
KEYS = Keys(
    required={
        "vocab_size": ("vocabulary",),
        "d_model": ("dim",),
        "d_kv": ("head_dim",),
        "d_ff": ("feed_forward",),
        "num_layers": ("depth",),
        "num_heads": ("heads",),
        "relative_attention_num_buckets": ("relative_buckets",),
        "relative_attention_max_distance": ("relative_distance",),
        "layer_norm_epsilon": ("norm_epsilon",),
        "dropout_rate": (
            *("embedding_dropout", "attention_dropout", "attention_output_dropout"),
            *("feed_forward_inner_dropout", "feed_forward_dropout"),
        ),
        "pad_token_id": ("pad_id",),
    },
    activations={},
    fixed={
        "norm": "pre",
        "norm_kind": "rms",
        "norm_bias": False,
        "embedding_norm": False,
        "attention_bias": False,
        "feed_forward_bias": False,
        "attention_scale": 1.0,
        "positions": "none",
        "relative": "bias",
        "token_types": 0,
        "max_positions": 2**31 - 1,
    },
    constant={"is_decoder": False, "is_causal": False},
    defaults={"relative_attention_max_distance": 128, "layer_norm_epsilon": 1e-6, "pad_token_id": 0},
    aliases={
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
        "head_dim": "d_kv",
    },
    further=("feed_forward_proj", "dense_act_fn", "is_gated_act"),
    harmless=(
        "is_encoder_decoder",
        "num_decoder_layers",
        "decoder_start_token_id",
        "scale_decoder_outputs",
        "initializer_factor",
    ),
)


def fields(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The activation and the gate of `feed_forward_proj`: "relu" or "gated-gelu", whose gelu is the tanh one."""
    key = "feed_forward_proj"
    named = config.get(key, "relu")
    gated = isinstance(named, str) and named.startswith("gated-")
    name = named.removeprefix("gated-") if gated else named
    activation = "gelu_tanh" if named == "gated-gelu" else checked_activation(name, key)
    if config.get("is_gated_act", gated) is not gated:
        raise InputError(f"is_gated_act is {brief(config['is_gated_act'])}, which {key} {brief(named)} contradicts")
    if "dense_act_fn" in config and checked_activation(config["dense_act_fn"], "dense_act_fn") != activation:
        raise InputError(f"dense_act_fn is {brief(config['dense_act_fn'])}, which {key} {brief(named)} contradicts")
    return {"gated": gated, "activation": activation}


def entries(model: Transformer, head: VocabularyHead | None) -> dict[str, Any]:
    """The entries of config.json that the tables do not write."""
    name = "gelu" if model.gated and model.activation == "gelu_tanh" else WRITTEN.get(model.activation, "")
    return {"feed_forward_proj": f"gated-{name}" if model.gated else name, "is_encoder_decoder": False}
