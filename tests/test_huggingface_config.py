"""Hugging Face's config.json without transformers: what is read, refused by key, or cannot be expressed."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_transformers import BERT_ENTRIES, random_params

from ctx_jax.encoders.transformer.huggingface import folders as huggingface
from ctx_jax.encoders.transformer.huggingface.config import head_from_config, model_from_config
from ctx_jax.encoders.transformer.huggingface.export import config_from_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole folder of a tiny BERT with every head, written by us."""
    model = model_from_config(BERT_ENTRIES)
    params, heads = random_params(model)
    huggingface.write(tmp_path / "bert", model, params, heads=heads)
    return tmp_path / "bert"


def _configure(folder: Path, **entries: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **entries}))


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"model_type": "xlnet"}, "model_type is 'xlnet'; these are read"),
        ({"position_embedding_type": "relative_key"}, "only 'absolute' can be expressed"),
        ({"is_decoder": True}, "only False can be expressed"),
        ({"is_decoder": None}, "is_decoder is None, only False"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder is True, only False"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads is .*only .* can be expressed"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings needs a bool, got 'false'"),
        ({"layer_norm_eps": float("nan")}, r"layer_norm_eps must be in \[0, 1\), got nan"),
        ({"layer_norm_eps": 1}, r"layer_norm_eps must be in \[0, 1\), got 1"),
        ({"layer_norm_eps": 10**400}, r"layer_norm_eps must be in"),
        ({"initializer_range": 10**400}, "initializer_range must be at most"),
        ({"initializer_range": float("inf")}, "initializer_range must be at most"),
        ({"vocab_size": 10**400}, "vocab_size must be at most"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers must be at most 10000, got 1000000"),
        ({"num_hidden_layers": 3}, "num_hidden_layers of config.json is 3, the tensors are those of 2 layers"),
        ({"is_decoder": 0}, "is_decoder is 0, only False"),
        ({"is_causal": True}, "is_causal is True, only False"),
        ({"tie_last_hidden_states": False}, "tie_last_hidden_states is False, only True"),
        ({"quantization_config": {"bits": 8}}, "quantization_config is .*only None"),
        ({"auto_map": {"AutoModel": "their.Model"}}, "auto_map names a program of its own"),
        ({"hidden_size": 9}, r"hidden_size \(dim\) must be a multiple of heads"),
        ({"model_type": "electra"}, r"needed and missing: \['embedding_size'\]"),
        ({"model_type": "electra", "embedding_size": 0}, "embedding_size must be at least 1, got 0"),
        ({"pad_token_id": 23}, "pad_token_id must be below vocab_size, which is 23, got 23"),
        ({"hidden_act": "mish"}, "hidden_act is 'mish'; these can be expressed"),
        ({"hidden_act": ["gelu"]}, "hidden_act is ..gelu..; these can be expressed"),
        ({"num_attention_heads": 3}, "must be a multiple of heads"),
        ({"num_attention_heads": 0}, "num_attention_heads must be at least 1, got 0"),
        ({"hidden_dropout_prob": 3}, r"hidden_dropout_prob must be in \[0, 1\), got 3"),
        ({"hidden_size": "8"}, "hidden_size needs a int, got '8'"),
        ({"num_hidden_layers": -1}, "num_hidden_layers must be at least 0, got -1"),
        ({"initializer_range": None}, "initializer_range needs a float, got None"),
        ({"vocab_size": 24}, "misshapen embeddings.word_embeddings.weight"),
    ],
)
def test_configs_that_cannot_be_expressed(entries: dict[str, Any], says: str, folder: Path) -> None:
    _configure(folder, **entries)
    with pytest.raises(ValueError, match=says) as raised:
        huggingface.read(folder)
    assert str(raised.value).startswith(f"{folder}: ") and "--model" not in str(raised.value)


def test_keys_that_change_nothing_are_no_reason_to_refuse() -> None:
    harmless = {
        "chunk_size_feed_forward": 3,
        "position_embedding_type": None,
        "pruned_heads": None,
        "is_causal": None,
        "is_encoder_decoder": None,
        "auto_map": {"AutoTokenizer": "their.Tokenizer"},
        "quantization_config": None,
    }
    assert model_from_config(BERT_ENTRIES | harmless) == model_from_config(BERT_ENTRIES)


def test_two_names_of_one_key_must_agree() -> None:
    gpt2 = {
        "model_type": "gpt2",
        "vocab_size": 23,
        "n_embd": 8,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 16,
        "layer_norm_epsilon": 1e-5,
        "embd_pdrop": 0.1,
        "attn_pdrop": 0.1,
        "resid_pdrop": 0.1,
        "activation_function": "gelu_new",
    }
    model = model_from_config(gpt2)
    assert model_from_config(gpt2 | {"num_attention_heads": 2, "is_causal": True, "n_ctx": 16}) == model
    assert model_from_config({("hidden_size" if key == "n_embd" else key): gpt2[key] for key in gpt2}) == model
    for alias in ("num_attention_heads", "num_hidden_layers", "hidden_size", "max_position_embeddings"):
        with pytest.raises(ValueError, match=f"{alias} and n_[a-z]* are two names of one setting, got 4 and"):
            model_from_config(gpt2 | {alias: 4})
    with pytest.raises(ValueError, match="is_causal is False, only True"):
        model_from_config(gpt2 | {"is_causal": False})


def test_missing_keys_are_not_guessed() -> None:
    with pytest.raises(ValueError, match=r"needed and missing: \['hidden_act', 'hidden_size'\]"):
        model_from_config(
            {key: value for key, value in BERT_ENTRIES.items() if key not in ("hidden_act", "hidden_size")}
        )
    with pytest.raises(ValueError, match="model_type is missing"):
        model_from_config({key: value for key, value in BERT_ENTRIES.items() if key != "model_type"})
    without = {key: value for key, value in BERT_ENTRIES.items() if key != "pad_token_id"}
    assert model_from_config(without).pad_id is None
    with pytest.raises(ValueError, match=r"roberta: these keys are needed and missing: \['pad_token_id'\]"):
        model_from_config(without | {"model_type": "roberta"})
    with pytest.raises(ValueError, match="pad_token_id needs a int, got None"):
        model_from_config(BERT_ENTRIES | {"model_type": "roberta", "pad_token_id": None})


def test_modernbert_configs_old_and_new_are_one() -> None:
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings")
    modern = {
        **{key: BERT_ENTRIES[key] for key in (*sizes, "vocab_size", "pad_token_id")},
        **dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias"), False),
        **dict.fromkeys(("embedding_dropout", "attention_dropout", "mlp_dropout"), 0.0),
        "model_type": "modernbert",
        "norm_eps": 1e-5,
        "local_attention": 8,
        "hidden_activation": "gelu",
    }
    old = {"global_attn_every_n_layers": 2, "global_rope_theta": 1e5, "local_rope_theta": 1e4}
    rotary = {
        "full_attention": {"rope_type": "default", "rope_theta": 1e5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    new = {"layer_types": [*rotary], "rope_parameters": rotary}
    model = model_from_config({**modern, **old})
    assert model == model_from_config({**modern, **new})
    assert model.local_layers == (1,)
    assert model.window == 4
    one = model_from_config({**modern, **old, "local_rope_theta": None})
    assert one.local_rotary_theta == one.rotary_theta == 1e5
    assert model_from_config(config_from_model(model)) == model
    half = {key: value for key, value in modern.items() if key != "local_attention"} | {"sliding_window": 4}
    for same in ({**half, **old}, {**half, "local_attention": 9, **old}, {**modern, **new, "rope_scaling": None}):
        assert model_from_config(same) == model
    kinds = {kind: {"type": "linear", "rope_theta": 1e4, "factor": 2.0} for kind in rotary}
    scaled = {**new, "rope_parameters": {kind: {"rope_type": "linear", "rope_theta": 1e4} for kind in rotary}}
    old_local = {key: value for key, value in old.items() if key != "local_rope_theta"}
    short = {**new, "layer_types": ["full_attention"]}
    for wrong in (
        *({**given, "rope_scaling": {"type": "linear", "factor": 2.0}} for given in (old, new)),
        {**new, "rope_parameters": kinds},
        *(short, scaled, {"layer_types": [*rotary]}, {"global_rope_theta": 1}, old_local),
        *({**old, name: wrong} for name in old for wrong in (0, "2", 10**400, float("inf"))),
        *({**new, "layer_types": wrong} for wrong in (2, ["full_attention", ["full_attention"]])),
        *({**new, "rope_parameters": wrong} for wrong in (7, dict.fromkeys(rotary, 3))),
    ):
        with pytest.raises(ValueError, match=r"^config.json of modernbert: .*(layer_types|rope|global_attn)"):
            model_from_config({**modern, **wrong})
    for key, wrong, said in (
        *(("local_attention", None, "needs a int"), ("local_attention", 2.5, "needs a int")),
        *(("head_dim", 3, "is 3, only 4 can be expressed"), ("sliding_window", 5, "must be half of local_attention")),
        *(("local_attention", -1, "must be at least 0"), ("classifier_bias", "no", "needs a bool")),
        ("decoder_bias", 1, "needs a bool"),
    ):
        with pytest.raises(ValueError, match=f"^config.json of modernbert: {key} {said}"):
            head_from_config({**modern, **new, key: wrong}, model_from_config({**modern, **new, key: wrong}))


def test_a_model_no_file_can_express_is_refused(tmp_path: Path) -> None:
    model = model_from_config(BERT_ENTRIES)
    params, heads = random_params(replace(model, norm="pre"))
    with pytest.raises(ValueError, match=r"no bert file .*: norm is 'pre', there it would be 'post'"):
        huggingface.write(tmp_path / "no", replace(model, norm="pre"), params)
    other = {"masked_lm": heads["masked_lm"]._replace(module=replace(heads["masked_lm"].module, activation="relu"))}
    with pytest.raises(ValueError, match=r"head\.activation is 'relu', there it would be 'gelu'"):
        huggingface.write(tmp_path / "no", model, params, heads=other)
    del params["layer_0"]["query"]["bias"]
    with pytest.raises(ValueError, match=r"not fit the model at \['final_norm/bias', .*, 'layer_0/query/bias'\]"):
        huggingface.write(tmp_path / "no", model, params)
    assert not (tmp_path / "no").exists()


def test_dropout_is_no_reason_to_refuse_and_is_said_once() -> None:
    """The rates of a model written as each architecture are the nearest that its keys can say."""
    rates = {"embedding_dropout": 0.3, "attention_dropout": 0.1, "attention_output_dropout": 0.2}
    model = replace(model_from_config(BERT_ENTRIES), **rates, feed_forward_dropout=0.2)
    with pytest.warns(UserWarning, match=r"further training alone: embedding_dropout is 0.3, there it would be 0.2$"):
        config = config_from_model(model)
    assert (config["hidden_dropout_prob"], config["attention_probs_dropout_prob"]) == (0.2, 0.1)
    distil = replace(model_from_config(BERT_ENTRIES), token_types=0)
    with pytest.warns(UserWarning, match="attention_output_dropout is 0.1, there it would be 0.0") as said:
        config = config_from_model(distil, "distilbert")
    assert config["dropout"] == 0.1 and len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config_from_model(replace(distil, attention_output_dropout=0.0), "distilbert")
