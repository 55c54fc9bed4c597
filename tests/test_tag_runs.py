"""Runs of `tag` with a CRF, characters, static vectors and TagLM's placement, and how labels of spans are read."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from label_runs import CRF, config, make_place, with_task

import ctx_jax
from ctx_jax import cli, tasks
from ctx_jax.data.columns import Columns
from ctx_jax.data.labelled import read_sentences
from ctx_jax.data.span_labels import illegal_count, span_labels, spans
from ctx_jax.evaluation.label_scores import span_f1
from ctx_jax.heads import TaggerHead
from ctx_jax.io.errors import ConfigError
from ctx_jax.tasks.tag import TagConfig
from ctx_jax.tasks.tag_head import TagHead
from ctx_jax.training.run import run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("labelled"), depth=1)


@pytest.mark.slow
def test_the_commands_word_for_word(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir, dev = str(tmp_path / "run"), str(place / "dev.txt")
    command = ["train", "tag", "--encoder", str(place / "table.vec"), "--frozen", "--run-dir", run_dir, "--steps", "12"]
    command += ["--head.kind", "bilstm_crf", "--head.hidden", "8", "--head.char-filters", "4", "--scheme", "BIOES"]
    command += ["--data.train", str(place / "train.txt"), "--data.valid", dev, "--data.columns", "form,ner"]
    assert cli.main([*command, "--evaluate.metric", "f1", "--optimizer.learning-rate", "0.1"]) == 0
    assert "20 of 40 sentences" in capsys.readouterr().out, "those with I-BAD after O"
    assert cli.main(["evaluate", run_dir, dev, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert cli.main(["predict", run_dir, dev]) == 0
    answers = [json.loads(line)["labels"] for line in capsys.readouterr().out.splitlines()]
    wanted = [
        span_labels(spans(each.labels), len(each.item), "BIOES")
        for each in read_sentences(dev, Columns.parse("form,ner", "form"))
    ]
    assert found["f1"] == pytest.approx(span_f1(wanted, answers)) and found["f1"] > 0
    assert found["accuracy"] == pytest.approx(np.mean(np.concatenate(wanted) == np.concatenate(answers)))
    assert not any(illegal_count(labels, "BIOES") for labels in answers)


@pytest.mark.slow
def test_a_batch_is_its_sentences_alone_and_a_long_one_is_tagged_in_parts(place: Path, tmp_path: Path) -> None:
    assert run(replace(config(place, tmp_path, TagConfig, frozen=True, **CRF), steps=2))
    tagger = tasks.load(tmp_path)
    sentences = [["the", "film", "was", "good"] * 9, [], ["good"], ["bad", "plot", "it"]]
    together = tagger.predict(sentences)
    assert together == [answer for each in sentences for answer in tagger.predict([each])]
    assert [len(answer["labels"]) for answer in together] == [36, 0, 1, 3]


@pytest.mark.slow
def test_static_vectors_stand_below_the_language_models(place: Path, tmp_path: Path) -> None:
    """TagLM: an encoder of a table and a BERT, whose top layer is joined at the first output."""
    members = [ctx_jax.load(place / "table.vec"), ctx_jax.load(place / "bert")]
    ctx_jax.save_stack(tmp_path / "stack", ctx_jax.stack(members))
    head = replace(CRF["head"], placement="first_output", layers=2)
    settings = config(place, tmp_path / "run", TagConfig, frozen=True, layers="last", head=head, scheme="BIO")
    assert run(replace(with_task(settings, encoder=str(tmp_path / "stack")), steps=2))
    found = ctx_jax.load(tmp_path / "run").heads["labels"]
    assert isinstance(found.module, TaggerHead) and found.module.static_columns == ((0, 8),)
    assert np.shape(found.params["lstm_0"]["forward_kernel"]) == (8 + 3 + 6, 24)
    assert np.shape(found.params["lstm_1"]["forward_kernel"]) == (12 + 16 + 6, 24)
    (answer,) = tasks.load(tmp_path / "run").predict([["the", "film"]])
    assert len(answer["labels"]) == 2


@pytest.mark.parametrize(
    "field, changes",
    [
        ("head.constrained", {"head": TagHead("crf")}),  # the file has I-BAD where no span stands before it
        ("class_weights", {"head": TagHead("crf"), "scheme": "BIO", "class_weights": "balanced"}),
        ("head.placement", {"head": TagHead("bilstm", placement="first_output")}),
    ],
)
def test_settings_that_cannot_be_used_are_named(place: Path, tmp_path: Path, field: str, changes: dict) -> None:
    with pytest.raises(ConfigError) as caught:
        run(config(place, tmp_path, TagConfig, **changes))
    assert caught.value.field == field


@pytest.mark.slow
def test_a_scheme_is_for_labels_of_spans(place: Path, tmp_path: Path) -> None:
    plain = tmp_path / "train.txt"
    plain.write_text((place / "train.txt").read_text().replace("B-GOOD", "ADJ").replace("I-BAD", "ADJ"))
    settings = config(place, tmp_path / "run", TagConfig, scheme="BIO")
    with pytest.raises(ConfigError) as caught:
        run(with_task(settings, data=replace(settings.task.data, train=str(plain))))
    assert caught.value.field == "scheme"
