"""Heads of tasks beside the body of a Hugging Face folder: kept where known, left out with a notice where not."""

import json
import logging
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from ctx_jax.encoders.transformer import hidden_states
from ctx_jax.encoders.transformer.huggingface import folders as huggingface
from ctx_jax.encoders.transformer.huggingface.labels import labelling_of

SMALL = {
    "vocab_size": 23,
    "max_position_embeddings": 16,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
}
DISTIL = {"vocab_size": 23, "max_position_embeddings": 16, "dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 12}
GPT2 = {"vocab_size": 23, "n_positions": 16, "n_embd": 8, "n_layer": 2, "n_head": 2, "pad_token_id": 0}
GPT2 |= {"bos_token_id": 0, "eos_token_id": 0}
GPT2_TOKENS = {name: GPT2[name] for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
ROBERTA = {**SMALL, "type_vocab_size": 1}
ELECTRA = {**SMALL, "embedding_size": 8}
MODERN = {
    **SMALL,
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0),
}
DEBERTA = {**SMALL, "relative_attention": True, "position_buckets": 4, "pos_att_type": ["p2c"]}
DEBERTA |= {"norm_rel_ebd": "layer_norm", "share_att_key": True}
KNOWN: list[tuple[str, dict[str, Any]]] = [
    ("BertForSequenceClassification", SMALL),
    ("BertForTokenClassification", SMALL),
    ("BertForQuestionAnswering", SMALL),
    ("RobertaForSequenceClassification", ROBERTA),
    ("XLMRobertaForTokenClassification", ROBERTA),
    ("CamembertForSequenceClassification", ROBERTA),
    ("ElectraForSequenceClassification", ELECTRA),
    ("ElectraForTokenClassification", ELECTRA),
    ("ElectraForPreTraining", {**ELECTRA, "embedding_size": 4, "hidden_act": "relu"}),
    ("XLMRobertaXLForSequenceClassification", ROBERTA),
    ("MPNetForSequenceClassification", SMALL),
    ("AlbertForSequenceClassification", ELECTRA),
    ("AlbertForQuestionAnswering", ELECTRA),
    ("NomicBertForSequenceClassification", SMALL),
    ("DebertaV2ForSequenceClassification", DEBERTA),
    ("DebertaV2ForTokenClassification", DEBERTA),
    ("Qwen3ForSequenceClassification", {**SMALL, "num_key_value_heads": 1, "head_dim": 4, "pad_token_id": 0}),
    ("Qwen3ForTokenClassification", {**SMALL, "num_key_value_heads": 1, "head_dim": 4, "pad_token_id": 0}),
    (
        "Gemma3TextForSequenceClassification",
        {**GPT2_TOKENS, **SMALL, "num_key_value_heads": 1, "head_dim": 4, "layer_types": ["full_attention"] * 2},
    ),
    ("GteForTokenClassification", {**SMALL, "pad_token_id": 0}),
    ("Data2VecTextForSequenceClassification", ROBERTA),
    ("DistilBertForSequenceClassification", DISTIL),
    ("DistilBertForTokenClassification", DISTIL),
    ("DistilBertForQuestionAnswering", DISTIL),
    ("ModernBertForSequenceClassification", MODERN),
    ("ModernBertForTokenClassification", {**MODERN, "norm_bias": True, "classifier_bias": True}),
    ("GPT2ForSequenceClassification", GPT2),
    ("GPT2ForTokenClassification", GPT2),
    ("OpenAIGPTForSequenceClassification", {key: GPT2[key] for key in GPT2 if not key.startswith(("bos", "eos"))}),
]
UNKNOWN: list[tuple[str, dict[str, Any], str]] = [
    ("ElectraForMultipleChoice", ELECTRA, "sequence_summary.summary.weight"),
    ("GPT2DoubleHeadsModel", GPT2, "multiple_choice_head.summary.weight"),
]
IDS = np.array([[2, 5, 9, 4, 7, 3], [3, 8, 22, 6, 3, 11]])


def _saved(kind: str, settings: dict[str, Any], folder: Path) -> Any:
    """A random model of transformers, saved."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    made = getattr(transformers, kind)
    labels = {} if "QuestionAnswering" in kind else {"num_labels": 3}
    reference = made(made.config_class(**settings, **labels)).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    reference.save_pretrained(folder)
    return reference


def _theirs(model: Any) -> np.ndarray:
    """The scores of every label: [B, K], or of tokens [B, T, K]."""
    import torch

    with torch.no_grad():
        out = model.eval()(input_ids=torch.tensor(IDS))
    if "start_logits" in out:
        return torch.stack([out.start_logits, out.end_logits], -1).numpy()
    return (out.logits[..., None] if "PreTraining" in type(model).__name__ else out.logits).numpy()


def _ours(found: huggingface.Pretrained) -> np.ndarray:
    states = hidden_states(found.model, found.params, jnp.asarray(IDS))
    vectors = states[-1]
    (name,) = found.heads.keys() - {"pooler", "causal_lm"}
    head = found.heads[name]
    kind = found.config["architectures"][0]
    if "Sequence" in kind:
        vectors = vectors[:, -1 if name == "score" else 0]
    if "pooler" in found.heads:
        pooler = found.heads["pooler"]
        vectors = pooler.module.vectors(pooler.params, states[-1])
    return np.asarray(head.module.logits(head.params, vectors))


@pytest.mark.parametrize(("kind", "settings"), KNOWN)
def test_known_heads_are_kept_in_and_out(kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    expected = _theirs(reference := _saved(kind, settings, tmp_path / "theirs"))
    found = huggingface.read(tmp_path / "theirs")
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(_ours(found), expected, rtol=0, atol=2e-5)

    architecture = found.config["model_type"]
    modules = {name: head.module for name, head in found.heads.items()}
    labelling = labelling_of(found.config, architecture, modules)
    assert (labelling is None) == kind.endswith(("QuestionAnswering", "PreTraining"))
    huggingface.write(
        tmp_path / "ours", found.model, found.params, heads=found.heads, architecture=architecture, labelling=labelling
    )
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["architectures"] == [kind]
    padding = {"pad_token_id": settings["pad_token_id"]} if "pad_token_id" in settings else {}
    back, info = type(reference).from_pretrained(tmp_path / "ours", output_loading_info=True, **padding)
    assert not any(info.values()), info
    # Gemma's files hold norms less 1, and torch's products depend on where tensors stand in a file.
    np.testing.assert_allclose(_theirs(back), expected, rtol=0, atol=1e-6 if "Gemma" in kind else 0)


@pytest.mark.parametrize(("kind", "settings", "tensor"), UNKNOWN)
def test_other_heads_are_left_out_with_one_line(
    kind: str, settings: dict[str, Any], tensor: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reference = _saved(kind, settings, tmp_path)
    with caplog.at_level(logging.WARNING, "ctx_jax"):
        found = huggingface.read(tmp_path)
    (line,) = caplog.messages
    assert str(tmp_path) in line and tensor in line
    import torch

    with torch.no_grad():
        expected = reference.base_model(input_ids=torch.tensor(IDS)).last_hidden_state.numpy()
    states = hidden_states(found.model, found.params, jnp.asarray(IDS))
    np.testing.assert_allclose(states[-1], expected, rtol=0, atol=2e-5)
    assert found.heads.keys() <= {"causal_lm", "classifier"}
