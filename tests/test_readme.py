"""README's Python runs as it stands there."""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from label_runs import config, make_place

from ctx_jax.checkpoints.run_files import ENCODER, EncoderFile
from ctx_jax.checkpoints.runs import RunCheckpoints
from ctx_jax.encoders.elmo import BiLM
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.io import configs
from ctx_jax.tasks.tag import TagConfig
from ctx_jax.tokenizers.subword_training import train
from ctx_jax.training.run import run

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
TEXT = ["the bank of the river", "a bank lends money"]


def write_run(folder: Path, model: BiLM | Transformer, heads: dict[str, Any]) -> None:
    """A run with one checkpoint of initial parameters."""
    folder.mkdir(parents=True)
    (folder / ENCODER).write_text(configs.text(EncoderFile(model, heads, "whitespace")))
    params = {"encoder": jax.jit(model.init)(jax.random.key(0)), "head": {}}
    for name, head in heads.items():
        params["head"][name] = head.init(jax.random.key(1), width=model.width, vocabulary=model.vocabulary)
    with RunCheckpoints(folder / "checkpoints", clean=True) as checkpoints:
        checkpoints.save(1, {"params": params, "step": jnp.int32(1)}, {"sentence": np.int64(0)}, {"loss": 1.0})


@pytest.mark.slow
def test_the_python_of_the_readme_runs_and_gives_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("\n".join(TEXT))
    words = BiLM(
        filters=((1, 4),), character_dim=4, dim=6, projection=5, max_characters=9, length_buckets=(),
        dedup_table_factors=(1.0,),
    )  # fmt: skip
    write_run(Path("runs/quickstart"), words, {})
    subwords = train(TEXT * 5, "wordpiece", 60)
    model = Transformer(len(subwords), dim=8, depth=2, heads=2, feed_forward=12, max_positions=32)
    write_run(Path("runs/law"), model, {"masked_lm": model.default_head()})
    subwords.save(Path("runs/law"))
    assert run(config(make_place(tmp_path), Path("runs/upos"), TagConfig, "table.vec"))
    first, labels, second = re.findall(r"```python\n(.*?)```", README, re.DOTALL)

    names: dict[str, Any] = {}
    exec(first, names)
    assert names["layers"].values.shape == (3, 2, 5, 10) and names["layers"].mask.shape == (2, 5)
    assert names["ctx_jax"].mix(names["layers"].values, names["mixing"]).shape == (2, 5, 10)
    assert names["vectors"].shape == (3, 4, 10), "the last sentence of the file"

    names = {"ctx_jax": names["ctx_jax"]}
    exec(labels, names)
    assert names["tagger"].predict([["the", "film"]])[0]["words"] == ["the", "film"]
    assert names["encoder"].heads["mix"].params["weights"].shape == (1,)

    names = {"ctx_jax": names["ctx_jax"]}
    exec(second, names)
    length = names["ids"].shape[1]
    assert names["maps"].shape == (2, 1, 2, length, length)
    assert names["hidden"].shape == (1, length, 8) and names["logits"].shape == (1, length, len(subwords))
