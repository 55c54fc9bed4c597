"""What a loaded encoder is, as JSON and in three lines; no weights are computed, and none are printed."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ctx_jax.encoders.base import InputProcessor, Model
from ctx_jax.encoders.facts import Described
from ctx_jax.heads import Head, parameter_count
from ctx_jax.io import configs
from ctx_jax.io.errors import InputTypeError

if TYPE_CHECKING:
    from ctx_jax.embedding.encoder import Encoder

_OF_LINEN = ("parent", "name")  # fields of every Linen module, which say nothing


def describe(encoder: "Encoder") -> dict[str, Any]:
    """Family, sizes, tokenizer, heads, sentence modules and what a head of labels predicts, of an encoder.

    {"family": "Transformer", "parameters": 22713216, "layers": 7, "width": 384, "vocabulary": 30522,
     "tokenizer": {...}, "heads": {"pooler": {"type": "Pooler", "parameters": 147840}}, "model": {...}}

    "layers" counts as `embed` gives them, layer 0 included; "parameters" are the encoder's, without heads. "tokenizer"
    is what the input processor says of itself, {} if it says nothing. "model" holds all settings of the model.
    """
    return {
        **describe_model(encoder.model),
        "parameters": parameter_count(encoder.params),
        "tokenizer": describe_processor(encoder.processor),
        "heads": describe_heads(encoder.heads),
        "sentence": None if encoder.sentence is None else _settings(encoder.sentence),
        "labelling": None if encoder.labelling is None else _settings(encoder.labelling),
    }


def describe_model(model: Model) -> dict[str, Any]:
    """Family, layers, width, vocabulary and settings of a model."""
    settings = _settings(model)
    sizes = {"layers": model.num_layers, "width": model.width, "vocabulary": settings.get("vocabulary")}
    return {"family": type(model).__name__, **sizes, "model": settings}


def describe_processor(processor: InputProcessor) -> dict[str, Any]:
    """What the processor says of itself; {} if it says nothing."""
    return processor.describe() if isinstance(processor, Described) else {}


def describe_heads(heads: Mapping[str, Head]) -> dict[str, Any]:
    """The settings of each head, and how many parameters it has."""
    return {
        name: {**_settings(head.module), "parameters": parameter_count(head.params)} for name, head in heads.items()
    }


def summary(encoder: "Encoder") -> str:
    """Three lines: the model, its tokenizer and its heads."""
    found = describe(encoder)
    tokenizer = found["tokenizer"]
    special = {role: entry["token"] for role, entry in tokenizer.get("special_tokens", {}).items()}
    text = [str(tokenizer.get("kind", type(encoder.processor).__name__))]
    text += [f"{tokenizer['tokens']:,} tokens"] if "tokens" in tokenizer else []
    text += [f"{role} {token}" for role, token in special.items()]
    heads = ", ".join(f"{name} ({head['type']}, {head['parameters']:,})" for name, head in found["heads"].items())
    return (
        f"Encoder({found['family']}, {found['layers']} layers of width {found['width']}, "
        f"{found['parameters']:,} parameters,\n  tokenizer: {', '.join(text)},\n  heads: {heads or 'none'})"
    )


def _settings(config: Any) -> dict[str, Any]:
    """The fields of a config or module with its type; the type alone of what is no config."""
    try:
        stored = configs.to_json(config)
    except InputTypeError:
        return {configs.TYPE: type(config).__name__}
    return {name: value for name, value in stored.items() if name not in _OF_LINEN}
