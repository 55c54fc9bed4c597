"""The task and the heads that a run would have, of a Hugging Face folder with a head of labels."""

from dataclasses import replace
from typing import Any

from ctx_jax.embedding.encoder import Encoder
from ctx_jax.encoders.transformer.huggingface.labels import from_file
from ctx_jax.heads import Labelling
from ctx_jax.io.errors import InputError, listed
from ctx_jax.tasks.classify import ClassifyConfig
from ctx_jax.tasks.huggingface_head import own_architecture
from ctx_jax.tasks.label_network import LABELS
from ctx_jax.tasks.pairs import PairsConfig
from ctx_jax.tasks.tag import TagConfig
from ctx_jax.tasks.tag_head import TagHead


def imported_task(
    encoder: Encoder, labelling: Labelling, *, pairs: bool
) -> tuple[ClassifyConfig | TagConfig | PairsConfig, Encoder]:
    """The settings that predict as the folder's class does, and the encoder with its heads as a run has them.

    InputError for labels of the same name, and where `pairs` have no labels of this kind.
    """
    head = from_file(encoder.heads, own_architecture(encoder), labelling)
    labels = head.module.labels
    if twice := sorted({name for name in labels if labels.count(name) > 1}):
        raise InputError(f"id2label of config.json names several labels {listed(twice)}: give each a name of its own")
    own, pooling, target = replace(encoder, heads={LABELS: head}), labelling.pooling, labelling.target
    if labelling.skips_end:
        own = replace(own, processor=_without_end(encoder))
    if pairs and (pooling is None or target == "several"):
        what = "tokens" if pooling is None else "texts that may have several"
        raise InputError(f"the head is for labels of {what}, not of pairs of texts: leave pairs out")
    length = labelling.length or 0
    if labelling.skips_end and length:
        length -= len(encoder.processor.subwords.after)  # type: ignore[attr-defined]
    shared: dict[str, Any] = {"layers": "last", "length": length}
    if pooling is None:
        return TagConfig(pieces="first", head=TagHead("huggingface"), **shared), own
    settings = {**shared, "target": target, "pooling": pooling, "head": "huggingface"}
    return PairsConfig(style="cross", **settings) if pairs else ClassifyConfig(**settings), own


def _without_end(encoder: Encoder) -> Any:
    """The processor without the token behind a text, which no other token of a causal model depends on."""
    processor, model = encoder.processor, encoder.model
    if not getattr(model, "causal", False):
        raise InputError(
            "the tokenizer puts its padding token behind a text, whose vector transformers' class passes over: in a "
            "model that is not causal this cannot be computed here. Give the tokenizer another pad_token"
        )
    return processor.without_end()  # type: ignore[attr-defined]
