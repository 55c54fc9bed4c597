"""Hugging Face's `config.json` to our `Transformer` and `VocabularyHead`, and back.

Tables per architecture (`huggingface_keys`) say which key is which field, which fields the architecture fixes, and
which keys must have one value. A config is parsed again before it is written, and must give the same model.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from ctx_jax.encoders.transformer.huggingface_keys import GPT_READ, GPT_WRITTEN, KEYS, READ, WRITTEN
from ctx_jax.encoders.transformer.huggingface_names import Architecture
from ctx_jax.encoders.transformer.model import Transformer, number_problem
from ctx_jax.heads import VocabularyHead
from ctx_jax.io.errors import InputError
from ctx_jax.tokenizers.subwords import Subwords

# Fields that say how a model runs and is initialised, not what it computes: not in config.json.
_OURS = ("compute", "attention", "scan", "remat", "depth_scaled", "initial_scale")
# Dropout matters to training alone: where an architecture has fewer rates than ours, the commonest value is written.
_DROPOUT = tuple(field.name for field in fields(Transformer) if field.name.endswith("_dropout"))
# Features that none of our models has, whatever the architecture.
_EMPTY = {"pruned_heads": {}, "is_encoder_decoder": False}
_CAUSAL = ("gpt2", "openai-gpt")
_WITHOUT_TRANSFORM = ("transform", "decoder_bias", "tied")  # the fields of a head without a transform


@contextmanager
def naming(source: object) -> Iterator[None]:
    """Put `source` (a folder or file) in front of the messages of value errors."""
    try:
        yield
    except ValueError as error:
        raise InputError(f"{source}: {error}") from error


def architecture_of_config(config: Mapping[str, Any]) -> Architecture:
    """`model_type` of a config.json; InputError for one that cannot be read."""
    for architecture in KEYS:
        if config.get("model_type") == architecture:
            return architecture
    raise InputError(f"config.json: model_type is {config.get('model_type')!r}; these are read: {list(KEYS)}")


def model_from_config(config: Mapping[str, Any]) -> Transformer:
    """The encoder that a parsed config.json describes.

    Raises InputError for keys that are missing (class defaults are not trusted: they change between releases) and for
    settings that the model cannot express.
    """
    architecture = architecture_of_config(config)
    with naming(f"config.json of {architecture}"):
        return Transformer(**_model_fields(config, architecture))


def _model_fields(config: Mapping[str, Any], architecture: Architecture) -> dict[str, Any]:
    keys = KEYS[architecture]
    optional = {"pad_token_id"} if architecture in ("bert", "distilbert") else set()
    absent = sorted({*keys.required, *keys.activations} - {*config} - optional)
    if absent:
        raise InputError(f"these keys are needed and missing: {absent}")
    for key, value in (*keys.constant.items(), *_EMPTY.items()):
        # transformers reads null as the default for these alone, and refuses it elsewhere.
        unset = config.get(key, value) is None and key in ("position_embedding_type", *_EMPTY)
        if not unset and config.get(key, value) != value:
            raise InputError(f"{key} is {config[key]!r}, only {value!r} can be expressed")
    values: dict[str, Any] = {**keys.fixed, "pad_id": config.get("pad_token_id")}
    for key, names in keys.required.items():
        if key != "pad_token_id":
            _check_number(key, config[key], names[0])
            values |= dict.fromkeys(names, config[key])
    for key, name in keys.activations.items():
        values[name] = _activation(config[key], key, architecture)
    if architecture in _CAUSAL:
        inner = config.get("n_inner")
        values["feed_forward"] = 4 * values["dim"] if inner is None else inner
        _check_number("n_inner", values["feed_forward"], "feed_forward")
    if values["pad_id"] is not None or "positions_after_padding" in keys.fixed:
        _check_number("pad_token_id", values["pad_id"], "pad_id")
        if values["pad_id"] >= values["vocabulary"]:
            raise InputError(
                f"pad_token_id must be below vocab_size, which is {values['vocabulary']}, got {values['pad_id']}"
            )
    if architecture == "modernbert":
        values |= _modern_layers(config)
    if "initializer_range" in config:
        _check_number("initializer_range", config["initializer_range"], "initial_scale")
        values["initial_scale"] = config["initializer_range"]
    return values


def head_from_config(config: Mapping[str, Any], model: Transformer) -> VocabularyHead:
    """The vocabulary head that a parsed config.json describes; `model` is the encoder that it describes."""
    architecture = architecture_of_config(config)
    with naming(f"config.json of {architecture}"):
        tied = _flag(config, "tie_word_embeddings", True)
        if architecture in _CAUSAL:
            return VocabularyHead(transform=False, decoder_bias=False, tied=tied)
        values: dict[str, Any] = {"norm_epsilon": model.norm_epsilon, "norm_bias": model.norm_bias, "tied": tied}
        if architecture in ("bert", "distilbert"):
            values["activation"] = model.activation  # RoBERTa's is always gelu
        if architecture == "modernbert":
            key = "classifier_activation"
            values["activation"] = _activation(config.get(key, "gelu"), key, architecture)
            values["bias"] = _flag(config, "classifier_bias", False)
            values["decoder_bias"] = _flag(config, "decoder_bias", True)
        return VocabularyHead(**values)


def _check_number(key: str, value: Any, field: str) -> None:
    """Raise unless `value` is a number of the field's type and range: files are written by tools of any kind."""
    default = getattr(Transformer(), field)
    # By exact type: True is an int to isinstance.
    if type(value) not in {bool: (bool,), int: (int,), float: (int, float)}[type(default)]:
        raise InputError(f"{key} needs a {type(default).__name__}, got {value!r}")
    if (problem := number_problem(field, value)) is not None:
        raise InputError(f"{key} {problem}, got {value!r}")


def _flag(config: Mapping[str, Any], key: str, default: bool) -> bool:
    """An optional key that must be true or false."""
    value = config.get(key, default)
    if type(value) is not bool:
        raise InputError(f"{key} needs a bool, got {value!r}")
    return value


def _activation(name: Any, key: str, architecture: Architecture) -> str:
    known = GPT_READ if architecture == "openai-gpt" else READ
    if not isinstance(name, str) or name not in known:
        raise InputError(f"{key} is {name!r}; these can be expressed: {sorted(known)}")
    return known[name]


def _modern_layers(config: Mapping[str, Any]) -> dict[str, Any]:
    if "local_attention" not in config:
        raise InputError("these keys are needed and missing: ['local_attention']")
    _check_number("local_attention", config["local_attention"], "window")
    layers = config["num_hidden_layers"]
    kinds = config.get("layer_types")
    if kinds is None:
        if "global_attn_every_n_layers" not in config:
            raise InputError("it needs layer_types or global_attn_every_n_layers")
        every = config["global_attn_every_n_layers"]
        _check_number("global_attn_every_n_layers", every, "heads")  # a count from 1, as heads
        kinds = ["sliding_attention" if layer % every else "full_attention" for layer in range(layers)]
    if (
        not isinstance(kinds, list)
        or len(kinds) != layers
        or any(kind not in ("sliding_attention", "full_attention") for kind in kinds)
    ):
        raise InputError(f"layer_types must name {layers} layers, got {kinds}")
    global_theta, local_theta = _modern_thetas(config)
    return {
        "local_layers": tuple(layer for layer, kind in enumerate(kinds) if kind == "sliding_attention"),
        "window": config["local_attention"] // 2,
        "rotary_theta": float(global_theta),
        "local_rotary_theta": float(local_theta),
    }


def _modern_thetas(config: Mapping[str, Any]) -> tuple[float, float]:
    """The rotary base of the global layers and that of the local ones; newer files hold both in rope_parameters."""
    rotary = config.get("rope_parameters")
    if rotary is None:
        absent = sorted({"global_rope_theta", "local_rope_theta"} - {*config})
        if absent:
            raise InputError(f"it needs rope_parameters, or these keys too: {absent}")
        thetas = {key: config[key] for key in ("global_rope_theta", "local_rope_theta")}
        if thetas["local_rope_theta"] is None:
            thetas["local_rope_theta"] = thetas["global_rope_theta"]
    else:
        thetas = {}
        for kind in ("full_attention", "sliding_attention"):
            part = rotary.get(kind) if isinstance(rotary, Mapping) else None
            part = part if isinstance(part, Mapping) else {}
            if part.get("rope_type", "default") != "default" or "rope_theta" not in part:
                raise InputError(f"rope_parameters need rope_type default and a theta: {rotary}")
            thetas[f"rope_theta of {kind}"] = part["rope_theta"]
    for key, theta in thetas.items():
        _check_number(key, theta, "rotary_theta")
    global_theta, local_theta = thetas.values()
    return global_theta, local_theta


def architecture_of(model: Transformer) -> Architecture:
    """The architecture whose files fit a model's mathematics; "roberta", not "xlm-roberta", which is the same."""
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

    If one key stands for several dropout rates and they differ, the commonest is written and a warning says so, since
    what the model computes does not depend on it. Raises InputError naming the fields that no such file can express.
    """
    architecture = architecture or architecture_of(model)
    keys = KEYS[architecture]
    config: dict[str, Any] = {"model_type": architecture, **keys.constant}
    for key, names in keys.required.items():
        values = [getattr(model, name) for name in names]
        config[key] = max(values, key=values.count)
    written = GPT_WRITTEN if architecture == "openai-gpt" else WRITTEN
    for key, name in keys.activations.items():
        config[key] = written.get(getattr(model, name))
    config |= {"initializer_range": model.initial_scale, "tie_word_embeddings": head is None or head.tied}
    if architecture in _CAUSAL:
        config["pad_token_id"] = model.pad_id
    if architecture == "gpt2":
        config["n_inner"] = model.feed_forward
    if architecture == "modernbert":
        config |= _modern_config(model, head or VocabularyHead(bias=False))
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
    """The entries of tokenizer_config.json that depend on the model: its longest sequence and its inputs."""
    names = ["input_ids", *(["token_type_ids"] if model.token_types > 1 else []), "attention_mask"]
    return {"model_max_length": model.longest, "model_input_names": names}


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
