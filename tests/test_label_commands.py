"""The commands of tasks with labels, and what they refuse."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from label_runs import arrays, config, make_place, with_task

import ctx_jax
from ctx_jax import cli
from ctx_jax.checkpoints.run_files import TEXTS
from ctx_jax.data.labelled import LabelledData
from ctx_jax.encoders.transformer.huggingface import folders as huggingface
from ctx_jax.io.errors import ConfigError, InputError
from ctx_jax.tasks.label_options import LabelEvaluate, TableOptions
from ctx_jax.training.run import run

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("labelled"))


@pytest.mark.slow
def test_the_commands_word_for_word(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir, data = (
        str(tmp_path / "run"),
        ["--data.train", str(place / "train.tsv"), "--data.valid", str(place / "dev.tsv")],
    )
    encoder = ["--encoder", str(place / "table.vec"), "--frozen"]
    assert cli.main(["train", "classify", *data, *encoder, "--run-dir", run_dir, "--steps", "60", "--seed", "1"]) == 0
    capsys.readouterr()
    assert cli.main(["evaluate", run_dir, str(place / "dev.tsv"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {*found} == {"accuracy", "f1", "matthews", "loss", "examples"} and found["examples"] == 16
    assert cli.main(["predict", run_dir, str(place / "dev.tsv")]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    wanted = [row[-1] for row in (place / "dev.tsv").read_text().splitlines()]
    share = np.mean([answer["label"] == label for answer, label in zip(answers, wanted, strict=True)])
    assert share == found["accuracy"]
    assert all(sum(answer["probabilities"].values()) == pytest.approx(1) for answer in answers)


@pytest.mark.slow
def test_tagging_by_the_commands(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir, dev = str(tmp_path / "run"), str(place / "dev.txt")
    flags = [
        "--data.train",
        str(place / "train.txt"),
        "--data.valid",
        dev,
        "--data.columns",
        "form,ner",
        "--steps",
        "9",
    ]
    assert cli.main(["train", "tag", "--encoder", str(place / "table.vec"), "--run-dir", run_dir, *flags]) == 0
    capsys.readouterr()
    assert cli.main(["evaluate", run_dir, dev, "--json"]) == 0
    words = sum(bool(line) for line in Path(dev).read_text().splitlines())
    assert json.loads(capsys.readouterr().out)["examples"] == words
    bare = tmp_path / "bare.txt"
    bare.write_text("the\nfilm\n\nit\n")
    assert cli.main(["predict", run_dir, str(bare)]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["words"] for answer in answers] == [["the", "film"], ["it"]]
    assert [len(answer["labels"]) for answer in answers] == [2, 1]


def edited(place: Path, folder: Path, name: str, edit: Callable[[str], str]) -> str:
    path = folder / name
    path.write_text(edit((place / name).read_text()))
    return str(path)


@pytest.mark.parametrize(
    "field, changes",
    [
        ("encoder", {"encoder": ""}),
        ("encoder", {"encoder": "nowhere"}),
        ("data.train", {"data": LabelledData()}),
        ("data.columns", {"data": LabelledData("x.tsv", columns="text,text")}),
        ("layers", {"layers": 7}),
        ("encoder_rate", {"encoder_rate": 2e-5}),  # a rate, where a share of one is asked
        ("encoder_rate", {"encoder_rate": 0.0}),
        ("encoder_rate", {"encoder_rate": 0.1, "frozen": True}),
        ("evaluate.metric", {"data": LabelledData("x.tsv"), "evaluate": LabelEvaluate(metric="f1")}),
        ("evaluate.patience", {"data": LabelledData("x.tsv"), "evaluate": LabelEvaluate(patience=3)}),
        ("data.train", {"data": LabelledData("nowhere.tsv")}),
    ],
)
def test_settings_that_cannot_be_used_are_named(place: Path, tmp_path: Path, field: str, changes: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        run(with_task(config(place, tmp_path), **changes))
    assert caught.value.field == field


@pytest.mark.slow
def test_labels_that_training_has_not_seen(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = config(place, tmp_path / "run", encoder="table.vec", frozen=True)
    odd = edited(place, tmp_path, "dev.tsv", lambda text: text + "the film\t2\nthe plot\t2\n")
    assert run(with_task(replace(settings, steps=2), data=replace(settings.task.data, valid=odd)))
    assert "'2'" in capsys.readouterr().out
    alien = edited(place, tmp_path, "dev.tsv", lambda text: text.replace("\t", "\tlabel "))
    for name, path in (
        ("valid", alien),
        ("train", edited(place, tmp_path, "train.tsv", lambda text: text.replace("\t1", "\t0"))),
    ):
        with pytest.raises(ConfigError) as caught:
            run(
                with_task(
                    replace(settings, run_dir=str(tmp_path / name)), data=replace(settings.task.data, **{name: path})
                )
            )
        assert caught.value.field == f"data.{name}"


@pytest.mark.slow
def test_a_resumed_run_refuses_another_text_and_another_encoder(place: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bert"
    shutil.copytree(place / "bert", copy)
    settings = config(place, tmp_path / "run", encoder=str(copy), frozen=True)
    assert run(replace(settings, steps=2))
    assert {*json.loads((tmp_path / "run" / TEXTS).read_text())} == {"data.train", "data.valid", "encoder"}
    with pytest.raises(ConfigError) as caught:
        run(with_task(settings, encoder=str(place / "bert")))  # another path
    assert caught.value.field == "encoder"
    model = ctx_jax.load(copy)
    shutil.rmtree(copy)
    huggingface.write(copy, model.model, model.model.init(jax.random.key(1)), subwords=model.processor.subwords)  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="digest") as caught:
        run(settings)
    assert caught.value.field == "encoder"
    shutil.rmtree(copy)
    assert run(settings), "the run has its own copy"


def test_a_word_that_a_table_lacks_is_named_with_its_line_before_training(place: Path, tmp_path: Path) -> None:
    odd = edited(place, tmp_path, "dev.tsv", lambda text: text + "the wavelet\t1\n")
    settings = config(place, tmp_path / "run", encoder="table.vec", table=TableOptions(unknown="error"))
    with pytest.raises(InputError, match=r"dev.tsv, line 17.*wavelet"):
        run(with_task(settings, data=replace(settings.task.data, valid=odd)))
    with pytest.raises(ConfigError) as caught:
        run(config(place, tmp_path / "other", table=TableOptions(lowercase=True)))
    assert caught.value.field == "table.lowercase"


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_is_uninterrupted(place: Path, tmp_path: Path) -> None:
    """`train.py` itself, fine-tuning with the default schedule and gradual unfreezing, killed twice."""
    data = ["--data.train", str(place / "train.tsv"), "--data.valid", str(place / "dev.tsv"), "--steps", "40"]
    command = [sys.executable, "train.py", "classify", "--encoder", str(place / "bert"), *data]
    command += ["--checkpoint.every", "3", "--log.every", "1", "--batch-size", "8"]
    command += ["--freeze", "embeddings/types", "--unfreeze-every", "1", "--run-dir"]
    for kill in (8, 21):
        process = subprocess.Popen([*command, str(tmp_path / "killed")], cwd=ROOT, stdout=subprocess.DEVNULL)
        written = tmp_path / "killed" / "metrics.jsonl"
        while process.poll() is None and not (written.exists() and f'"step": {kill},' in written.read_text()):
            time.sleep(0.02)
        process.kill()
        process.wait()
    for name in ("killed", "whole"):
        subprocess.run([*command, str(tmp_path / name)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    expected, found = (arrays(tmp_path / name, 40) for name in ("whole", "killed"))
    assert expected.keys() == found.keys() and all(np.array_equal(expected[name], found[name]) for name in expected)


@pytest.mark.slow
def test_a_fine_tuned_encoder_is_exported_without_a_head_that_no_class_has(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(replace(config(place, tmp_path / "run", frozen=True), steps=1))
    assert cli.main(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "head huggingface" in said and "layers last" in said and not (tmp_path / "out").exists()
    assert cli.main(["export", str(tmp_path / "run"), str(tmp_path / "out"), "--encoder-only"]) == 0
    exported, trained = ctx_jax.load(tmp_path / "out"), ctx_jax.load(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, exported.params, trained.params)
