"""README's Python runs as it stands there."""

import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctx_jax.checkpoints.runs import RunCheckpoints
from ctx_jax.encoders.elmo import model as bilm
from ctx_jax.encoders.elmo.model import BiLM
from ctx_jax.encoders.transformer import model as transformer
from ctx_jax.encoders.transformer.model import Transformer
from ctx_jax.io.configs import to_json
from ctx_jax.tokenizers.subword_training import train

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
TEXT = ["the bank of the river", "a bank lends money"]


def write_run(folder: Path, model: BiLM | Transformer, params: Any) -> None:
    folder.mkdir(parents=True)
    config = {"type": "TrainConfig", "model": to_json(model), "data": {"train": "text.txt", "rule": "whitespace"}}
    (folder / "config.json").write_text(json.dumps(config))
    with RunCheckpoints(folder / "checkpoints", clean=True) as checkpoints:
        state = {"params": params, "step": jnp.int32(1)}
        checkpoints.save(1, state, {"sentence": np.int64(0)}, {"loss": 1.0})


def test_the_python_of_the_readme_gives_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("\n".join(TEXT))
    words = BiLM(filters=((1, 4), (2, 8)), character_dim=4, highways=1, dim=6, projection=5, max_characters=9)
    write_run(Path("runs/quickstart"), words, bilm.init(words, jax.random.key(0)))
    subwords = train(TEXT * 5, "wordpiece", 60)
    model = Transformer(len(subwords), dim=8, layers=2, heads=2, feed_forward=12, max_positions=32)
    write_run(Path("runs/law"), model, jax.jit(transformer.init, static_argnums=0)(model, jax.random.key(0)))
    subwords.save("runs/law")
    first, second = re.findall(r"```python\n(.*?)```", README, re.DOTALL)

    names: dict[str, Any] = {}
    exec(first, names)
    assert names["layers"].values.shape == (3, 2, 5, 10) and names["layers"].mask.shape == (2, 5)
    assert names["ctx_jax"].mix(names["layers"].values, names["mixing"]).shape == (2, 5, 10)
    assert names["vectors"].shape == (3, 4, 10), "the last sentence of the file"

    names = {"ctx_jax": names["ctx_jax"]}
    exec(second, names)
    length = names["ids"].shape[1]
    assert names["maps"].shape == (2, 1, 2, length, length)
    assert names["hidden"].shape == (1, length, 8) and names["logits"].shape == (1, length, len(subwords))
