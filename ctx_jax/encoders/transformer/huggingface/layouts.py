"""The architectures of Hugging Face's files: one entry each, with its tables and what its own keys mean."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from ctx_jax.encoders.transformer.huggingface import (
    albert,
    deberta,
    gemma,
    gpt,
    gte,
    keys,
    llama,
    modern,
    mpnet,
    names,
    nomic,
    t5,
)
from ctx_jax.encoders.transformer.huggingface.keys import Keys
from ctx_jax.encoders.transformer.huggingface.names import Architecture, Names, classes
from ctx_jax.encoders.transformer.model import Transformer
from ctx_jax.heads import VocabularyHead


def _nothing(*_: Any) -> dict[str, Any]:
    return {}


def _gelu_head(config: Mapping[str, Any], model: Transformer) -> dict[str, Any]:
    """RoBERTa's vocabulary head, whose activation is gelu whatever the model's."""
    return {"norm_epsilon": model.norm_epsilon, "norm_bias": model.norm_bias}


def _bert_head(config: Mapping[str, Any], model: Transformer) -> dict[str, Any]:
    """BERT's vocabulary head, with the activation of its model."""
    return {**_gelu_head(config, model), "activation": model.activation}


def _decoder(config: Mapping[str, Any], model: Transformer) -> dict[str, Any]:
    """A vocabulary head that is the decoder alone, without a bias."""
    return {"transform": False, "decoder_bias": False}


class Layout(NamedTuple):
    """How the files of one architecture say what a model is."""

    names: Names
    keys: Keys
    head: Callable[[Mapping[str, Any], Transformer], dict[str, Any]] = _gelu_head
    """(config, model): the fields of its `VocabularyHead`, but `tied`."""
    fields: Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]] = _nothing
    """(config, fields read so far): the fields that its own keys set."""
    entries: Callable[[Transformer, VocabularyHead | None], dict[str, Any]] = _nothing
    """(model, vocabulary head): the entries of config.json that the tables do not write."""
    completed: Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]] = _nothing
    """(config, tensors by their canonical names): zeros for biases that files with this config leave out."""


def _electra_fields(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    return {"embedding_dim": None} if values["embedding_dim"] == values["dim"] else {}


def _electra_entries(model: Transformer, head: VocabularyHead | None) -> dict[str, Any]:
    return {"embedding_size": model.embedding_dim or model.dim}


LAYOUTS: Mapping[Architecture, Layout] = {
    "bert": Layout(names.BERT, keys.BERT, _bert_head),
    "roberta": Layout(names.ROBERTA, keys.ROBERTA),
    "xlm-roberta": Layout(names.ROBERTA._replace(classes=classes("XLMRoberta")), keys.ROBERTA),
    "xlm-roberta-xl": Layout(names.XLM_ROBERTA_XL, keys.XLM_ROBERTA_XL),
    "data2vec-text": Layout(
        names.ROBERTA._replace(prefix="data2vec_text.", classes=classes("Data2VecText")), keys.ROBERTA
    ),
    "camembert": Layout(names.ROBERTA._replace(classes=classes("Camembert")), keys.ROBERTA),
    "electra": Layout(names.ELECTRA, keys.ELECTRA, fields=_electra_fields, entries=_electra_entries),
    "distilbert": Layout(names.DISTILBERT, keys.DISTILBERT, _bert_head),
    "mpnet": Layout(mpnet.NAMES, mpnet.KEYS, fields=mpnet.fields),
    "albert": Layout(albert.NAMES, albert.KEYS, _bert_head),
    "nomic_bert": Layout(nomic.NAMES, nomic.KEYS, _bert_head, nomic.fields, nomic.entries, nomic.completed),
    "gte": Layout(gte.NAMES, gte.KEYS, fields=gte.fields, entries=gte.entries),
    "deberta-v2": Layout(deberta.NAMES, deberta.KEYS, _bert_head, deberta.fields, deberta.entries),
    "t5": Layout(t5.NAMES, t5.KEYS, fields=t5.fields, entries=t5.entries),
    "mt5": Layout(
        t5.NAMES._replace(classes={frozenset(): "MT5EncoderModel"}), t5.KEYS, fields=t5.fields, entries=t5.entries
    ),
    "qwen3": Layout(llama.QWEN3_NAMES, llama.QWEN3_KEYS, _decoder, llama.qwen3_fields, llama.entries),
    "eurobert": Layout(
        llama.EUROBERT_NAMES, llama.EUROBERT_KEYS, llama.eurobert_head, llama.eurobert_fields, llama.entries
    ),
    "gemma3_text": Layout(gemma.NAMES, gemma.KEYS, _decoder, gemma.fields, gemma.entries),
    "modernbert": Layout(
        modern.MODERNBERT_NAMES, modern.MODERNBERT_KEYS, modern.modern_head, modern.modern_fields, modern.modern_entries
    ),
    "gpt2": Layout(gpt.GPT2_NAMES, gpt.GPT2_KEYS, _decoder, gpt.gpt2_fields, gpt.gpt2_entries),
    "openai-gpt": Layout(gpt.GPT_NAMES, gpt.GPT_KEYS, _decoder, gpt.gpt_fields, gpt.gpt_entries),
}

RENAMED = {"new": "gte"}
"""The authors' own name of an architecture -> transformers'."""


def decided_keys(architecture: Architecture, names: Iterable[str]) -> dict[str, list[str]]:
    """The names of keys of a config.json by what becomes of them.

    "read": the model or a head depends on it; "neutral": any other value than the one without effect is refused;
    "harmless": known to change no number that is read; "unknown": in no table, left unread.
    """
    own = LAYOUTS[architecture].keys
    tables = {
        "read": {*own.required, *own.activations, *own.aliases, *own.further, *keys.READ_EVERYWHERE},
        "neutral": {*own.constant, *own.neutral, *keys.EVERYWHERE, "auto_map"} - {*own.harmless},
        "harmless": keys.HARMLESS | keys.HARMLESS_ELSEWHERE | {*own.harmless},
    }
    result: dict[str, list[str]] = {name: [] for name in (*tables, "unknown")}
    for key in sorted(names):
        result[next((name for name, table in tables.items() if key in table), "unknown")].append(key)
    return result
