"""Heads of labels as transformers' classes have them: trained in place of a linear layer, read from a folder, exported.

A run's head "labels" is then a `ClassificationHead` or `SequenceHead` on the last layer, pooled as the class pools.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from ctx_jax.embedding.encoder import Encoder
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.encoders.transformer.huggingface.export import architecture_of, own_head
from ctx_jax.encoders.transformer.huggingface.labels import classification_head, first_values, has_class, in_file
from ctx_jax.encoders.transformer.huggingface.layouts import LAYOUTS
from ctx_jax.encoders.transformer.huggingface.names import Architecture
from ctx_jax.heads import ClassificationHead, Head, LabelHead, Labelling, SequenceHead, VocabularyHead
from ctx_jax.io.errors import ConfigError, InputError
from ctx_jax.tasks.label_network import LABELS, LabelNetwork

HeadChoice = Literal["linear", "huggingface"]


def with_own_head(network: LabelNetwork, encoder: Encoder, setting: str) -> LabelNetwork:
    """The network with the head of the encoder's class; `setting` is the name of the one that asks for it.

    ConfigError where the encoder has no such class, or the network is of other layers or another pooling than it.
    """
    if not isinstance(encoder.model, Transformer):
        raise ConfigError(setting, f"is huggingface, for Transformers; the encoder is a {type(encoder.model).__name__}")
    if network.layer != encoder.model.num_layers - 1:
        raise ConfigError("layers", f"must be last for the head huggingface, got {network.layers}: set it")
    if LABELS in encoder.heads:
        return replace(network, head=encoder.heads[LABELS].module)
    prediction = encoder.heads["masked_lm"].module if "masked_lm" in encoder.heads else None
    try:
        head = classification_head(
            own_architecture(encoder), encoder.model, network.labels, network.pooling, prediction=prediction
        )
        check_end(encoder, network.pooling)
    except InputError as error:
        name = setting if network.pooling is None else "pooling"
        raise ConfigError(name, f"is {network.pooling}, and {error}: set it") from error
    return replace(network, head=head)


def first_params(network: LabelNetwork, encoder: Encoder) -> Mapping[str, Any]:
    """What the folder of an encoder has of the parameters of a `ClassificationHead`."""
    head = network.head
    return first_values(head, own_architecture(encoder), encoder.heads) if isinstance(head, ClassificationHead) else {}


def check_end(encoder: Encoder, pooling: str | None) -> None:
    """InputError where the last token is the padding token of config.json: transformers' class passes over it."""
    subwords: Any = getattr(encoder.processor, "subwords", None)
    if pooling != "last" or subwords is None:
        return
    model: Any = encoder.model
    in_config = "pad_token_id" in LAYOUTS[own_architecture(encoder)].keys.required
    pad = model.pad_id if in_config and model.pad_id is not None else subwords.pad_id
    if pad in subwords.after:
        raise InputError(
            f"the tokenizer puts {subwords.tokens([pad])[0]} behind every text, which is also its padding: "
            "transformers' class would read the token before it. Name another token of the vocabulary as pad_token in "
            "tokenizer_config.json of the encoder's folder, and as pad_token_id in its config.json if that has one"
        )


def vocabulary_head(encoder: Encoder, name: str) -> VocabularyHead:
    """The encoder's head "masked_lm" or "causal_lm"; where it has none, that of transformers' class, so that a run can
    be exported with it."""
    if name in encoder.heads:
        own: VocabularyHead = encoder.heads[name].module
        return own
    model: Any = encoder.model
    return own_head(model, own_architecture(encoder))


def own_architecture(encoder: Encoder) -> Architecture:
    """That of the files that a Transformer came from, else the one that fits it."""
    model: Any = encoder.model
    return next((name for name in LAYOUTS if name == encoder.architecture), None) or architecture_of(model)


def exported(encoder: Encoder, network: LabelNetwork, needed: str, *, length: int | None) -> Encoder:
    """The encoder of a run with its head of labels under the names that a Hugging Face folder has, and `labelling`.

    `length`: at how many tokens the run cuts a text, if it does before the model's positions end.
    `needed` names the settings with which a run can be exported. InputError if no class of transformers computes what
    the network computes.
    """
    architecture, head = own_architecture(encoder), encoder.heads.get(LABELS)
    module = None if head is None else head.module
    labels = getattr(module, "labels", ())
    target: Any = network.target
    try:
        if type(network) is not LabelNetwork or network.layer != encoder.model.num_layers - 1 or head is None:
            raise InputError("it scores one vector of the last layer")
        wanted = classification_head(architecture, encoder.model, labels, network.pooling)  # type: ignore[arg-type]
        check_end(encoder, network.pooling)
        if isinstance(module, LabelHead) and isinstance(wanted, SequenceHead) and wanted.bias:
            head = Head(wanted, head.params["scores"])
        elif type(module) is not type(wanted):
            raise InputError(f"its head is a {type(wanted).__name__}, and the run's a {type(module).__name__}")
    except InputError as error:
        hint = f"Train with {needed}, or export" if has_class(architecture, network.pooling) else "Export"
        raise InputError(
            f"no class of transformers for {architecture} computes these labels ({error}). {hint} the encoder alone"
        ) from error
    heads = in_file(head, architecture, network.pooling)
    pooling: Any = network.pooling
    return replace(encoder, heads=heads, labelling=Labelling(target, pooling, length=length))
