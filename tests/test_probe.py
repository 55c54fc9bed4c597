"""Probes: a planted signal is found at its layer and nothing in random labels; stopped and started again equals
uninterrupted; what cannot be used is named."""

import fcntl
import json
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from evaluation_sets import write_blimp, write_tar, write_wic
from label_runs import config, lines, make_place
from probe_sets import LAYERS, SIGNAL, planted, write_data

from ctx_jax import cli
from ctx_jax.data.labelled import LabelledData
from ctx_jax.embedding.encoder import Encoder
from ctx_jax.encoders.static import write_text
from ctx_jax.encoders.static.inputs import StaticInputs
from ctx_jax.encoders.static.model import StaticTable
from ctx_jax.io.errors import ConfigError, InputError, MissingFileError, RunError
from ctx_jax.tasks import TrainConfig
from ctx_jax.tasks.causal_lm import CausalLMConfig
from ctx_jax.tasks.classify import ClassifyConfig
from ctx_jax.tasks.label_options import LabelEvaluate
from ctx_jax.tasks.pairs import PairsConfig
from ctx_jax.tasks.probing import LabelProbe, ProbeReport, probe
from ctx_jax.tasks.probing.catalogue import FILES as FILES_BELOW
from ctx_jax.tasks.probing.catalogue import NAMES, named_probe
from ctx_jax.tasks.probing.folder import ProbeFolder
from ctx_jax.tasks.probing.measuring import Source, suited
from ctx_jax.tasks.tag import TagConfig
from ctx_jax.tasks.tag_head import TagHead
from ctx_jax.tasks.tuning import TuningOptions
from ctx_jax.training.optimizer import AdamW
from ctx_jax.training.run import run

OTHER_TABLE = Encoder(StaticTable(1, 2), {"words": {"embedding": jnp.zeros((2, 2))}}, StaticInputs(("a",)))
FILES = ("results.json", "results.md", "layers.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def task(data: Path, name: str) -> LabelProbe:
    """A named task at a rate for its few examples."""
    found = named_probe(name, data)
    assert isinstance(found, LabelProbe)
    settings = replace(found.config, batch_size=16, epochs=8)
    return replace(found, config=settings, optimizer=AdamW(learning_rate=0.1, schedule="constant", warmup=0))


def probed(data: Path, output: Path, name: str = "upos", **changes: Any) -> ProbeReport:
    return probe(changes.pop("encoder", planted()), [task(data, name)], output=output, **{"seeds": 2, **changes})


@pytest.fixture(scope="module")
def done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ProbeReport, Path]:
    folder = tmp_path_factory.mktemp("probe")
    tags = [word for word in planted().processor.words if word.startswith("t")]  # type: ignore[attr-defined]
    write_text(folder / "table.vec", tags, np.random.default_rng(3).normal(size=(len(tags), 4)).astype(np.float32))
    return probed(data, folder / "out", table=folder / "table.vec"), folder / "out"


@pytest.mark.slow
def test_a_planted_signal_is_found_at_its_layer(done: tuple[ProbeReport, Path]) -> None:
    found = done[0].results["upos"]
    assert found.layers == [*range(LAYERS)] and found.best_layer == SIGNAL
    scores = {name: way.score for name, way in found.ways.items()}
    assert {*scores} == {*(f"layer {i}" for i in range(LAYERS)), "mean", "mix", "random", "table"}
    assert scores[f"layer {SIGNAL}"] > 0.95 and scores["mix"] > 0.9
    # Three tags, equally frequent, and test words that training has not seen.
    assert all(scores[name] < 0.6 for name in ("layer 0", "layer 2", "random", "table")), scores
    weights = np.array(found.ways["mix"].mix)
    assert weights.shape == (2, LAYERS) and np.all(weights.argmax(axis=1) == SIGNAL)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)


@pytest.mark.slow
def test_nothing_is_found_in_random_labels(data: Path, tmp_path: Path) -> None:
    found = probed(data, tmp_path, "sst2", random=False, seeds=1).results["sst2"]
    assert all(0.6 <= way.score <= 0.72 for way in found.ways.values()), "near the majority's 0.7"


@pytest.mark.slow
@pytest.mark.parametrize("kind, layers", [(ClassifyConfig, "mix"), (TagConfig, 1)])
def test_heads_are_those_of_train(tmp_path: Path, kind: type, layers: Any) -> None:
    """A run with frozen parameters has the same loss after its last step, and the same mix. Of words without dropout,
    whose seeds are those of rows: here the words of a batch stand in one row."""
    place = make_place(tmp_path)
    dropout = 0.1 if kind is ClassifyConfig else 0.0
    trained = config(place, tmp_path / "run", kind, frozen=True, layers=layers, dropout=dropout)
    # Adam divides by the size of a gradient, however small: with a small epsilon rounding decides about its sign.
    trained = replace(trained, optimizer=replace(trained.optimizer, epsilon=1e-3))
    assert run(trained)
    own = replace(trained.task, layers="mix")
    task = LabelProbe("mine", own, trained.optimizer, own.data.valid, steps=trained.steps)
    probe(place / "bert", [task], output=tmp_path / "out", seeds=1, random=False)
    way = layers if layers == "mix" else f"layer_{layers}"
    found = json.loads((tmp_path / "out" / "results" / "mine" / f"{way}-seed_0.json").read_text())
    expected = lines(tmp_path / "run", "valid")[-1]
    assert found["test"]["loss"] == pytest.approx(expected["loss"], abs=1e-5)
    assert found["mix"] == pytest.approx([expected[f"mix_{i}"] for i in range(len(found["mix"]))], abs=1e-5)
    assert len(found["mix"]) == (3 if layers == "mix" else 0)


@contextmanager
def interrupted(after: int) -> Iterator[None]:
    """As by Ctrl-C once so many results are written."""
    written = []

    def write(folder: ProbeFolder, *arguments: Any) -> Any:
        if len(written) == after:
            raise KeyboardInterrupt
        written.append(arguments)
        return original(folder, *arguments)

    original = ProbeFolder.write
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProbeFolder, "write", write)
        yield


@pytest.mark.slow
def test_stopped_and_started_again_gives_the_same_files(
    data: Path, done: tuple[ProbeReport, Path], tmp_path: Path
) -> None:
    table, output = done[1].parent / "table.vec", tmp_path / "out"
    for _ in range(2):
        with interrupted(after=3), pytest.raises(KeyboardInterrupt):
            probed(data, output, table=table)
        assert not (output / "results.json").exists()
    times = {path: path.stat().st_mtime_ns for path in output.glob("results/upos/*-seed_*.json")}
    assert len(times) == 6
    probed(data, output, table=table)
    assert {path: path.stat().st_mtime_ns for path in times} == times, "not computed again"
    for name in FILES:
        assert (output / name).read_bytes() == (done[1] / name).read_bytes()
    assert not (output / "cache").exists(), "vectors of finished tasks are removed"


def test_a_repeated_call_trains_nothing(
    data: Path, done: tuple[ProbeReport, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    report, folder = done
    monkeypatch.setattr(LabelProbe, "open", None)
    again = probed(data, folder, seeds=1)
    assert again.results["upos"].of_layer(SIGNAL).test == report.results["upos"].of_layer(SIGNAL).test[:1]
    probed(data, folder, table=folder.parent / "table.vec")  # the report of all again


def test_a_changed_result_is_named(data: Path, done: tuple[ProbeReport, Path], tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(done[1], output)
    path = output / "results" / "upos" / "mix-seed_1.json"
    path.write_text(path.read_text().replace('"epoch": ', '"epoch": 1'))
    with pytest.raises(InputError, match=re.escape(str(path))):
        probed(data, output)


@pytest.mark.parametrize("changes, named", [
    ({"encoder": planted(seed=5)}, "encoder"), ({"limit": 30}, "limit"), ({"table": OTHER_TABLE}, "table"),
])  # fmt: skip
def test_a_folder_of_other_settings_is_refused(
    data: Path, done: tuple[ProbeReport, Path], changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=f"  {named}: ") as caught:
        probed(data, done[1], **changes)
    assert caught.value.field == "output" and str(done[1]) in str(caught.value)


def test_other_data_and_settings_of_a_task_are_refused(
    data: Path, done: tuple[ProbeReport, Path], tmp_path: Path
) -> None:
    own = task(data, "upos")
    for name, other in (
        ("test.digest", replace(own, measured=own.config.data.train)),
        ("task.epochs", replace(own, config=replace(own.config, epochs=9))),
    ):
        with pytest.raises(ConfigError, match=name):
            probe(planted(), [other], output=done[1])


def test_what_cannot_be_probed_is_named(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(ConfigError, match="did you mean upos") as caught:
        probe(planted(), ["uops"], output=output, data=data)
    assert caught.value.field == "task"
    with pytest.raises(MissingFileError, match=r"cls/cola/train\.tsv"):
        probe(planted(), ["cola"], output=output, data=data)
    with pytest.raises(ConfigError) as caught:
        probe(planted(), ["upos"], output=output)
    assert caught.value.field == "data"
    for changes in ({"seeds": 0}, {"limit": -1}, {"epochs": -1}, {"head": "crf"}):
        with pytest.raises(ConfigError, match=next(iter(changes))):
            probe(planted(), ["upos"], output=output, data=data, **changes)  # type: ignore[arg-type]
    assert not output.exists(), "nothing is written before the request is known to make sense"
    own = task(data, "sst2")
    for text in ("", "\n\n", "a film\t-\n"):
        (tmp_path / "empty.tsv").write_text(text)
        config = replace(own.config, data=replace(own.config.data, no_label="-"))
        with pytest.raises(InputError, match=r"empty\.tsv"):
            probe(planted(), [replace(own, config=config, measured=str(tmp_path / "empty.tsv"))], output=output)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(ConfigError, match="not empty"):
        probed(data, tmp_path / "other")
    with pytest.raises(ConfigError, match="table"):
        probed(data, output, table=planted())
    with (output / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RunError, match=str(output)):
            probed(data, output)


def test_tasks_of_ones_own_are_checked(tmp_path: Path) -> None:
    data = LabelledData("train.tsv", "dev.tsv")
    for settings, named in (
        (TrainConfig(CausalLMConfig()), "causal_lm"),
        (TrainConfig(ClassifyConfig(data=replace(data, valid=""))), "data.valid"),
    ):
        with pytest.raises(ConfigError, match=named):
            LabelProbe.of_run("mine", settings)
    by_loss = TrainConfig(ClassifyConfig(data=data, evaluate=LabelEvaluate(metric="loss")))
    with pytest.raises(ConfigError, match="evaluate.metric"):
        probe(planted(), [LabelProbe.of_run("mine", by_loss)], output=tmp_path / "out")
    for changes, named in (
        ({"head": "huggingface", "layers": "last", "pooling": "first"}, "head"),
        ({"tuning": TuningOptions(mix_norm=True)}, "mix_norm"),
        ({"tuning": TuningOptions(mix_penalty=0.1)}, "mix_penalty"),
        ({"data": replace(data, examples=3)}, "data.examples"),
    ):
        with pytest.raises(ConfigError) as caught:
            LabelProbe.of_run("mine", TrainConfig(replace(ClassifyConfig(data=data), **changes), steps=0)).check()
        assert caught.value.field == named
    ranked = PairsConfig(data=replace(data, columns="first,second"), target="ranking")
    with pytest.raises(ConfigError, match="ranking"):
        probe(planted(), [LabelProbe.of_run("mine", TrainConfig(ranked, steps=0))], output=tmp_path / "out")


def test_a_table_that_the_head_cannot_read_is_a_note_before_anything_is_trained(data: Path) -> None:
    """TagLM's placement needs an encoder of more than one layer."""
    head = TagHead("bilstm_crf", placement="first_output", char_filters=4)
    own = replace(task(data, "upos"), config=replace(task(data, "upos").config, head=head))
    found, notes = suited(own, Source.of(planted(), OTHER_TABLE, random=False))
    assert [source.name for source in found] == ["encoder"]
    assert len(notes) == 1 and "head.placement" in notes[0] and "table" in notes[0]


def test_every_tenth_training_example_chooses_where_no_file_does(data: Path) -> None:
    own_run = TrainConfig(ClassifyConfig(data=LabelledData(str(data / "cls/sst2/train.tsv"), str(
        data / "cls/sst2/dev.tsv")), encoder_rate=0.2, evaluate=LabelEvaluate(metric="f1", patience=2)))  # fmt: skip
    own, lines = LabelProbe.of_run("mine", own_run), (data / "cls/sst2/train.tsv").read_text().splitlines()
    examples = own.read(0, print)
    assert [each.item for each in examples["valid"]] == [line.split("\t")[0] for line in lines[9::10]]
    assert sorted(each.location for split in ("train", "valid") for each in examples[split]) == sorted(
        each.location for each in own.config.read(own.config.data.train)
    )
    assert len(examples["test"]) == 40 and own.measured_on == "dev"
    own.check()
    few = own.read(7, print)
    assert len(few["train"]) == 7 and {*few["train"]} < {*examples["train"]} and few["valid"] == examples["valid"]


TASK_FILE = """from ctx_jax.data.labelled import LabelledData
from ctx_jax.tasks import TrainConfig
from ctx_jax.tasks.tag import TagConfig

def config():
    data = LabelledData({train!r}, {dev!r}, "form,ner")
    return TrainConfig(task=TagConfig(data=data, epochs=1, batch_size=8), steps=0)
"""


@pytest.mark.slow
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a task file, without the head of a language model, and without matplotlib."""
    place = make_place(tmp_path)
    write_blimp(tmp_path / "blimp_part", {"one": [("a film", "film a")]})
    (tmp_path / "blimp").mkdir()
    write_tar(tmp_path / "blimp_part", tmp_path / "blimp" / "blimp_part.tar.xz")
    (tmp_path / "mine.py").write_text(TASK_FILE.format(train=str(place / "train.txt"), dev=str(place / "dev.txt")))
    output = tmp_path / "out"
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    command = ["probe", str(place / "bert"), str(tmp_path / "mine.py"), "blimp", "--data", str(tmp_path)]
    command += ["-o", str(output), "--seeds", "1", "--table", str(place / "table.vec"), "--no-random"]
    assert cli.main(command) == 0, capsys.readouterr().err
    printed = capsys.readouterr()
    assert "blimp was not measured" in printed.out and "ctx-jax[plot]" in printed.err
    found = json.loads((output / "results.json").read_text())
    ways = ["layer 0", "layer 1", "layer 2", "mean", "mix", "table"]
    assert [*found["tasks"]] == ["mine"] and [*found["tasks"]["mine"]["ways"]] == ways
    assert sorted(path.name for path in output.iterdir() if path.name[0] != ".") == [
        "probe.json", "results", "results.json", "results.md"]  # fmt: skip
    assert cli.main([*command[:3], "-o", str(output), "--limit", "-1"]) == 1
    assert "--limit" in capsys.readouterr().err


@pytest.mark.parametrize("name, files", [(name, files) for name in NAMES for files in FILES_BELOW[name]])
def test_every_named_task_finds_its_files(tmp_path: Path, name: str, files: tuple[str, ...]) -> None:
    """Plain, .xz or .gz; what is not there is named with the layout."""
    for i, path in enumerate(files):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{path}{('', '.xz', '.gz')[i % 3]}").write_text("")
    found = named_probe(name, tmp_path, head="crf", epochs=3)
    if isinstance(found, LabelProbe):
        found.check()
        data = found.config.data
        assert [Path(path).stem.split(".")[0].split("-")[-1] for path in (data.train, data.valid, found.measured)] == [
            "train", *(("dev", "test") if data.valid else ("", "dev"))]  # fmt: skip
        assert found.config.epochs == 3 and found.config.frozen and found.measured_on in found.measured
        assert found.config.head == (
            {"ner": TagHead("crf"), "upos": TagHead()}.get(name, "linear")), "of ner alone"  # fmt: skip
    else:
        names = [re.sub(r"\.(xz|gz)$", "", path.relative_to(tmp_path).as_posix()) for path in found.files]
        assert names == [*files]
    last = files[-1]
    next((tmp_path / last).parent.glob(f"{Path(last).name}*")).unlink()
    with pytest.raises(MissingFileError, match=re.escape(last)) as caught:
        named_probe(name, tmp_path)
    assert isinstance(caught.value, ConfigError) and caught.value.field == "data"


@pytest.mark.slow
def test_a_task_without_training_has_every_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the encoder, of random weights and of a table; read from the folder the second time."""
    pairs = [("test1", f"test1 train{i}", f"dev{i} test1", i % 2) for i in range(12)]
    (tmp_path / "wsd").mkdir()
    write_wic(tmp_path / "wsd" / "wic_part_5228.jsonl.xz", pairs)
    table = Encoder(StaticTable(1, 2), {"words": {"embedding": jnp.ones((2, 2))}}, StaticInputs(("test1",)))
    report = probe(planted(), ["wic"], data=tmp_path, output=tmp_path / "out", table=table)
    found = report.results["wic"]
    single = [*(f"layer {i}" for i in range(LAYERS)), "mean"]
    assert [*found.ways] == [*single, "most frequent", *(f"random {way}" for way in single[:-1]), "random", "table"]
    assert found.layers == [*range(LAYERS)] and not found.trained and found.counts["pairs"] == 12
    assert report.pattern.senses_high.verdict in ("yes", "no") and report.pattern.mix_best.verdict == "unknown"
    monkeypatch.setattr(Encoder, "encode", None)
    assert probe(planted(), ["wic"], data=tmp_path, output=tmp_path / "out", table=table).json() == report.json()
    write_wic(tmp_path / "wsd" / "wic_part_5228.jsonl.xz", pairs[1:])
    with pytest.raises(ConfigError, match="wic_part"):
        probe(planted(), ["wic"], data=tmp_path, output=tmp_path / "out")
