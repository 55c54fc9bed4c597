"""Our `Transformer` and `VocabularyHead` to the entries of Hugging Face's `config.json`.

A config is parsed again before it is written, and must give the same model.
"""

import warnings
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ctx_jax.encoders.transformer.huggingface.config import head_from_config, model_from_config
from ctx_jax.encoders.transformer.huggingface.layouts import LAYOUTS
from ctx_jax.encoders.transformer.huggingface.names import Architecture
from ctx_jax.encoders.transformer.model import Transformer
from ctx_jax.heads import VocabularyHead
from ctx_jax.io.errors import InputError
from ctx_jax.tokenizers.subwords import Subwords

# Fields that say how a model runs and is initialised, not what it computes: not in config.json.
_OURS = ("compute", "attention", "scan", "remat", "depth_scaled", "initial_scale")
# Dropout matters to training alone: where an architecture has fewer rates than ours, the commonest value is written.
_DROPOUT = tuple(field.name for field in fields(Transformer) if field.name.endswith("_dropout"))
_WITHOUT_TRANSFORM = ("transform", "decoder_bias", "tied")  # the fields of a head without a transform


def architecture_of(model: Transformer) -> Architecture:
    """The architecture whose files fit a model's mathematics; "roberta", not "xlm-roberta", which is the same."""
    if model.norm == "both":
        return "gemma3_text"
    if model.norm_kind == "rms":
        return "t5" if model.positions == "none" else "qwen3" if model.head_norms else "eurobert"
    if model.relative != "none":
        return "mpnet" if model.relative == "bias" else "deberta-v2"
    if model.positions == "rotary":
        return "modernbert" if model.norm == "pre" else "gte" if model.attention_bias else "nomic_bert"
    if model.causal:
        return "gpt2" if model.norm == "pre" else "openai-gpt"
    if model.positions_after_padding:
        return "xlm-roberta-xl" if model.norm == "pre" else "roberta"
    if model.embedding_dim is not None:
        return "albert" if model.shared_layers else "electra"
    return "bert" if model.token_types else "distilbert"


def own_head(model: Transformer, architecture: Architecture) -> VocabularyHead:
    """The vocabulary head that transformers' class has, for a model whose files have none."""
    layout = LAYOUTS[architecture]
    return VocabularyHead(**layout.head(layout.entries(model, None), model))


def config_from_model(
    model: Transformer, architecture: Architecture | None = None, *, head: VocabularyHead | None = None
) -> dict[str, Any]:
    """The entries of config.json that describe a model and its vocabulary head, if it has one.

    If one key stands for several dropout rates and they differ, the commonest is written and a warning says so, since
    what the model computes does not depend on it. Raises InputError naming the fields that no such file can express.
    """
    architecture = architecture or architecture_of(model)
    layout = LAYOUTS[architecture]
    keys = layout.keys
    # Not is_causal: transformers hands it on as an argument, and its absence means the same.
    constant = {key: value for key, value in keys.constant.items() if key != "is_causal"}
    config: dict[str, Any] = {"model_type": architecture, **constant}
    for key, names in keys.required.items():
        values = [getattr(model, name) for name in names]
        config[key] = max(values, key=values.count)
    for key, name in keys.activations.items():
        config[key] = keys.written.get(getattr(model, name))
    config |= {"initializer_range": model.initial_scale, "tie_word_embeddings": head is None or head.tied}
    config |= layout.entries(model, head)
    _check_expressed(model, head, config, architecture)
    return config


def tokenizer_settings(model: Transformer, length: int | None) -> dict[str, Any]:
    """The entries of tokenizer_config.json that depend on the model: its longest sequence, or a shorter `length` at
    which texts are cut, and its inputs."""
    names = ["input_ids", *(["token_type_ids"] if model.token_types > 1 else []), "attention_mask"]
    longest = min((limit for limit in (length, model.longest) if limit is not None), default=None)
    return {"model_max_length": longest, "model_input_names": names}


def special_ids(subwords: Subwords) -> dict[str, Any]:
    """The entries of config.json that name special tokens by id; [CLS] and [SEP] only if the tokenizer adds them."""
    begin, end = subwords.begin_id, subwords.end_id
    ids = {"pad_token_id": subwords.pad_id, "bos_token_id": begin, "eos_token_id": end}
    return ids | ({"cls_token_id": begin, "sep_token_id": end} if subwords.before or subwords.after else {})


def _check_expressed(
    model: Transformer, head: VocabularyHead | None, config: Mapping[str, Any], architecture: Architecture
) -> None:
    try:
        model_back = model_from_config(config)
        head_back = head_from_config(config, model_back)
    except ValueError as error:
        raise InputError(f"no {architecture} file can express this model: {error}") from error
    differing = _differing(model, model_back, [field.name for field in fields(model) if field.name not in _OURS])
    lost = [text for name, text in differing.items() if name not in _DROPOUT]
    if head is not None:
        transform = head.transform or head_back.transform
        names = [field.name for field in fields(head) if transform or field.name in _WITHOUT_TRANSFORM]
        lost += [f"head.{text}" for text in _differing(head, head_back, names).values()]
    if lost:
        raise InputError(f"no {architecture} file can express this model: {'; '.join(lost)}")
    if differing:
        warnings.warn(
            f"config.json of {architecture} has no place for all dropout rates, which matter to further training "
            f"alone: {'; '.join(differing.values())}",
            stacklevel=3,
        )


def _differing(given: Any, back: Any, names: list[str]) -> dict[str, str]:
    """name -> a message, for each of the fields `names` that differs between the two."""
    return {
        name: f"{name} is {getattr(given, name)!r}, there it would be {getattr(back, name)!r}"
        for name in names
        if getattr(given, name) != getattr(back, name)
    }
