"""Small Transformers and their random parameters, for several test files."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import load_file, save_file

from ctx_jax.encoders.transformer import Transformer
from ctx_jax.encoders.transformer.huggingface.config import head_from_config
from ctx_jax.heads import Head, Pooler, SequenceHead

BERT = Transformer(vocabulary=20, dim=8, heads=2, depth=2, feed_forward=12, max_positions=16)
MODERN = replace(
    BERT,
    norm="pre",
    gated=True,
    norm_bias=False,
    attention_bias=False,
    positions="rotary",
    token_types=0,
    first_attention_norm=False,
    local_layers=(1,),
    window=2,
    feed_forward_inner_dropout=0.1,
)

BERT_ENTRIES: dict[str, Any] = {
    "model_type": "bert",
    "vocab_size": 23,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 16,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
"""Of a config.json."""


def random_params(model: Transformer) -> tuple[Any, dict[str, Head]]:
    """Random parameters of a BERT and of all its heads."""
    random = np.random.default_rng(0)

    def draw(init: Callable[[jax.Array], Any]) -> Any:
        shapes = jax.eval_shape(init, jax.random.key(0))
        return jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), shapes)

    vocabulary, pooler, label = head_from_config(BERT_ENTRIES, model), Pooler(), SequenceHead()
    sizes = {"width": model.width}
    return draw(model.init), {
        "masked_lm": Head(vocabulary, draw(partial(vocabulary.init, **sizes, vocabulary=model.vocabulary))),
        "pooler": Head(pooler, draw(partial(pooler.init, **sizes))),
        "next_sentence": Head(label, draw(partial(label.init, **sizes))),
    }


def split_tensors(folder: Path) -> None:
    """Put the tensors of a Hugging Face folder into two files with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in shards.items():
        save_file({name: tensors[name] for name in held}, folder / file)
    weight_map = {name: file for file, held in shards.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
