"""`ctx-jax evaluate`: the text is read as the run's own text was, and the printed numbers are those computed."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctx_jax import cli
from ctx_jax.checkpoints import run_files
from ctx_jax.checkpoints.run_files import EncoderFile
from ctx_jax.checkpoints.runs import RunCheckpoints
from ctx_jax.data.config import BiLMData
from ctx_jax.encoders.elmo import BiLM
from ctx_jax.evaluation import reports
from ctx_jax.evaluation.perplexity import perplexity
from ctx_jax.evaluation.protocols import SentenceScore
from ctx_jax.heads import VocabularyHead
from ctx_jax.io import configs, progress
from ctx_jax.tasks import TrainConfig
from ctx_jax.tasks.bilm import BiLMConfig
from ctx_jax.tokenizers.vocabulary import Vocabulary

VOCABULARY = Vocabulary(("<S>", "</S>", "<UNK>", "the", "cat", "did", "n't", "."))
MODEL = BiLM(token_input="words", vocabulary=len(VOCABULARY), dim=6, projection=4, depth=1)
SOFTMAX = VocabularyHead(transform=False, tied=True)
SENTENCES = [["the", "cat", "did", "n't", "."], ["the", "the", "zebra"]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over prose with two checkpoints, the first of them the better one."""
    folder = tmp_path_factory.mktemp("runs") / "words"
    folder.mkdir()
    config = TrainConfig(task=BiLMConfig(MODEL, BiLMData(train="python-docs"), tied_softmax=True))
    (folder / "config.json").write_text(configs.text(config))
    (folder / "encoder.json").write_text(configs.text(EncoderFile(MODEL, {"softmax": SOFTMAX}, "prose")))
    VOCABULARY.write(folder / "vocabulary.txt")
    with RunCheckpoints(folder / "checkpoints", clean=True) as checkpoints:
        for step in (1, 2):
            files = run_files.read(folder, ["config.json", "encoder.json", "vocabulary.txt"])
            checkpoints.save(step, {"params": params(step)}, {"sentence": np.int64(step)}, {"loss": float(step)}, files)
    return folder


def params(step: int) -> Any:
    softmax = {"decoder": {"bias": jnp.zeros(len(VOCABULARY))}}
    return {"encoder": MODEL.init(jax.random.key(step)), "head": {"softmax": softmax}}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the cat didn't.\n\nthe the zebra\n")  # prose, and a blank line that is no sentence
    return path


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    """The table as name -> number."""
    lines = [line.strip().rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines()[1:]]
    return {
        name.strip(): float(value.replace(",", "").rstrip("%")) for name, value in lines if name.strip() != "protocol"
    }


@pytest.mark.parametrize(("flags", "step"), [([], 1), (["--step", "latest", "--protocol", "stream"], 2)])
def test_prints_the_perplexity_of_the_text(
    run: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], step: int
) -> None:
    lines = tmp_path / "sentences.jsonl"
    assert cli.main(["evaluate", str(run), str(text), "--per-sentence", str(lines), *flags]) == 0
    found = printed(capsys)
    protocol: Any = "stream" if flags else "sentence"
    expected = perplexity(MODEL, params(step), VOCABULARY, SENTENCES, protocol=protocol)
    assert found["targets in either direction"] == expected.tokens == 10
    assert found["of them <UNK>"] == 10.0
    assert found["perplexity"] == pytest.approx(expected.perplexity, abs=0.006)
    assert found["forward perplexity"] == pytest.approx(expected.forward_perplexity, abs=0.006)
    assert found["backward perplexity"] == pytest.approx(expected.backward_perplexity, abs=0.006)
    scores = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [(score["sentence"], score["targets"], score["unknown"]) for score in scores] == [(0, 6, 0), (1, 4, 1)]
    forward = sum(score["forward_log_probability"] for score in scores)
    assert math.exp(-forward / expected.tokens) == pytest.approx(expected.forward_perplexity, rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN"], "needs the text"),
        (
            ["RUN", "TEXT", "--protocol", "bilm-tf", "--per-sentence", "x.jsonl"],
            "--per-sentence needs --protocol sentence",
        ),
        (["RUN", "TEXT", "--protocol", "bilm-tf"], "bilm-tf fills 256 rows"),  # as the original does
        (["RUN", "TEXT", "--step", "7"], "step 7"),
        (["RUN", "missing*.txt"], "missing"),
        (["TEXT", "TEXT"], "text.txt"),  # no run directory, nor a folder of another program
        (
            ["RUN", "TEXT", "--per-sentence", "missing/x.jsonl"],
            "--per-sentence missing/x.jsonl: there is no folder missing",
        ),
        (["RUN", "TEXT", "--per-sentence", "TEXT"], "text.txt exists"),
        (["RUN", "TEXT", "TEXT"], "text.txt; name each text once"),
        (["RUN", "TEXT", "--batch", "-1"], "--batch"),
        (["RUN", "TEXT", "--pseudo-perplexity"], "--pseudo-perplexity means nothing to a biLM"),
    ],
)
def test_errors_are_one_line_that_names_the_flag_or_file(
    run: Path, text: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    names = {"RUN": str(run), "TEXT": str(text)}
    assert cli.main(["evaluate", *(names.get(argument, argument) for argument in arguments)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_bytes_that_are_not_utf_8_are_replaced_on_request(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"the cat didn't.\nthe the \xff\n")
    assert cli.main(["evaluate", str(run), str(path)]) == 1
    assert "line 2" in capsys.readouterr().err
    assert cli.main(["evaluate", str(run), str(path), "--errors", "replace"]) == 0
    assert printed(capsys)["targets in either direction"] == 10


def test_scores_of_a_text_that_cannot_be_read_to_its_end_are_not_left_behind(
    run: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = tmp_path / "scores.jsonl"

    def failing(*given: Any, **settings: Any) -> Iterator[SentenceScore]:
        yield SentenceScore(0, 1.0, 1.0, 2, 0)
        raise RuntimeError("the device went away")

    monkeypatch.setattr(reports, "sentence_scores", failing)
    with pytest.raises(RuntimeError, match="went away"):
        cli.main(["evaluate", str(run), str(text), "--per-sentence", str(scores)])
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_a_long_evaluation_reports_its_progress(
    run: Path, text: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    for flags in ([], ["--protocol", "stream"], ["--protocol", "bilm-tf", "--batch", "1"]):
        assert cli.main(["evaluate", str(run), str(text), *flags]) == 0
        printed_lines = capsys.readouterr()
        assert "evaluating: 2 of 2 sentences, " in printed_lines.err and printed_lines.err.endswith(
            " sentences/s, 0:00 left\n"
        )
        assert "evaluating" not in printed_lines.out


@pytest.mark.parametrize(
    ("name", "before", "after", "message"),
    [
        ("vocabulary.txt", "cat", "car", "vocabulary.txt is not the one that step 1 was saved with: line 5 differs"),
        ("config.json", '"seed": 0', '"seed": 4', "config.json is not the one that step 1 was saved with: seed was 0"),
        ("config.json", '"residual": true', '"residual": false', "model.residual was True, is False"),
        ("config.json", '"every": 50', '"every": 51', ""),  # where and how often, which a run may change
    ],
)
def test_files_that_are_not_those_of_the_checkpoint_are_named(
    run: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    name: str, before: str, after: str, message: str,
) -> None:  # fmt: skip
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    content = (copy / name).read_text()
    assert before in content
    (copy / name).write_text(content.replace(before, after))
    assert cli.main(["evaluate", str(copy), str(text)]) == (1 if message else 0)
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_json_has_the_numbers_of_the_table_and_predict_refuses_a_language_model(
    run: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", str(run), str(text)]) == 0
    table = printed(capsys)
    assert cli.main(["evaluate", str(run), str(text), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["perplexity"] == pytest.approx(table["perplexity"], abs=0.006)
    assert found["tokens"] == table["targets in either direction"]
    assert cli.main(["predict", str(run), str(text)]) == 1
    assert "bilm" in capsys.readouterr().err
