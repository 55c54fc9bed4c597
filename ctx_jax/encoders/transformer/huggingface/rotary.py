"""Rotary positions in Hugging Face's `config.json`, of models whose layers all have the same ones."""

from collections.abc import Mapping
from typing import Any

from ctx_jax.encoders.transformer.huggingface.values import checked_number
from ctx_jax.encoders.transformer.model import Transformer
from ctx_jax.io.errors import InputError, brief

ROTARY = ("rope_parameters", "rope_theta", "rope_scaling")
"""The keys that `rotary_fields` reads: newer files hold all in the first."""
_KNOWN = {"default": {"factor"}, "linear": {"factor"}, "ntk": {"factor", "mixed_b"}}


def rotary_fields(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Theta, and the factor that positions are divided by; `values` are the fields read before.

    "linear" divides positions; "ntk", of GTE's authors, makes theta larger by its factor and divides positions by that
    to the power of 2 / E, so that the shortest wavelengths stay nearly as they were.
    """
    rotary = config.get("rope_parameters")
    if rotary is not None and config.get("rope_scaling"):
        raise InputError(
            f"rope_scaling is {brief(config['rope_scaling'])}, only null can be expressed beside rope_parameters"
        )
    key = "rope_scaling" if rotary is None else "rope_parameters"
    rotary = (config.get("rope_scaling") or {}) if rotary is None else rotary
    if not isinstance(rotary, Mapping):
        raise InputError(f"{key} must be an object, got {brief(rotary)}")
    kind = rotary.get("rope_type", rotary.get("type", "default"))
    known = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
    if not isinstance(kind, str) or kind not in _KNOWN or rotary.keys() - known - _KNOWN[kind]:
        raise InputError(f"{key} is {brief(rotary)}; these types can be expressed, with a factor: {sorted(_KNOWN)}")
    for name, neutral in (("partial_rotary_factor", 1), ("mixed_b", None)):
        if rotary.get(name) not in (neutral, None):
            raise InputError(f"{key}: {name} is {brief(rotary[name])}, only {neutral!r} can be expressed")
    theta = rotary.get("rope_theta", config.get("rope_theta"))
    if config.get("rope_theta") not in (None, theta):
        raise InputError(
            f"rope_theta is {brief(config['rope_theta'])}, and {brief(theta)} in {key}: remove the wrong one"
        )
    theta = checked_number("rope_theta", theta, "rotary_theta")
    if kind == "default":
        return {"rotary_theta": theta}
    factor = checked_number(f"factor of {key}", rotary.get("factor"), "rotary_factor")
    if kind == "linear":
        return {"rotary_theta": theta, "rotary_factor": factor}
    width = values.get("head_dim") or values["dim"] // values["heads"]
    return {"rotary_theta": theta * factor, "rotary_factor": factor ** (2 / width)}


def rotary_entries(model: Transformer) -> dict[str, Any]:
    """The entries of config.json."""
    if model.rotary_factor == 1.0:
        return {"rope_parameters": {"rope_type": "default", "rope_theta": model.rotary_theta}}
    rotary = {"rope_type": "linear", "rope_theta": model.rotary_theta, "factor": model.rotary_factor}
    return {"rope_parameters": rotary}
