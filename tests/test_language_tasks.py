"""Masked and causal LM of several languages: texts, metrics by language, resuming, devices."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from ctx_jax.checkpoints.runs import RunCheckpoints
from ctx_jax.commands.train import read
from ctx_jax.data.config import TextConfig
from ctx_jax.data.sequence_config import SequenceConfig
from ctx_jax.encoders.transformer import Transformer
from ctx_jax.io.errors import ConfigError, MissingFileError
from ctx_jax.tasks import TrainConfig
from ctx_jax.tasks.causal_lm import CausalLMConfig
from ctx_jax.tasks.languages import metrics_by_language
from ctx_jax.tasks.masked_lm import MaskedLMConfig, MaskedLMEvaluate
from ctx_jax.tokenizers.subword_training import TokenizerConfig
from ctx_jax.training.config import CheckpointConfig, DevicesConfig, LogConfig
from ctx_jax.training.optimizer import AdamW
from ctx_jax.training.run import run
from ctx_jax.training.task import TaskContext

MODEL = Transformer(0, dim=8, depth=1, heads=2, feed_forward=8, max_positions=16)
WORDS = {"de": ["der", "Hund", "und", "ein", "Haus"], "fr": ["le", "chien", "et", "maison"]}
SIZES = {"de": 60, "fr": 15}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, random = tmp_path_factory.mktemp("texts"), np.random.default_rng(0)
    for name, words in WORDS.items():
        for split, count in (("", SIZES[name]), (".valid", 10)):
            lines = [" ".join(random.choice(words, random.integers(3, 9))) for _ in range(count)]
            (folder / f"{name}{split}.txt").write_text("\n".join(lines) + "\n")
    (folder / "empty.txt").write_text("\n")
    return folder


def config_of(folder: Path, run_dir: Path, **data: object) -> TrainConfig:
    data = {
        "languages": tuple(f"{name}={folder}/{name}.txt" for name in WORDS),
        "valid_languages": tuple(f"{name}={folder}/{name}.valid.txt" for name in WORDS),
        "exponent": 0.3,
    } | data
    task = MaskedLMConfig(
        model=MODEL,
        data=TextConfig(**data),
        sequences=SequenceConfig(length=16, batch_size=8, mask_rate=0.3),
        tokenizer=TokenizerConfig(kind="bpe", size=280),
        evaluate=MaskedLMEvaluate(every=4),
    )
    return TrainConfig(
        task=task,
        optimizer=AdamW(learning_rate=0.02, warmup=1, schedule="constant"),
        devices=DevicesConfig(count=1),
        checkpoint=CheckpointConfig(every=4),
        log=LogConfig(every=1),
        run_dir=str(run_dir),
        steps=4,
    )


def context(run_dir: Path, lines: list[str] | None = None) -> TaskContext:
    lines = [] if lines is None else lines
    return TaskContext(run_dir, seed=0, steps=4, resumed=False, log=lines.append)


def lines_of(run_dir: str) -> list[dict]:
    lines = [json.loads(line) for line in (Path(run_dir) / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "tokens_per_second"} for line in lines]


@pytest.mark.slow
def test_a_run_has_metrics_by_language_and_goes_on_as_if_never_stopped(folder: Path, tmp_path: Path) -> None:
    whole = config_of(folder, tmp_path / "whole")
    run(whole)
    lines = lines_of(whole.run_dir)
    assert [line["split"] for line in lines] == ["data", *["train"] * 4, "valid"]
    data, valid = lines[0], lines[-1]
    assert data["step"] == 0
    tokens = np.array([data["tokens_de"], data["tokens_fr"]]) ** 0.3
    np.testing.assert_allclose([data["share_de"], data["share_fr"]], tokens / tokens.sum(), rtol=1e-9)
    assert data["epochs_fr"] > data["epochs_de"] > 0
    for name in ("loss", "accuracy"):
        assert valid[name] == pytest.approx((valid[f"{name}_de"] + valid[f"{name}_fr"]) / 2)
    assert valid["perplexity"] == pytest.approx(np.exp(valid["loss"]), rel=1e-6)
    for name in WORDS:  # a run of one language's text measures the same
        alone = replace(whole.task, data=TextConfig(f"{folder}/{name}.txt", f"{folder}/{name}.valid.txt"))
        alone = replace(alone, tokenizer=TokenizerConfig(file=whole.run_dir)).open(context(tmp_path / f"alone_{name}"))
        with RunCheckpoints(Path(whole.run_dir) / "checkpoints") as checkpoints:
            params = checkpoints.restore_params(4)
        measured = alone.valid_metrics(params, jax.local_devices()[:1], lambda line: None)
        for metric, value in measured.items():
            assert valid[f"{metric}_{name}"] == pytest.approx(value, rel=1e-6)

    # Stopped at another device count, and with a tokenizer trained again: a byte-level BPE is the same each time.
    stopped = replace(whole, run_dir=str(tmp_path / "stopped"), steps=2)
    run(stopped)
    run(replace(stopped, steps=4, devices=DevicesConfig(count=8)))
    for one, other in zip(lines_of(stopped.run_dir), [*lines[:3], None, *lines[3:]], strict=True):
        if other is not None and one["split"] != "data":  # the numbers of the data are those of the steps it began with
            assert one.pop("split") == other["split"]
            assert one == pytest.approx({name: other[name] for name in one}, rel=1e-4)


def test_a_text_that_is_missing_or_empty_is_named_by_its_language(folder: Path, tmp_path: Path) -> None:
    good = config_of(folder, tmp_path).task
    for field, name, error in (
        ("languages", "none.txt", MissingFileError),
        ("languages", "empty.txt", ConfigError),
        ("valid_languages", "empty.txt", ConfigError),
    ):
        entries = (getattr(good.data, field)[0], f"fr={folder}/{name}")
        broken = replace(good, data=replace(good.data, **{field: entries}))
        with pytest.raises(error, match=rf"data\.{field} fr=.*{name}"):
            broken.open(context(tmp_path / "run"))


def test_a_text_without_rows_in_a_packing_is_named_by_its_language(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "de.txt").write_text("der Hund\nund\n\nein Haus\nund ein Hund\n")
    names = (f"de={tmp_path}/de.txt", f"fr={folder}/fr.txt")
    config = config_of(folder, tmp_path, languages=names, valid_languages=()).task
    pairs = replace(config, sequences=replace(config.sequences, packing="pairs"))
    with pytest.raises(ConfigError, match=r"pair_label .*documents.* fr"):
        pairs.open(context(tmp_path / "run"))


def test_a_language_may_lack_a_validation_text_and_the_shares_are_printed(folder: Path, tmp_path: Path) -> None:
    config = config_of(folder, tmp_path, valid_languages=(f"fr={folder}/fr.valid.txt",)).task
    lines: list[str] = []
    task = config.open(context(tmp_path / "run", lines))
    assert list(task.valid) == ["fr"]
    shown = {row.split()[0]: row for row in lines[-1].splitlines()}
    for name, numbers in (("de", task.data_metrics(4)), ("fr", task.data_metrics(4))):
        assert f"{numbers[f'share_{name}']:.2%}" in shown[name] and f"{numbers[f'epochs_{name}']:.2f}" in shown[name]
    unmeasured = replace(config, data=replace(config.data, valid_languages=())).open(context(tmp_path / "other"))
    assert unmeasured.valid is None and not unmeasured.evaluators


def test_a_causal_model_reads_languages_too(folder: Path, tmp_path: Path) -> None:
    config = config_of(folder, tmp_path).task
    model = replace(MODEL, causal=True, token_types=0)
    sequences = replace(config.sequences, packing="causal_blocks")
    task = CausalLMConfig(model=model, data=config.data, sequences=sequences, tokenizer=config.tokenizer)
    batch = next(task.open(context(tmp_path / "run")).batches(0, 8))
    assert batch.arrays.next_token_ids.shape == (8, 16)


def test_the_means_over_languages_are_of_whatever_a_task_measures() -> None:
    texts: Any = {"de": 1.0, "fr": 3.0}
    found = metrics_by_language(texts, lambda loss: {"loss": loss}, str)
    assert found == {"loss": 2.0, "loss_de": 1.0, "loss_fr": 3.0}
    found = metrics_by_language(texts, lambda loss: {"perplexity": np.exp(loss)}, str)
    assert found["perplexity"] == pytest.approx(np.exp(2.0))


def test_the_command_line_names_languages(folder: Path) -> None:
    names = [f"{name}={folder}/{name}.txt" for name in WORDS]
    config = read(["mlm_quickstart", "--data.languages", *names, "--data.exponent", "0.3"])
    assert config.task.data.languages == tuple(names) and config.task.data.exponent == 0.3
    with pytest.raises(ConfigError, match=r"--data\.languages .*fr\.txt"):
        read(["mlm_quickstart", "--data.languages", "fr.txt"])
    with pytest.raises(ConfigError, match=r"--data\.languages .*biLM"):
        read(["quickstart", "--data.languages", *names])
