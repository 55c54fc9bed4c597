"""Settings of a Transformer's tasks that fit each other, the tokenizer and an import, or are refused by field."""

from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.encoders.transformer.huggingface.config import head_from_config
from ctx_jax.encoders.transformer.huggingface.export import config_from_model
from ctx_jax.encoders.transformer.huggingface.llama import LLAMA_FIXED
from ctx_jax.evaluation.pseudo_perplexity import pseudo_perplexity
from ctx_jax.heads import Head, VocabularyHead
from ctx_jax.io.errors import ConfigError, InputError
from ctx_jax.tasks import TrainConfig
from ctx_jax.tasks.causal_lm import CausalLMConfig
from ctx_jax.tasks.huggingface_head import vocabulary_head
from ctx_jax.tasks.masked_lm import MaskedLMConfig, MaskedLMTask
from ctx_jax.tokenizers.subword_training import train
from ctx_jax.tokenizers.subwords import Subwords
from ctx_jax.training.config import check_config

DROPOUT = [each.name for each in fields(Transformer) if each.name.endswith("_dropout")]
MODEL = Transformer(0, dim=8, depth=1, heads=2, feed_forward=8, max_positions=16)
PAIRS = SequenceConfig("pairs", length=16, batch_size=8)
PLAIN = SequenceConfig(length=16, batch_size=8)
SHORT_FIRST = replace(PLAIN, short_steps=2, short_length=8)


@pytest.fixture(scope="module")
def subwords() -> Subwords:
    return train([["the", "cat", "sat"], ["a", "dog"]] * 9, "wordpiece", 60)


def fitted(subwords: Subwords, sequences: SequenceConfig, model: Transformer = MODEL) -> MaskedLMConfig:
    return MaskedLMConfig(model=model, sequences=sequences).with_tokenizer(subwords)


def test_heads_are_those_that_the_sequences_train(subwords: Subwords) -> None:
    for sequences, names in (
        (PAIRS, {"masked_lm", "pooler", "next_sentence"}),
        (replace(PAIRS, pair_label="none"), {"masked_lm"}),
        (PLAIN, {"masked_lm"}),
    ):
        config = fitted(subwords, sequences)
        task = MaskedLMTask(config, 5, None, None, subwords, ())  # type: ignore[arg-type]
        assert config.heads().keys() == task.heads.keys() == names
        assert jax.eval_shape(task.init, jax.random.key(0))["head"].keys() == names
        assert isinstance(task.heads["masked_lm"], VocabularyHead)


def test_an_import_is_fitted_by_other_sequences_alone(subwords: Subwords) -> None:
    """No setting changes the shape of an import, so that no field of `model` is named."""
    model = replace(MODEL, vocabulary=len(subwords))
    for changed, sequences, field, part in (
        (replace(model, causal=True), PLAIN, "init", "causal"),
        (model, replace(PLAIN, packing="causal_blocks"), "sequences.packing", "full_sentences"),
        (replace(model, token_types=1), PAIRS, "sequences.packing", "full_sentences"),
        (replace(model, positions_after_padding=True), PAIRS, "sequences.pair_label", "none"),
        (replace(model, max_positions=15), PLAIN, "sequences.length", "15"),
    ):
        with pytest.raises(ConfigError, match=part) as error:
            MaskedLMConfig(model=changed, sequences=sequences, init="folder").with_tokenizer(subwords)
        assert error.value.field == field and "model." not in error.value.message
    with pytest.raises(ConfigError, match="causal_blocks") as error:
        CausalLMConfig(model=replace(model, causal=True), sequences=PLAIN, init="folder").with_tokenizer(subwords)
    assert error.value.field == "sequences.packing"


@pytest.mark.parametrize("architecture", ["bert", "electra", "mpnet", "albert", "nomic_bert", "gte", "eurobert"])
def test_an_import_without_a_head_gets_one_that_its_files_can_hold(architecture: str) -> None:
    shapes: dict[str, dict[str, Any]] = {
        "electra": {"activation": "relu"},
        "mpnet": {
            "relative": "bias",
            "pad_id": 1,
            "positions_after_padding": True,
            "activation": "relu",
            "token_types": 0,
        },
        "albert": {"shared_layers": True, "embedding_dim": 4, "activation": "relu"},
        "nomic_bert": {"gated": True, "positions": "rotary", "attention_bias": False, "feed_forward_bias": False},
        "gte": {"gated": True, "positions": "rotary", "feed_forward_bias": False, "down_bias": True},
        "eurobert": {**LLAMA_FIXED, "attention_bias": False, "token_types": 0},
    }
    model = replace(MODEL, vocabulary=23, **{**dict.fromkeys(DROPOUT, 0.0), **shapes.get(architecture, {})})
    encoder: Any = SimpleNamespace(model=model, heads={}, architecture=architecture)
    head = vocabulary_head(encoder, "masked_lm")
    config = config_from_model(model, architecture, head=head)  # refuses what it cannot express
    assert head_from_config(config, model) == head
    given = VocabularyHead(bias=False)
    encoder.heads["masked_lm"] = Head(given, {})
    assert vocabulary_head(encoder, "masked_lm") is given


def test_sequences_longer_than_rotary_positions_are_refused_too(subwords: Subwords) -> None:
    rotary = replace(MODEL, positions="rotary", max_positions=15, token_types=0)
    with pytest.raises(ConfigError, match=r"16.* the 15 positions .*model\.max_positions") as error:
        fitted(subwords, PLAIN, rotary)
    assert error.value.field == "sequences.length"
    with pytest.raises(InputError, match="hold 2"):
        pseudo_perplexity(replace(rotary, max_positions=2), {}, subwords, [["cat"] * 14])
    inputs = {"token_ids": np.zeros((1, 16), np.int32), "token_mask": np.ones((1, 16), bool)}
    with pytest.raises(InputError, match="15"):
        replace(rotary, vocabulary=len(subwords)).layers({}, inputs)


@pytest.mark.parametrize(
    "field, task",
    [
        ("model.causal", MaskedLMConfig(model=replace(MODEL, causal=True))),
        ("model.causal", CausalLMConfig(model=MODEL)),
        ("sequences.packing", MaskedLMConfig(sequences=replace(PLAIN, packing="causal_blocks"))),
        ("sequences.packing", CausalLMConfig(sequences=PLAIN)),
        ("sequences.packing", MaskedLMConfig(model=replace(MODEL, token_types=0), sequences=PAIRS)),
        ("sequences.pair_label", MaskedLMConfig(model=replace(MODEL, positions_after_padding=True), sequences=PAIRS)),
        ("sequences.short_steps", MaskedLMConfig(sequences=replace(SHORT_FIRST, short_steps=1000))),
    ],
)
def test_settings_that_do_not_fit_a_transformer_are_refused_by_field(field: str, task: Any) -> None:
    check_config(TrainConfig(task=MaskedLMConfig(model=MODEL, sequences=SHORT_FIRST)))
    with pytest.raises(ConfigError) as error:
        check_config(TrainConfig(task=task))
    assert error.value.field == field


def test_an_import_keeps_its_rows_without_tokens(subwords: Subwords) -> None:
    more = replace(MODEL, vocabulary=len(subwords) + 3)
    config = MaskedLMConfig(model=more, sequences=PLAIN, init="folder").with_tokenizer(subwords)
    assert config.model.vocabulary == len(subwords) + 3
    with pytest.raises(ConfigError, match=str(len(subwords))):
        fitted(subwords, PLAIN, more)  # a new model has no reason for them


def test_a_vocabulary_of_another_size_than_the_tokenizers_is_refused(subwords: Subwords) -> None:
    with pytest.raises(ConfigError, match=r"\b7\b") as error:
        fitted(subwords, PLAIN, replace(MODEL, vocabulary=7))
    assert error.value.field == "model.vocabulary"
