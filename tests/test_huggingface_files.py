"""Hugging Face folders without transformers: old forms, sharded files, and every way a folder can be wrong."""

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_transformers import BERT_ENTRIES, random_params

from ctx_jax.encoders.transformer import Transformer, huggingface
from ctx_jax.encoders.transformer.huggingface_config import model_from_config
from ctx_jax.heads import Head
from ctx_jax.tokenizers.subword_training import train
from ctx_jax.tokenizers.subwords import Subwords


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole folder of a tiny BERT with every head, written by us."""
    model = model_from_config(BERT_ENTRIES)
    params, heads = random_params(model)
    huggingface.write(tmp_path / "bert", model, params, heads=heads)
    return tmp_path / "bert"


def _equal(one: Any, two: Any) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def _modules(heads: dict[str, Head]) -> dict[str, Any]:
    return {name: head.module for name, head in heads.items()}


def _trees(heads: dict[str, Head]) -> dict[str, Any]:
    return {name: head.params for name, head in heads.items()}


def _everything(folder: Path) -> Any:
    """The encoder's parameters and the heads'."""
    found = huggingface.read(folder)
    return found.params, _trees(found.heads)


def _change(folder: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, folder / "model.safetensors")


def _configure(folder: Path, **entries: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **entries}))


def test_written_and_read_again_is_the_same(folder: Path, tmp_path: Path) -> None:
    model, params, heads, config = huggingface.read(folder)
    assert config["architectures"] == ["BertForPreTraining"]
    huggingface.write(tmp_path / "again", model, params, heads=heads)
    again = huggingface.read(tmp_path / "again")
    assert again.model == model and _modules(again.heads) == _modules(heads)
    _equal((again.params, _trees(again.heads)), (params, _trees(heads)))
    written, written_heads = random_params(model)
    _equal((params, _trees(heads)), (written, _trees(written_heads)))


def test_a_folder_with_its_tokenizer_is_written_whole_or_not_at_all(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, params, heads, _ = huggingface.read(folder)
    subwords = train(["the cat sat on the mat"] * 5, "wordpiece", 23)
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new/one"):
        huggingface.write(tmp_path / name, model, params, heads=heads, subwords=subwords)
        assert {path.name for path in (tmp_path / name).iterdir()} == {
            *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
        }
    config, tokenizer = (
        json.loads((tmp_path / "empty" / name).read_text()) for name in ("config.json", "tokenizer_config.json")
    )
    assert (config["cls_token_id"], config["sep_token_id"]) == (subwords.begin_id, subwords.end_id)
    assert tokenizer["model_max_length"] == 16 and "token_type_ids" in tokenizer["model_input_names"]

    (tmp_path / "stray").mkdir()
    (tmp_path / "stray" / "tokenizer.json").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for name, held in (("stray", "tokenizer.json"), ("bert", "config.json, model.safetensors")):
        with pytest.raises(FileExistsError, match=rf"{name} exists and is not empty \({held}\): give a new folder"):
            huggingface.write(tmp_path / name, model, params, heads=heads, subwords=subwords)

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Subwords, "save", full)
    with pytest.raises(OSError, match="No space left"):
        huggingface.write(tmp_path / "half", model, params, heads=heads, subwords=subwords)
    assert sorted(tmp_path.rglob("*")) == before


def test_old_names_missing_prefixes_shards_copies_and_half_precision(folder: Path) -> None:
    params = _everything(folder)

    def age(tensors: dict[str, np.ndarray]) -> None:
        for name in list(tensors):
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            tensors[old.removeprefix("bert.")] = tensors.pop(name)
        tensors["embeddings.position_ids"] = np.arange(16)[None]
        tensors["cls.predictions.decoder.weight"] = tensors["embeddings.word_embeddings.weight"]
        tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"]

    _change(folder, age)
    _equal(_everything(folder), params)

    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in shards.items():
        save_file({name: tensors[name] for name in held}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, held in shards.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    _equal(_everything(folder), params)

    for kind in (np.float16, ml_dtypes.bfloat16):
        low = {name: tensor.astype(kind) for name, tensor in tensors.items() if tensor.dtype == np.float32}
        save_file(low, folder / "model.safetensors")
        half = _everything(folder)
        _equal(half, jax.tree.map(lambda leaf, kind=kind: np.asarray(leaf).astype(kind).astype(np.float32), params))
    (folder / "model.safetensors").unlink()

    (folder / "b.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"index.json: names files that are not there: \['b.safetensors'\]"):
        huggingface.read(folder)
    save_file({}, folder / "b.safetensors")
    with pytest.raises(ValueError, match="its shards lack"):
        huggingface.read(folder)
    index["weight_map"]["x"] = "../a.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="outside its folder"):
        huggingface.read(folder)


def test_all_problems_of_the_tensors_are_listed_in_one_error(folder: Path) -> None:
    def spoil(tensors: dict[str, np.ndarray]) -> None:
        del tensors["bert.encoder.layer.1.output.dense.bias"]
        tensors["bert.encoder.layer.0.adapter.weight"] = np.zeros((3, 8), np.float32)
        tensors["bert.pooler.dense.weight"] = np.zeros((8, 9), np.float32)
        tensors["bert.pooler.dense.bias"] = np.zeros(8, np.int32)

    _change(folder, spoil)
    with pytest.raises(ValueError, match="do not fit") as error:
        huggingface.read(folder)
    for line in (
        "missing encoder.layer.1.output.dense.bias",
        "unexpected encoder.layer.0.adapter.weight [3, 8]",
        "misshapen pooler.dense.weight: the config needs [8, 8], it is [8, 9]",
        "mistyped pooler.dense.bias: floating point is needed, it is int32",
    ):
        assert line in str(error.value)


def test_damaged_files_are_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    header = struct.unpack("<Q", whole[:8])[0]
    for damaged in (
        *(whole[:-4], whole[:100], whole[:5], b"", whole + b"more"),
        *(struct.pack("<Q", length) + whole[8:] for length in (10**12, header + 8, header - 8, 0)),
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"model.safetensors: damaged or cut short"):
            huggingface.read(folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"needs model.safetensors or .*index.json, holds \['config.json'\]"):
        huggingface.read(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json is not JSON"):
        huggingface.read(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"needs config.json"):
        huggingface.read(folder)


def test_tied_copies_must_agree(folder: Path) -> None:
    _change(folder, lambda tensors: tensors.update({"cls.predictions.decoder.weight": np.zeros((23, 8), np.float32)}))
    with pytest.raises(ValueError, match="ties .*decoder.weight to .*they differ; set tie_word_embeddings"):
        huggingface.read(folder)
    _configure(folder, tie_word_embeddings=False)
    head = huggingface.read(folder).heads["masked_lm"]
    assert not head.module.tied
    assert not np.asarray(head.params["decoder"]["matrix"]).any()


def test_a_next_sentence_head_without_a_class_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    model, params, heads, _ = huggingface.read(folder)
    model = replace(model, positions_after_padding=True)
    with pytest.raises(ValueError, match=r"no class of roberta has the heads \[.*'next_sentence'.*\]"):
        huggingface.write(tmp_path / "no", model, params, heads=heads)
    assert not (tmp_path / "no").exists()


def test_the_pooler_beside_a_lone_head_is_left_out_with_a_warning(folder: Path, tmp_path: Path) -> None:
    model, params, heads, _ = huggingface.read(folder)
    del heads["next_sentence"]
    with pytest.warns(UserWarning, match="the pooler is left out"):
        huggingface.write(tmp_path / "head", model, params, heads=heads)
    back, same, left, config = huggingface.read(tmp_path / "head")
    assert back == model and config["architectures"] == ["BertForMaskedLM"]
    del heads["pooler"]
    _equal((same, _trees(left)), (params, _trees(heads)))


@pytest.mark.slow
def test_a_headless_file_of_gpt_has_its_tied_head(tmp_path: Path) -> None:
    model = Transformer(
        23, dim=8, depth=1, heads=2, feed_forward=12, max_positions=16, causal=True, norm="pre", embedding_norm=False,
        token_types=0, norm_epsilon=1e-5,
    )  # fmt: skip
    params = model.init(jax.random.key(0))
    for heads, name in (({}, "GPT2Model"), ({"causal_lm": Head(model.default_head(), {})}, "GPT2LMHeadModel")):
        huggingface.write(tmp_path / name, model, params, heads=heads)
        found = huggingface.read(tmp_path / name)
        assert found.config["architectures"] == [name]
        assert found.heads == {"causal_lm": Head(model.default_head(), {})}
        _equal(found.params, params)
