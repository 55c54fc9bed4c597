"""Which settings a Transformer can have."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from ctx_jax.io.errors import ConfigError

if TYPE_CHECKING:
    from ctx_jax.encoders.transformer.model import Transformer


def check(model: Transformer) -> None:
    """Raise ConfigError for a setting that cannot be used, or not with the others."""
    for field in fields(model):
        value = getattr(model, field.name)
        if (problem := number_problem(field.name, value)) is not None:
            raise ConfigError(field.name, f"{problem}, got {value}")
    _check_heads(model)
    _check_positions(model)
    outside = [layer for layer in model.local_layers if not 0 <= layer < model.depth]
    if outside:
        raise ConfigError("local_layers", f"must lie in 0..{model.depth - 1}, got {outside}")
    if not model.first_attention_norm and model.norm != "pre":
        raise ConfigError("first_attention_norm", 'can be False with norm="pre" only: set one of them')
    if not model.first_attention_norm and model.shared_layers:
        raise ConfigError("shared_layers", "gives the first layer the norms of all: set first_attention_norm=True")
    if model.norm_kind == "rms" and model.norm_bias:
        raise ConfigError("norm_kind", "rms has no bias: set norm_bias=False")


def _check_heads(model: Transformer) -> None:
    if model.head_dim is None and model.dim % model.heads:
        raise ConfigError("dim", f"must be a multiple of heads, got {model.dim} and {model.heads}")
    if model.heads % (model.kv_heads or model.heads):
        raise ConfigError("heads", f"must be a multiple of kv_heads, got {model.heads} and {model.kv_heads}")
    if model.positions == "rotary" and model.head_width % 2:
        field = "dim" if model.head_dim is None else "head_dim"
        what = "/ heads must" if model.head_dim is None else "must"
        raise ConfigError(field, f"{what} be even for rotary positions, got {model.head_width}")


def _check_positions(model: Transformer) -> None:
    if model.positions_after_padding and (model.pad_id is None or model.positions != "learned"):
        raise ConfigError("positions_after_padding", 'needs a pad_id and positions="learned": set both')
    if model.longest < 1:
        raise ConfigError(
            "max_positions",
            f"must exceed the {model.first_position} rows up to pad_id that positions_after_padding leaves unused, "
            f"got {model.max_positions}",
        )
    if model.relative == "none":
        return
    buckets, single = model.relative_buckets, model.relative_buckets // (4 if model.relative == "bias" else 2)
    if buckets % 2 or single < 1:
        least = 4 if model.relative == "bias" else 2
        raise ConfigError("relative_buckets", f"must be even and at least {least}, got {buckets}")
    if model.relative_distance <= single + 1:
        raise ConfigError(
            "relative_distance", f"must be above {single + 1}, since closer keys have buckets of their own"
        )
    if model.relative == "disentangled" and not (model.relative_terms and {*model.relative_terms} <= {"c2p", "p2c"}):
        raise ConfigError("relative_terms", f"must name c2p, p2c or both, got {model.relative_terms}")
    if model.relative == "disentangled" and (model.kv_heads or model.heads) != model.heads:
        raise ConfigError("kv_heads", "must be heads for disentangled attention: leave it out")


_FROM_ONE = (
    *("dim", "heads", "feed_forward", "max_positions", "embedding_dim", "kv_heads", "head_dim"),
    *("relative_buckets", "relative_distance"),
)
_FROM_ZERO = ("depth", "vocabulary", "token_types", "window", "pad_id", "initial_scale")
_POSITIVE = ("rotary_theta", "local_rotary_theta", "rotary_factor", "attention_scale")
_FLOAT_MAX = 3.4028234e38  # of float32


def number_problem(field: str, value: Any) -> str | None:
    """What is wrong with the number of one field, such as "must be at least 1"; None where it is allowed."""
    if value is None:
        return None
    if field in _FROM_ONE and not value >= 1:
        return "must be at least 1"
    if field in _FROM_ZERO and not value >= 0:
        return "must be at least 0"
    if field in _POSITIVE and not value > 0:
        return "must be above 0"
    if field in ("initial_scale", *_POSITIVE) and value > _FLOAT_MAX:
        return f"must be at most {_FLOAT_MAX}, float32's greatest"
    if (field.endswith("_dropout") or field == "norm_epsilon") and not 0 <= value < 1:
        return "must be in [0, 1)"
    return None
