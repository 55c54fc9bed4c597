"""Small sentence-transformers folders, for several test files."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from ctx_jax.encoders.transformer import SubwordInputs, Transformer
from ctx_jax.encoders.transformer.huggingface import folders as huggingface
from ctx_jax.tokenizers.subword_training import train

TEXT = ["the cat sat on the mat", "a dog and a cat", "the dogs sat", "query : the mats and cats", "The Cat"] * 5
SUBWORDS = train(TEXT, "wordpiece", 70)
BERT = Transformer(vocabulary=len(SUBWORDS), dim=8, depth=2, heads=2, feed_forward=12, max_positions=24, token_types=1)
ROBERTA = replace(BERT, max_positions=BERT.max_positions + 2, positions_after_padding=True, pad_id=1)  # byte-level
QWEN3 = replace(
    BERT.without_dropout, kv_heads=1, head_dim=6, head_norms=True, activation="silu", gated=True, causal=True,
    norm="pre", norm_kind="rms", norm_bias=False, embedding_norm=False, attention_bias=False, feed_forward_bias=False,
    token_types=0, positions="rotary", rotary_theta=1e4, pad_id=None,
)  # fmt: skip
GEMMA = replace(
    QWEN3, norm="both", scaled_embeddings=True, activation="gelu_tanh", causal=False, local_layers=(0,), window=2,
    pad_id=1,
)  # fmt: skip
T5 = replace(
    QWEN3, kv_heads=None, head_norms=False, causal=False, activation="gelu_tanh", positions="none", relative="bias",
    attention_scale=1.0, rotary_theta=BERT.rotary_theta, max_positions=2**31 - 1, pad_id=1,
)  # fmt: skip
PROCESSOR = SubwordInputs(SUBWORDS, BERT.longest)
TEXTS = ["the cat sat", "", "dogs", "a cat " * 20, "The DOG sat on mats and dogs", "cat", "query : the mat", "sat sat"]

POOLING = {"word_embedding_dimension": BERT.dim, "pooling_mode_mean_tokens": True}
ITEM = dict[str, Any]


def write_folder(
    folder: Path,
    *,
    pooling: Mapping[str, Any] = POOLING,
    after: Sequence[ITEM | None] = (),
    body: str = "",
    settings: ITEM | None = None,
    body_settings: ITEM | None = None,
    model: Transformer = BERT,
) -> Path:
    """A folder with random weights. `after`: a Dense module's config.json, or None for Normalize."""
    folder.mkdir(parents=True)
    subwords = SUBWORDS if model is BERT else train(TEXT, "bpe", 300)
    model = replace(model, vocabulary=len(subwords))
    huggingface.write(folder / "transformer", model, random_params(model), subwords=subwords)
    target = folder / body
    target.mkdir(exist_ok=True)
    for path in (folder / "transformer").iterdir():
        shutil.move(path, target / path.name)
    (folder / "transformer").rmdir()
    write_json(target / "sentence_bert_config.json", body_settings)
    modules = [("Transformer", body), ("Pooling", "1_Pooling")]
    (folder / "1_Pooling").mkdir()
    write_json(folder / "1_Pooling" / "config.json", dict(pooling))
    random = np.random.default_rng(0)
    for config in after:
        kind = "Normalize" if config is None else "Dense"
        modules.append((kind, f"{len(modules)}_{kind}"))
        if config is not None:
            write_dense(folder / modules[-1][1], config, random)
    entries = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (kind, path) in enumerate(modules)
    ]
    write_json(folder / "modules.json", entries)
    write_json(folder / "config_sentence_transformers.json", settings)
    return folder


@cache
def random_params(model: Transformer) -> Any:
    """Large enough that texts differ."""
    return jax.tree.map(lambda leaf: 10 * np.asarray(leaf), jax.jit(model.init)(jax.random.key(0)))


def write_dense(folder: Path, config: ITEM, random: np.random.Generator) -> None:
    folder.mkdir()
    write_json(folder / "config.json", config)
    inputs, outputs = config["in_features"], config["out_features"]
    tensors = {"linear.weight": random.normal(size=(outputs, inputs))}
    if config.get("bias", True):
        tensors["linear.bias"] = random.normal(size=outputs)
    if config.get("use_residual") and inputs != outputs:
        tensors["residual.weight"] = random.normal(size=(outputs, inputs))
    save_file({name: array.astype(np.float32) for name, array in tensors.items()}, folder / "model.safetensors")


def write_json(path: Path, content: Any) -> None:
    if content is not None:
        path.write_text(json.dumps(content))
