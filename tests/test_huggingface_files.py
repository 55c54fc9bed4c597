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
from tiny_transformers import BERT_ENTRIES, random_params, split_tensors

import ctx_jax
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.encoders.transformer.huggingface import folders as huggingface
from ctx_jax.encoders.transformer.huggingface.config import model_from_config
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
    split_tensors(folder)
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
    path = folder / "model.safetensors.index.json"
    path.write_text(path.read_text().replace('"weight_map": {', '"weight_map": {"x": "../a.safetensors", '))
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


def _raw(folder: Path, tensors: dict[str, tuple[str, int]]) -> None:
    """A safetensors file of zeros, 8 values each, from name -> (type, bytes)."""
    header, end = {}, 0
    for name, (kind, size) in tensors.items():
        header[name] = {"dtype": kind, "shape": [8], "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))


def test_types_that_numpy_lacks_are_read_or_refused_by_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    params = _everything(folder)
    kinds = {ml_dtypes.float8_e4m3fn: "F8_E4M3", ml_dtypes.float8_e5m2: "F8_E5M2"}
    for kind, stored in kinds.items():
        low = {name: tensor.astype(kind) for name, tensor in tensors.items()}
        save_file({name: tensor.view(np.uint8) for name, tensor in low.items()}, folder / "model.safetensors")
        path = folder / "model.safetensors"
        length = struct.unpack("<Q", path.read_bytes()[:8])[0]
        header, data = path.read_bytes()[8 : 8 + length], path.read_bytes()[8 + length :]
        text = header.replace(b'"U8"', f'"{stored}"'.encode())
        path.write_bytes(struct.pack("<Q", len(text)) + text + data)
        _equal(_everything(folder), jax.tree.map(lambda leaf, kind=kind: np.asarray(leaf).astype(kind), params))
    for kind, size in (("F8_E8M0", 8), ("F4", 4), ("F6_E2M3", 6)):
        _raw(folder, {"fine": ("F32", 32), "odd": (kind, size)})
        with pytest.raises(ValueError, match=rf"model.safetensors: tensor 'odd' is of type '{kind}'; these are read"):
            huggingface.read(folder)


def test_counts_of_layers_and_tensors_are_bounded(folder: Path) -> None:
    _configure(folder, num_hidden_layers=9999)
    with pytest.raises(ValueError, match="num_hidden_layers of config.json is 9999, the tensors are those of 2 layers"):
        huggingface.read(folder)
    _configure(folder, num_hidden_layers=1)
    _change(folder, lambda tensors: tensors.update({f"encoder.layer.0.x{n}": np.zeros(0) for n in range(60)}))
    with pytest.raises(ValueError, match="and 26 more$"):  # 60, and 16 of the second layer
        huggingface.read(folder)
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    text = json.dumps({f"encoder.layer.{n}.x": empty for n in range(100_001)}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(ValueError, match="model.safetensors: holds 100001 tensors"):
        huggingface.read(folder)


def test_a_config_without_model_type_is_told_so(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({key: config[key] for key in config if key != "model_type"}))
    with pytest.raises(ValueError, match="the key model_type is missing"):
        ctx_jax.load(folder)


def test_buffers_of_old_files_are_no_tensors_of_the_model(folder: Path) -> None:
    params = _everything(folder)
    names = ("embeddings.position_ids", "bert.embeddings.token_type_ids")
    _change(folder, lambda tensors: tensors.update({name: np.zeros((1, 16), np.int64) for name in names}))
    _equal(_everything(folder), params)


def test_a_tensor_in_two_shards_is_refused(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    name = next(iter(tensors))
    save_file({name: tensors[name] + 1, "x": tensors[name]}, folder / "b.safetensors")
    weight_map = dict.fromkeys(tensors, "a.safetensors") | {"x": "b.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ValueError, match=f"b.safetensors: holds '{name}', which another shard holds too"):
        huggingface.read(folder)
    weight_map["x"] = "b" * 5000 + ".safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(FileNotFoundError, match="names files that are not there"):
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
