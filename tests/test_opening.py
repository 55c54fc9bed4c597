"""What a run's directory holds before it begins: built by the first host alone, read by all."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ctx_jax.encoders.transformer.config import Transformer
from ctx_jax.tasks.opening import open_task

from ctx_jax.data.config import DataConfig
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.encoders.elmo.model import BiLM
from ctx_jax.encoders.transformer.inputs import SubwordReader
from ctx_jax.tasks import opening, preparing
from ctx_jax.tokenizers.subword_training import TokenizerConfig
from ctx_jax.training.config import TrainConfig


def test_of_several_hosts_the_first_one_builds_and_the_others_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.txt").write_text("the cat sat\nthe dog\n")
    (tmp_path / "other.txt").write_text("another text\n")
    config = TrainConfig(BiLM(dim=4, projection=3, negatives=2), DataConfig(str(tmp_path / "text.txt"), lanes=2))
    first = open_task(config, tmp_path / "run", lambda line: None, resumed=False)

    def refused(*arguments: object, **options: object) -> None:
        raise AssertionError("only the first host builds and writes")

    for module in (opening, preparing):
        monkeypatch.setattr(module, "is_first_host", lambda: False)
    monkeypatch.setattr(preparing, "atomic_write", refused)
    monkeypatch.setattr(preparing.vocabularies, "build", refused)
    second = open_task(config, tmp_path / "run", lambda line: None, resumed=False)
    assert second.vocabulary == first.vocabulary and second.model == first.model
    elsewhere = replace(config, data=replace(config.data, train=str(tmp_path / "other.txt")))
    with pytest.raises(ValueError, match="the train text is not the one this run began with"):
        open_task(elsewhere, tmp_path / "run", lambda line: None, resumed=False)
    (tmp_path / "run" / "texts.json").write_text("[")
    with pytest.raises(ValueError, match=r"texts\.json is not what this run wrote"):
        open_task(config, tmp_path / "run", lambda line: None, resumed=True)


def test_a_validation_text_that_cannot_be_measured_is_refused_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the cat sat\nthe dog ran\n\na bird sang\na dog saw\n")
    (tmp_path / "one.txt").write_text("the cat sat\nthe dog ran\n")
    config = TrainConfig(
        Transformer(0, dim=4, layers=1, heads=1, feed_forward=4, max_positions=16, pooler=True, next_sentence=True),
        DataConfig(str(tmp_path / "text.txt"), str(tmp_path / "one.txt")),
        sequences=SequenceConfig(form="pairs", length=16, rows=2),
        tokenizer=TokenizerConfig(kind="wordpiece", size=80),
    )
    with pytest.raises(ValueError, match="--data.valid.* cannot be measured: .*two documents"):
        open_task(config, tmp_path / "run", lambda line: None, resumed=False)


def test_the_parameters_of_an_import_wait_on_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run holds on to them: on a device they would be a second set for as long as it lasts."""
    (tmp_path / "text.txt").write_text("the cat sat\nthe dog ran\n")
    model = Transformer(0, dim=4, layers=1, heads=1, feed_forward=4, max_positions=16)
    data, sequences = DataConfig(str(tmp_path / "text.txt")), SequenceConfig(form="full", length=16, rows=2)
    config = TrainConfig(model, data, sequences=sequences, tokenizer=TokenizerConfig(kind="wordpiece", size=80))
    first = open_task(config, tmp_path / "first", lambda line: None, resumed=False)
    reader = SubwordReader(first.subwords)
    begun = Encoder(first.model, {"a": {"kernel": jnp.ones((2, 3))}, "b": jnp.zeros(4)}, reader)
    monkeypatch.setattr(opening, "load", lambda folder: begun)
    monkeypatch.setattr(opening.huggingface, "kept_architecture", lambda folder: None)
    long = replace(config, init="begun", sequences=replace(sequences, length=64))
    with pytest.raises(ValueError, match="longer than the 16 positions"):
        open_task(long, tmp_path / "third", lambda line: None, resumed=False)
    assert not (tmp_path / "third").exists()  # refused before the text is read
    second = open_task(replace(config, init="begun"), tmp_path / "second", lambda line: None, resumed=False)
    assert jax.tree.map(type, second.imported) == {"a": {"kernel": np.ndarray}, "b": np.ndarray}
