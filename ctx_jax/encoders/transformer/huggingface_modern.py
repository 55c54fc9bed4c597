"""ModernBERT's own keys of `config.json`: which layers are local, how far they attend, and the rotary bases."""

from collections.abc import Mapping
from typing import Any

from ctx_jax.encoders.transformer.huggingface_keys import WRITTEN
from ctx_jax.encoders.transformer.huggingface_values import check_constants, checked_number
from ctx_jax.encoders.transformer.model import Transformer
from ctx_jax.heads import VocabularyHead
from ctx_jax.io.errors import InputError, brief

_KINDS = ("full_attention", "sliding_attention")  # of global and of local layers
_OLD = {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"}
# Of a kind's rope_parameters; transformers does not use the third with rope_type default.
_ROTARY = ("rope_type", "rope_theta", "partial_rotary_factor", "type")


def modern_fields(config: Mapping[str, Any], sizes: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `Transformer` that ModernBERT's own keys set; `sizes` are the fields read before."""
    check_constants(config, {"head_dim": sizes["dim"] // sizes["heads"]})
    global_theta, local_theta = _thetas(config)
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
    kinds = config.get("layer_types")
    if kinds is None:
        if "global_attn_every_n_layers" not in config:
            raise InputError("it needs layer_types or global_attn_every_n_layers")
        # A count from 1, as heads.
        every = checked_number("global_attn_every_n_layers", config["global_attn_every_n_layers"], "heads")
        return tuple(layer for layer in range(layers) if layer % every)
    if not isinstance(kinds, list) or len(kinds) != layers or any(kind not in _KINDS for kind in kinds):
        raise InputError(f"layer_types must name {layers} layers, each one of {list(_KINDS)}, got {brief(kinds)}")
    return tuple(layer for layer, kind in enumerate(kinds) if kind == "sliding_attention")


def _thetas(config: Mapping[str, Any]) -> list[float]:
    """The rotary base of the global layers and that of the local ones; newer files hold both in rope_parameters."""
    scaling = config.get("rope_scaling")
    if scaling is not None and scaling not in ({}, {"rope_type": "default"}, {"type": "default"}):
        raise InputError(f"rope_scaling is {brief(scaling)}, only null can be expressed")
    rotary = config.get("rope_parameters")
    if rotary is None:
        absent = sorted({*_OLD.values()} - {*config})
        if absent:
            raise InputError(f"it needs rope_parameters, or these keys too: {absent}")
        thetas = {key: config[key] for key in _OLD.values()}
        if thetas["local_rope_theta"] is None:
            thetas["local_rope_theta"] = thetas["global_rope_theta"]
    else:
        thetas = {}
        for kind in _KINDS:
            part = rotary.get(kind) if isinstance(rotary, Mapping) else None
            part = part if isinstance(part, Mapping) else {}
            rope_type = part.get("rope_type", part.get("type", "default"))
            if rope_type != "default" or "rope_theta" not in part or part.keys() - {*_ROTARY}:
                raise InputError(f"rope_parameters need rope_type default and a theta: {brief(rotary)}")
            thetas[f"rope_theta of {kind}"] = part["rope_theta"]
    return [checked_number(key, theta, "rotary_theta") for key, theta in thetas.items()]


def modern_config(model: Transformer, head: VocabularyHead) -> dict[str, Any]:
    """ModernBERT's own keys for a model and its vocabulary head."""
    thetas = {"full_attention": model.rotary_theta, "sliding_attention": model.local_rotary_theta}
    return {
        "layer_types": [_KINDS[layer in model.local_layers] for layer in range(model.depth)],
        "rope_parameters": {kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in thetas.items()},
        "local_attention": 2 * model.window,
        "classifier_activation": WRITTEN[head.activation],
        "classifier_bias": head.bias,
        "decoder_bias": head.decoder_bias,
    }
