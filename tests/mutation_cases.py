"""The readers that `mutations.py` damages files for: a new one is one more entry of `CASES`."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from mutations import Case
from safetensors.numpy import load_file, save_file
from test_allennlp import TINY, arrays_of
from tiny_transformers import BERT_ENTRIES, MODERN, random_params

import ctx_jax
from ctx_jax.encoders.elmo import allennlp, allennlp_files
from ctx_jax.encoders.transformer import huggingface
from ctx_jax.encoders.transformer.huggingface_config import model_from_config


def _make_huggingface(folder: Path) -> None:
    model = model_from_config(BERT_ENTRIES)
    params, heads = random_params(model)
    _write_into(folder, lambda new: huggingface.write(new, model, params, heads=heads))


def _make_modernbert(folder: Path) -> None:
    model = replace(MODERN, feed_forward_dropout=0.0)
    _write_into(folder, lambda new: huggingface.write(new, model, model.init(jax.random.key(0))))


def _make_shards(folder: Path) -> None:
    _make_huggingface(folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in shards.items():
        save_file({name: tensors[name] for name in held}, folder / file)
    weight_map = {name: file for file, held in shards.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def _make_allennlp(folder: Path) -> None:
    params = allennlp.params_from_arrays(TINY, arrays_of(TINY))
    _write_into(folder, lambda new: allennlp_files.write(new, TINY, params))


def _write_into(folder: Path, write: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory() as place:
        write(Path(place) / "new")
        for path in (Path(place) / "new").iterdir():
            (folder / path.name).write_bytes(path.read_bytes())


def _parameters(found: Any) -> list[np.ndarray]:
    """Of a loaded encoder, its heads included."""
    trees = [found.params, {name: head.params for name, head in found.heads.items()}]
    return [np.asarray(leaf) for leaf in jax.tree.leaves(trees)]


CASES = (
    Case("huggingface-config", "config.json", _make_huggingface, huggingface.read),
    Case("huggingface-config-modernbert", "config.json", _make_modernbert, huggingface.read),
    Case("huggingface-tensors", "model.safetensors", _make_huggingface, huggingface.read, _parameters),
    Case("huggingface-index", "model.safetensors.index.json", _make_shards, huggingface.read),
    Case("huggingface-shard", "b.safetensors", _make_shards, huggingface.read, _parameters),
    Case("allennlp-options", "options.json", _make_allennlp, ctx_jax.load),
    Case("allennlp-weights", "weights.hdf5", _make_allennlp, ctx_jax.load, _parameters),
)
