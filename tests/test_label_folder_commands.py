"""The commands `predict` and `evaluate` on Hugging Face folders with a head of labels."""

import json
from pathlib import Path

import numpy as np
import pytest
from label_runs import make_place
from test_huggingface_heads import SMALL
from test_label_folders import NAMES, make_folder

from ctx_jax import cli, tasks
from ctx_jax.io.errors import ConfigError

pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = make_place(tmp_path_factory.mktemp("labelled"))
    make_folder("BertForSequenceClassification", SMALL | {"max_position_embeddings": 40}, place, place / "folder")
    return place / "folder"


@pytest.mark.slow
def test_the_commands_take_a_folder(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the order of a file's columns, if `--columns` names them."""
    path, turned = tmp_path / "texts.tsv", tmp_path / "turned.tsv"
    path.write_text("the film\tbad\nit was good\tother\n")
    turned.write_text("bad\t7\tthe film\nother\t8\tit was good\n")
    capsys.readouterr()
    assert cli.main(["predict", str(folder), str(path)]) == 0
    printed = capsys.readouterr().out
    answers = [json.loads(line) for line in printed.splitlines()]
    assert len(answers) == 2 and {*answers[0]["probabilities"]} == {*NAMES.values()}
    right = np.mean([answers[0]["label"] == "bad", answers[1]["label"] == "other"])
    columns = ["--columns", "label,_,text"]
    for file, flags in ((path, []), (turned, columns)):
        assert cli.main(["evaluate", str(folder), str(file), "--json", *flags]) == 0
        assert json.loads(capsys.readouterr().out)["accuracy"] == right
    assert cli.main(["predict", str(folder), str(turned), *columns]) == 0
    assert capsys.readouterr().out == printed
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("the film\tit was\nit\tit\n")
    assert cli.main(["predict", str(folder), str(pairs), "--pairs"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_columns_that_name_no_text_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(folder), "x.tsv", "--columns", "label,words"]) == 1
    assert "columns" in capsys.readouterr().err


def test_pairs_are_for_folders_of_other_programs(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError) as caught:
        tasks.load(tmp_path, pairs=True)
    assert caught.value.field == "pairs"
