"""What a task reads and builds before its first step: by the first process alone, and checked before text is read."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctx_jax.data.config import BiLMData, TextConfig
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.encoders.elmo import BiLM
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.heads import Head, VocabularyHead
from ctx_jax.io.errors import ConfigError, InputError, MissingFileError
from ctx_jax.tasks import imported_transformer, setup
from ctx_jax.tasks.bilm import BiLMConfig
from ctx_jax.tasks.masked_lm import MaskedLMConfig
from ctx_jax.tokenizers.subword_training import TokenizerConfig
from ctx_jax.training.task import TaskContext

MASKED_LM = MaskedLMConfig(
    model=Transformer(0, dim=4, depth=1, heads=1, feed_forward=4, max_positions=16),
    sequences=SequenceConfig(length=16, batch_size=2),
    tokenizer=TokenizerConfig(kind="wordpiece", size=80),
)


def context(run_dir: Path, *, resumed: bool = False) -> TaskContext:
    return TaskContext(run_dir, seed=0, steps=3, resumed=resumed, log=lambda line: None)


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("only the first process builds and writes")


def test_the_first_process_builds_a_vocabulary_and_the_others_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.txt").write_text("the cat sat\nthe dog\n")
    (tmp_path / "other.txt").write_text("another text\n")
    data = BiLMData(str(tmp_path / "text.txt"), batch_size=2)
    config = BiLMConfig(model=BiLM(dim=4, projection=3), data=data, negatives=2)
    first = config.open(context(tmp_path / "run"))
    monkeypatch.setattr(setup, "is_first_process", lambda: False)
    monkeypatch.setattr(setup, "atomic_write", refuse)
    monkeypatch.setattr(setup.vocabularies, "build", refuse)
    second = config.open(context(tmp_path / "run"))
    assert second.vocabulary == first.vocabulary and second.model == first.model
    elsewhere = replace(config, data=replace(data, train=str(tmp_path / "other.txt")))
    with pytest.raises(ConfigError, match="digest") as error:
        elsewhere.open(context(tmp_path / "run"))
    assert error.value.field == "data.train"
    (tmp_path / "run" / "texts.json").write_text("[")
    with pytest.raises(InputError, match=r"texts\.json"):
        config.open(context(tmp_path / "run", resumed=True))


def test_the_first_process_trains_a_tokenizer_and_the_others_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.txt").write_text("the cat sat\nthe dog\n")
    config = replace(MASKED_LM, data=TextConfig(str(tmp_path / "text.txt")))
    first = config.open(context(tmp_path / "run"))
    monkeypatch.setattr(setup, "is_first_process", lambda: False)
    monkeypatch.setattr(setup.subword_training, "train", refuse)
    second = config.open(context(tmp_path / "run"))
    assert second.subwords.digest == first.subwords.digest and second.model == first.model
    assert first.model.vocabulary == len(first.subwords)


def test_a_validation_text_that_cannot_be_measured_is_refused_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the cat sat\nthe dog ran\n\na bird sang\na dog saw\n")
    (tmp_path / "one.txt").write_text("the cat sat\nthe dog ran\n")
    data = TextConfig(str(tmp_path / "text.txt"), str(tmp_path / "one.txt"))
    config = replace(MASKED_LM, data=data, sequences=replace(MASKED_LM.sequences, packing="pairs"))
    with pytest.raises(ConfigError, match="two documents") as error:
        config.open(context(tmp_path / "run"))
    assert error.value.field == "data.valid"
    never = replace(config, evaluate=replace(config.evaluate, every=0))
    assert never.open(context(tmp_path / "run")).valid is not None


def test_a_file_or_folder_that_is_missing_is_named_with_its_setting(tmp_path: Path) -> None:
    for config, field in (
        (replace(MASKED_LM, init=str(tmp_path / "none")), "init"),
        (replace(MASKED_LM, tokenizer=TokenizerConfig(file=str(tmp_path / "none"))), "tokenizer.file"),
    ):
        with pytest.raises(MissingFileError, match=rf"{field} .*none"):
            config.open(context(tmp_path / "run"))
    assert not (tmp_path / "run").exists(), "refused before the text is read"


@pytest.mark.slow
def test_the_parameters_of_an_import_wait_on_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run keeps them as long as it lasts, which would be a second set on a device."""
    (tmp_path / "text.txt").write_text("the cat sat\nthe dog ran\n")
    config = replace(MASKED_LM, data=TextConfig(str(tmp_path / "text.txt")))
    first = config.open(context(tmp_path / "first"))
    heads = {"masked_lm": Head(VocabularyHead(), {"decoder": {"bias": jnp.zeros(5)}})}
    params = {"a": {"kernel": jnp.ones((2, 3))}, "b": jnp.zeros(4)}
    monkeypatch.setattr(
        imported_transformer, "load", lambda folder: Encoder(first.model, params, first.processor, heads)
    )
    started = replace(config, init="folder")
    with pytest.raises(ConfigError, match="16 positions") as error:
        replace(started, sequences=replace(config.sequences, length=64)).open(context(tmp_path / "third"))
    assert error.value.field == "sequences.length"
    assert not (tmp_path / "third").exists(), "refused before the text is read"
    imported = started.open(context(tmp_path / "second")).imported
    assert imported is not None
    assert jax.tree.map(type, imported.params) == {"a": {"kernel": np.ndarray}, "b": np.ndarray}
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(imported.heads["masked_lm"].params))
