"""What a run's directory holds before it begins: built by the first host alone, read by all."""

from dataclasses import replace
from pathlib import Path

import pytest

from ctx_jax.data.config import DataConfig
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.models.bilm import BiLM
from ctx_jax.models.transformer_config import Transformer
from ctx_jax.text.subword_config import TokenizerConfig
from ctx_jax.training import choose
from ctx_jax.training.choose import open_task
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

    monkeypatch.setattr(choose, "is_first_host", lambda: False)
    monkeypatch.setattr(choose, "write_whole", refused)
    monkeypatch.setattr(choose.vocabularies, "build", refused)
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
