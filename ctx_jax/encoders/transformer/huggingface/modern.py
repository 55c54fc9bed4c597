"""ModernBERT in Hugging Face's files: names of tensors and keys of `config.json`.

Its own keys say which layers are local, how far they attend, and the rotary bases.
"""

from collections.abc import Mapping
from typing import Any

from ctx_jax.encoders.transformer.huggingface.keys import SIZES, WRITTEN, Keys
from ctx_jax.encoders.transformer.huggingface.names import DENSE, TOKENS, Entry, LabelHead, Names, dense, norm
from ctx_jax.encoders.transformer.huggingface.values import (
    check_constants,
    checked_activation,
    checked_flag,
    checked_number,
)
from ctx_jax.encoders.transformer.model import Transformer
from ctx_jax.heads import VocabularyHead
from ctx_jax.io.errors import InputError, brief

MODERNBERT_NAMES = Names(
    prefix="model.",
    body=(
        Entry("embeddings.tok_embeddings.weight", ("embeddings/tokens",)),
        *norm("embeddings.norm", "embeddings/norm"),
        *dense("layers.{l}.attn.Wqkv", "layer_{l}/query", "layer_{l}/key", "layer_{l}/value"),
        *dense("layers.{l}.attn.Wo", "layer_{l}/output"),
        *norm("layers.{l}.attn_norm", "layer_{l}/attention_norm"),
        *dense("layers.{l}.mlp.Wi", "layer_{l}/gate", "layer_{l}/up"),
        *dense("layers.{l}.mlp.Wo", "layer_{l}/down"),
        *norm("layers.{l}.mlp_norm", "layer_{l}/feed_forward_norm"),
        *norm("final_norm", "final_norm"),
    ),
    heads=(
        *dense("head.dense", "masked_lm/dense"),
        *norm("head.norm", "masked_lm/norm"),
        Entry("decoder.weight", ("masked_lm/decoder/matrix",)),
        Entry("decoder.bias", ("masked_lm/decoder/bias",)),
    ),
    head_prefixes={"masked_lm": ("head.", "decoder.")},
    embedding="embeddings.tok_embeddings.weight",
    tied_copy="decoder.weight",
    ignored=r".*rotary_emb\.inv_freq",
    labels=(LabelHead("classifier", "classifier", dense="head.dense", norm="head.norm"),),
    shared_by_labels=("classifier.", "qa_outputs."),
    classes={
        frozenset(): "ModernBertModel",
        frozenset({"masked_lm"}): "ModernBertForMaskedLM",
        frozenset({f"classifier{DENSE}"}): "ModernBertForSequenceClassification",
        frozenset({f"classifier{DENSE}", TOKENS}): "ModernBertForTokenClassification",
    },
)
MODERNBERT_KEYS = Keys(
    required={
        **SIZES,
        "norm_eps": ("norm_epsilon",),
        "norm_bias": ("norm_bias",),
        "attention_bias": ("attention_bias",),
        "mlp_bias": ("feed_forward_bias",),
        "pad_token_id": ("pad_id",),
        "embedding_dropout": ("embedding_dropout",),
        "attention_dropout": ("attention_dropout", "attention_output_dropout"),
        "mlp_dropout": ("feed_forward_inner_dropout",),
    },
    activations={"hidden_activation": "activation"},
    fixed={
        "gated": True,
        "norm": "pre",
        "first_attention_norm": False,
        "positions": "rotary",
        "token_types": 0,
        "feed_forward_dropout": 0.0,
        "depth_scaled": True,
    },
    constant={"is_causal": False},
    further=(
        *("layer_types", "global_attn_every_n_layers", "local_attention", "sliding_window"),
        *("rope_parameters", "global_rope_theta", "local_rope_theta"),
        *("classifier_activation", "classifier_bias", "decoder_bias"),
    ),
    neutral=("head_dim", "rope_scaling"),
)

KINDS = ("full_attention", "sliding_attention")  # of global and of local layers
_OLD = {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"}
# Of a kind's rope_parameters; transformers does not use the third with rope_type default.
_ROTARY = ("rope_type", "rope_theta", "partial_rotary_factor", "type")


def modern_fields(config: Mapping[str, Any], sizes: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `Transformer` that ModernBERT's own keys set; `sizes` are the fields read before."""
    check_constants(config, {"head_dim": sizes["dim"] // sizes["heads"]})
    global_theta, local_theta = thetas(config, _OLD)
    return {
        "local_layers": _local_layers(config, sizes["depth"]),
        "window": _window(config),
        "rotary_theta": global_theta,
        "local_rotary_theta": local_theta,
    }


def _window(config: Mapping[str, Any]) -> int:
    """Half of local_attention; transformers also takes the half, as sliding_window."""
    if "local_attention" not in config and "sliding_window" not in config:
        raise InputError("these keys are needed and missing: ['local_attention']")
    windows = {}
    if "local_attention" in config:
        windows["local_attention"] = checked_number("local_attention", config["local_attention"], "window") // 2
    if "sliding_window" in config:
        windows["sliding_window"] = checked_number("sliding_window", config["sliding_window"], "window")
    if len({*windows.values()}) > 1:
        raise InputError(
            f"sliding_window must be half of local_attention, got {config['sliding_window']} and "
            f"{config['local_attention']}: remove the wrong one"
        )
    return next(iter(windows.values()))


def _local_layers(config: Mapping[str, Any], layers: int) -> tuple[int, ...]:
    if config.get("layer_types") is None:
        if "global_attn_every_n_layers" not in config:
            raise InputError("it needs layer_types or global_attn_every_n_layers")
        # A count from 1, as heads.
        every = checked_number("global_attn_every_n_layers", config["global_attn_every_n_layers"], "heads")
        return tuple(layer for layer in range(layers) if layer % every)
    return layer_kinds(config, layers)


def layer_kinds(config: Mapping[str, Any], layers: int) -> tuple[int, ...]:
    """The local ones of `layers` layers, as layer_types says."""
    kinds = config.get("layer_types")
    if not isinstance(kinds, list) or len(kinds) != layers or any(kind not in KINDS for kind in kinds):
        raise InputError(f"layer_types must name {layers} layers, each one of {list(KINDS)}, got {brief(kinds)}")
    return tuple(layer for layer, kind in enumerate(kinds) if kind == "sliding_attention")


def thetas(config: Mapping[str, Any], old: Mapping[str, str]) -> list[float]:
    """The rotary base of the global layers and that of the local ones: newer files hold both in rope_parameters, older
    ones in the keys `old`."""
    scaling = config.get("rope_scaling")
    if scaling is not None and scaling not in ({}, {"rope_type": "default"}, {"type": "default"}):
        raise InputError(f"rope_scaling is {brief(scaling)}, only null can be expressed")
    rotary = config.get("rope_parameters")
    if rotary is None:
        absent = sorted({*old.values()} - {*config})
        if absent:
            raise InputError(f"it needs rope_parameters, or these keys too: {absent}")
        bases = {key: config[key] for key in old.values()}
        if bases.get("local_rope_theta", 0) is None:
            bases["local_rope_theta"] = bases["global_rope_theta"]
    else:
        bases = {}
        for kind in KINDS:
            part = rotary.get(kind) if isinstance(rotary, Mapping) else None
            part = part if isinstance(part, Mapping) else {}
            rope_type = part.get("rope_type", part.get("type", "default"))
            if rope_type != "default" or "rope_theta" not in part or part.keys() - {*_ROTARY}:
                raise InputError(f"rope_parameters need rope_type default and a theta: {brief(rotary)}")
            bases[f"rope_theta of {kind}"] = part["rope_theta"]
    return [checked_number(key, theta, "rotary_theta") for key, theta in bases.items()]


def modern_head(config: Mapping[str, Any], model: Transformer) -> dict[str, Any]:
    """The fields of its vocabulary head."""
    key = "classifier_activation"
    return {
        "norm_epsilon": model.norm_epsilon,
        "norm_bias": model.norm_bias,
        "activation": checked_activation(config.get(key, "gelu"), key),
        "bias": checked_flag(config, "classifier_bias", False),
        "decoder_bias": checked_flag(config, "decoder_bias", True),
    }


def modern_entries(model: Transformer, head: VocabularyHead | None) -> dict[str, Any]:
    """ModernBERT's own keys for a model and its vocabulary head."""
    head = head or VocabularyHead(bias=False)
    bases = {"full_attention": model.rotary_theta, "sliding_attention": model.local_rotary_theta}
    return {
        "layer_types": [KINDS[layer in model.local_layers] for layer in range(model.depth)],
        "rope_parameters": {kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in bases.items()},
        "local_attention": 2 * model.window,
        "classifier_activation": WRITTEN[head.activation],
        "classifier_bias": head.bias,
        "decoder_bias": head.decoder_bias,
    }
