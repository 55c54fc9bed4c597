"""Hugging Face's `config.json` and our `Transformer` and `VocabularyHead`, both ways.

Each architecture is data: which key is which field, which fields it fixes, which keys must have one value. What is
written is read back and must give the same model, so that nothing is lost silently.
"""

import warnings
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ctx_jax.encoders.transformer.huggingface_keys import ARCHITECTURES, GPT_READ, GPT_WRITTEN, READ, WRITTEN, keys_of
from ctx_jax.encoders.transformer.huggingface_names import Architecture
from ctx_jax.encoders.transformer.model import Transformer, number_problem
from ctx_jax.heads import VocabularyHead
from ctx_jax.io.errors import InputError
from ctx_jax.tokenizers.subwords import Subwords

# Fields that say how a model runs and starts, not what it computes: not in config.json.
_OURS = ("compute", "attention", "scan", "remat", "depth_scaled", "initial_scale")
# Fields of training alone: an architecture with fewer rates than ours gets the nearest.
_DROPOUT = tuple(field.name for field in fields(Transformer) if field.name.endswith("_dropout"))
# Features that none of our models has, whatever the architecture.
_EMPTY = {"pruned_heads": {}, "is_encoder_decoder": False}
_CAUSAL = ("gpt2", "openai-gpt")
_WITHOUT_TRANSFORM = ("transform", "decoder_bias", "tied")  # the fields of a head without a transform


def architecture_of_config(config: Mapping[str, Any]) -> Architecture:
    """`model_type` of a config.json; InputError for one that cannot be read."""
    for architecture in ARCHITECTURES:
        if config.get("model_type") == architecture:
            return architecture
    raise InputError(f"config.json: model_type is {config.get('model_type')!r}; these are read: {list(ARCHITECTURES)}")


def model_from_config(config: Mapping[str, Any]) -> Transformer:
    """The encoder that a parsed config.json describes.

    Raises InputError for keys that are missing (class defaults are not trusted: they change between releases) and for
    settings that the model cannot express.
    """
    architecture = architecture_of_config(config)
    keys = keys_of(architecture)
    optional = {"pad_token_id"} if architecture in ("bert", "distilbert") else set()
    absent = sorted({*keys.required, *keys.activations} - {*config} - optional)
    if absent:
        raise InputError(f"config.json of {architecture}: these keys are needed and missing: {absent}")
    for key, value in (*keys.constant.items(), *_EMPTY.items()):
        # transformers reads null as the default for these alone, and refuses it elsewhere.
        unset = config.get(key, value) is None and key in ("position_embedding_type", *_EMPTY)
        if not unset and config.get(key, value) != value:
            raise InputError(
                f"config.json of {architecture}: {key} is {config[key]!r}, only {value!r} can be expressed"
            )
    values: dict[str, Any] = dict(keys.fixed)
    for key, names in keys.required.items():
        _check_type(architecture, key, config.get(key), names[0])
        values |= dict.fromkeys(names, config.get(key))
    for key, name in keys.activations.items():
        values[name] = _activation(config[key], key, architecture)
    if architecture in _CAUSAL:
        inner = config.get("n_inner")
        values |= {"feed_forward": 4 * values["dim"] if inner is None else inner, "pad_id": config.get("pad_token_id")}
        _check_type(architecture, "n_inner", values["feed_forward"], "feed_forward")
        _check_type(architecture, "pad_token_id", values["pad_id"], "pad_id")
    if values["pad_id"] is not None and values["pad_id"] >= values["vocabulary"]:
        raise InputError(
            f"config.json of {architecture}: pad_token_id must be below vocab_size, which is {values['vocabulary']}, "
            f"got {values['pad_id']}"
        )
    if architecture == "modernbert":
        values |= _modern_layers(config)
    if "initializer_range" in config:
        _check_type(architecture, "initializer_range", config["initializer_range"], "initial_scale")
        values["initial_scale"] = config["initializer_range"]
    try:
        return Transformer(**values)
    except ValueError as error:
        raise InputError(f"config.json of {architecture}: {error}") from error


def head_from_config(config: Mapping[str, Any], model: Transformer) -> VocabularyHead:
    """The vocabulary head that a parsed config.json describes; `model` is the encoder that it describes."""
    architecture = architecture_of_config(config)
    tied = _flag(config, architecture, "tie_word_embeddings", True)
    if architecture in _CAUSAL:
        return VocabularyHead(transform=False, decoder_bias=False, tied=tied)
    given: dict[str, Any] = {"norm_epsilon": model.norm_epsilon, "norm_bias": model.norm_bias, "tied": tied}
    if architecture in ("bert", "distilbert"):
        given["activation"] = model.activation  # RoBERTa's is always gelu
    if architecture == "modernbert":
        key = "classifier_activation"
        given["activation"] = _activation(config.get(key, "gelu"), key, architecture)
        given["bias"] = _flag(config, architecture, "classifier_bias", False)
        given["decoder_bias"] = _flag(config, architecture, "decoder_bias", True)
    return VocabularyHead(**given)


def _check_type(architecture: Architecture, key: str, value: Any, field: str) -> None:
    """Raise unless `value` is a number of the field's type and range: files are written by tools of any kind."""
    if key == "pad_token_id" and value is None and architecture not in ("roberta", "xlm-roberta"):
        return  # RoBERTa counts positions from it
    default = getattr(Transformer(), field)
    # By exact type: True is an int to isinstance.
    if type(value) not in {bool: (bool,), int: (int,), float: (int, float)}[type(default)]:
        raise InputError(f"config.json of {architecture}: {key} needs a {type(default).__name__}, got {value!r}")
    if (problem := number_problem(field, value)) is not None:
        raise InputError(f"config.json of {architecture}: {key} {problem}, got {value!r}")


def _flag(config: Mapping[str, Any], architecture: Architecture, key: str, default: bool) -> bool:
    """An optional key that must be true or false."""
    value = config.get(key, default)
    if type(value) is not bool:
        raise InputError(f"config.json of {architecture}: {key} needs a bool, got {value!r}")
    return value


def _activation(name: Any, key: str, architecture: Architecture) -> str:
    known = GPT_READ if architecture == "openai-gpt" else READ
    if not isinstance(name, str) or name not in known:
        raise InputError(f"config.json of {architecture}: {key} is {name!r}; these can be expressed: {sorted(known)}")
    return known[name]


def _modern_layers(config: Mapping[str, Any]) -> dict[str, Any]:
    if "local_attention" not in config:
        raise InputError("config.json of modernbert: these keys are needed and missing: ['local_attention']")
    _check_type("modernbert", "local_attention", config["local_attention"], "window")
    layers = config["num_hidden_layers"]
    kinds = config.get("layer_types")
    if kinds is None:
        if "global_attn_every_n_layers" not in config:
            raise InputError("config.json of modernbert: it needs layer_types or global_attn_every_n_layers")
        every = config["global_attn_every_n_layers"]
        _check_type("modernbert", "global_attn_every_n_layers", every, "heads")  # a count from 1, as heads
        kinds = ["sliding_attention" if layer % every else "full_attention" for layer in range(layers)]
    if (
        not isinstance(kinds, list)
        or len(kinds) != layers
        or any(kind not in ("sliding_attention", "full_attention") for kind in kinds)
    ):
        raise InputError(f"config.json of modernbert: layer_types must name {layers} layers, got {kinds}")
    everywhere, local = _modern_thetas(config)
    return {
        "local_layers": tuple(layer for layer, kind in enumerate(kinds) if kind == "sliding_attention"),
        "window": config["local_attention"] // 2,
        "rotary_theta": float(everywhere),
        "local_rotary_theta": float(local),
    }


def _modern_thetas(config: Mapping[str, Any]) -> tuple[float, float]:
    """The bases of the rotary positions, of global and of local layers."""
    rotary = config.get("rope_parameters")
    if rotary is None:
        absent = sorted({"global_rope_theta", "local_rope_theta"} - {*config})
        if absent:
            raise InputError(f"config.json of modernbert: it needs rope_parameters, or these keys too: {absent}")
        everywhere, local = config["global_rope_theta"], config["local_rope_theta"]
        thetas = {"global_rope_theta": everywhere, "local_rope_theta": everywhere if local is None else local}
    else:
        thetas = {}
        for kind in ("full_attention", "sliding_attention"):
            part = rotary.get(kind) if isinstance(rotary, Mapping) else None
            part = part if isinstance(part, Mapping) else {}
            if part.get("rope_type", "default") != "default" or "rope_theta" not in part:
                raise InputError(
                    f"config.json of modernbert: rope_parameters need rope_type default and a theta: {rotary}"
                )
            thetas[f"rope_theta of {kind}"] = part["rope_theta"]
    for key, theta in thetas.items():
        _check_type("modernbert", key, theta, "rotary_theta")
    everywhere, local = thetas.values()
    return everywhere, local


def architecture_of(model: Transformer) -> Architecture:
    """The architecture whose files fit a model's mathematics; roberta, not xlm-roberta, which is the same."""
    if model.positions == "rotary":
        return "modernbert"
    if model.causal:
        return "gpt2" if model.norm == "pre" else "openai-gpt"
    if model.positions_after_padding:
        return "roberta"
    return "bert" if model.token_types else "distilbert"


def config_from_model(
    model: Transformer, architecture: Architecture | None = None, *, head: VocabularyHead | None = None
) -> dict[str, Any]:
    """The entries of config.json that describe a model and its vocabulary head, if it has one.

    Where one key stands for several dropout rates that differ, the commonest is written and a warning says so: what
    the model computes does not depend on it. Raises InputError naming the fields that no such file can express.
    """
    architecture = architecture or architecture_of(model)
    keys = keys_of(architecture)
    config: dict[str, Any] = {"model_type": architecture, **keys.constant}
    for key, names in keys.required.items():
        values = [getattr(model, name) for name in names]
        config[key] = max(values, key=values.count)
    written = GPT_WRITTEN if architecture == "openai-gpt" else WRITTEN
    for key, name in keys.activations.items():
        config[key] = written.get(getattr(model, name))
    config |= {"initializer_range": model.initial_scale, "tie_word_embeddings": head is None or head.tied}
    match architecture:
        case "gpt2":
            config |= {"n_inner": model.feed_forward, "pad_token_id": model.pad_id}
        case "openai-gpt":
            config |= {"pad_token_id": model.pad_id}
        case "modernbert":
            config |= _modern_config(model, head or VocabularyHead(bias=False))
        case _:
            pass
    _check_expressed(model, head, config, architecture)
    return config


def _modern_config(model: Transformer, head: VocabularyHead) -> dict[str, Any]:
    kinds = ["sliding_attention" if layer in model.local_layers else "full_attention" for layer in range(model.depth)]
    return {
        "layer_types": kinds,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": model.rotary_theta},
            "sliding_attention": {"rope_type": "default", "rope_theta": model.local_rotary_theta},
        },
        "local_attention": 2 * model.window,
        "classifier_activation": WRITTEN[head.activation],
        "classifier_bias": head.bias,
        "decoder_bias": head.decoder_bias,
    }


def tokenizer_settings(model: Transformer) -> dict[str, Any]:
    """The entries of tokenizer_config.json about the model: the longest sequence, and whether it has token types."""
    names = ["input_ids", *(["token_type_ids"] if model.token_types > 1 else []), "attention_mask"]
    return {"model_max_length": model.longest, "model_input_names": names}


def special_ids(subwords: Subwords) -> dict[str, Any]:
    """The entries of config.json that name special tokens by id; the last two if it adds them to a text."""
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
    """name -> "name is ..., there it would be ..." of the fields in which `back` differs from what was given."""
    return {
        name: f"{name} is {getattr(given, name)!r}, there it would be {getattr(back, name)!r}"
        for name in names
        if getattr(given, name) != getattr(back, name)
    }
