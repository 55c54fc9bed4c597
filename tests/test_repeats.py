"""Several runs by seeds and by sizes of the training file: their directories, their table, and going on with them."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_runs import arrays, config, lines, make_place, with_task

import ctx_jax
from ctx_jax import cli, tasks
from ctx_jax.commands.evaluate import Evaluate, evaluate
from ctx_jax.data.labelled import Example, nested_subset
from ctx_jax.io.errors import ConfigError, InputError, MissingFileError
from ctx_jax.tasks import repeats
from ctx_jax.tasks.label_options import LabelEvaluate, RepeatOptions
from ctx_jax.training.loop import Loop
from ctx_jax.training.run import run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("labelled"))


def flags(place: Path, run_dir: Path, *more: str) -> list[str]:
    data = ["--data.train", str(place / "train.tsv"), "--data.valid", str(place / "dev.tsv")]
    settings = ["--encoder", str(place / "table.vec"), "--frozen", "--steps", "4", "--devices.count", "1"]
    return ["train", "classify", *data, *settings, "--run-dir", str(run_dir), *more]


NAMES = ("size_20/seed_4", "size_20/seed_5", "size_all/seed_4", "size_all/seed_5")


def curve_flags(place: Path, parent: Path, seeds: int) -> list[str]:
    return flags(place, parent, "--seed", "4", "--seeds", str(seeds), "--sizes", "all,20", "--evaluate.every", "2")


@pytest.fixture(scope="module")
def curve(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished runs `NAMES`."""
    parent = tmp_path_factory.mktemp("several") / "runs"
    assert cli.main(curve_flags(place, parent, 2)) == 0
    return parent


def check_table(runs: list[dict[str, Any]], table: list[dict[str, Any]]) -> None:
    """That each row is of the losses of its two runs."""
    for row, own in zip(table, (runs[:2], runs[2:]), strict=True):
        values = [each["metrics"]["loss"] for each in own]
        found = row["metrics"]["loss"]
        assert row["seeds"] == 2 and (found["least"], found["greatest"]) == (min(values), max(values))
        assert (found["mean"], found["deviation"]) == pytest.approx((np.mean(values), np.std(values, ddof=1)))


@pytest.mark.slow
def test_seeds_and_sizes_by_the_command(curve: Path) -> None:
    content = json.loads((curve / "results.json").read_text())
    assert [each["run"] for each in content["runs"]] == [*NAMES] and content["metric"] == "accuracy"
    for each in content["runs"]:
        best = min(lines(curve / each["run"], "valid"), key=lambda line: (-line["accuracy"], line["loss"]))
        assert each["step"] == best["step"]
        assert each["metrics"]["accuracy"] == best["accuracy"] and "mix_0" in each["metrics"]
    check_table(content["runs"], content["table"])
    table = (curve / "results.md").read_text()
    head, _, first, last = (line.strip("| ").split(" | ") for line in table.splitlines())
    assert head == ["examples", "seeds", "loss", "accuracy", "f1", "matthews"]
    assert first[:2] == ["20", "2"] and last[:2] == ["all", "2"] and "±" in first[2]
    for load in (ctx_jax.load, tasks.load):
        with pytest.raises(MissingFileError, match="size_20/seed_4"):
            load(curve)
    assert tasks.load(curve / NAMES[0]).predict(["good"])


@pytest.mark.slow
def test_all_of_several_runs_are_measured_on_test_data(
    place: Path, curve: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each as it is measured alone, at its best step or at one that is named."""

    def evaluated(run: Path, *more: str) -> Any:
        capsys.readouterr()
        assert cli.main(["evaluate", str(run), str(place / "train.tsv"), "--json", *more]) == 0
        return json.loads(capsys.readouterr().out)

    several = evaluated(curve)
    for each in several["runs"]:
        alone = evaluated(curve / each["run"])
        assert each["metrics"] == {name: value for name, value in alone.items() if name != "examples"}
    check_table(several["runs"], several["table"])
    assert evaluated(curve, "--step", "2") != several
    assert cli.main(["evaluate", str(curve), str(place / "train.tsv")]) == 0
    assert "| 20 | 2 | " in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_again_goes_on_and_takes_nothing_away(
    place: Path, curve: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished runs stay; one that is gone is made again with the same numbers; a further seed is added. A command that
    is refused, or stopped in its first run, leaves the tables as they are."""
    parent = tmp_path / "runs"
    shutil.copytree(curve, parent)
    content = json.loads((parent / "results.json").read_text())
    written = {name: (parent / name / "metrics.jsonl").read_bytes() for name in NAMES}
    shutil.rmtree(parent / NAMES[1])
    assert cli.main(curve_flags(place, parent, 3)) == 0
    assert (parent / "results.md").read_text() in capsys.readouterr().out
    assert all((parent / name / "metrics.jsonl").read_bytes() == written[name] for name in NAMES if name != NAMES[1])
    again = {each["run"]: each for each in json.loads((parent / "results.json").read_text())["runs"]}
    assert len(again) == 6 and all(again[each["run"]] == each for each in content["runs"])

    before = {name: (parent / name).read_bytes() for name in ("results.json", "results.md")}
    assert cli.main([*curve_flags(place, parent, 3), "--dropout", "0.2"]) == 1
    monkeypatch.setattr("ctx_jax.tasks.repeats.training_run.run", lambda config: False)
    assert cli.main(curve_flags(place, parent, 2)) == 128 + signal.SIGTERM
    assert {name: (parent / name).read_bytes() for name in before} == before


@pytest.mark.slow
def test_a_command_of_other_seeds_or_sizes_adds_to_the_tables(place: Path, curve: Path, tmp_path: Path) -> None:
    parent = tmp_path / "runs"
    shutil.copytree(curve, parent)
    content = json.loads((parent / "results.json").read_text())
    more = flags(place, parent, "--seed", "6", "--seeds", "1", "--sizes", "30,20", "--evaluate.every", "2")
    for other in (["--dropout", "0.2"], ["--steps", "6"]):
        assert cli.main([*more, *other]) == 1, "of other settings, which one table cannot have"
    steps = more.index("--steps")
    assert cli.main([*more[:steps], *more[steps + 2 :]]) == 1, "for epochs, not the steps of the others"
    assert json.loads((parent / "results.json").read_text()) == content
    shutil.rmtree(parent / NAMES[3])
    runs, rows = repeats.measured(parent, lambda path: {"loss": 0.5}, print)
    assert [each["run"] for each in runs] == [*NAMES[:3]] and [row["seeds"] for row in rows] == [2, 1]
    assert cli.main(more) == 0
    found = json.loads((parent / "results.json").read_text())
    names = [NAMES[0], NAMES[1], "size_20/seed_6", "size_30/seed_6", NAMES[2]]
    assert [each["run"] for each in found["runs"]] == names
    assert all(each in found["runs"] for each in content["runs"][:3])
    assert [(row["size"], row["seeds"]) for row in found["table"]] == [(20, 3), (30, 1), (None, 1)]


@pytest.mark.slow
def test_a_run_of_several_is_the_single_run_of_its_seed(place: Path, tmp_path: Path) -> None:
    single = config(place, tmp_path / "single", encoder="table.vec", frozen=True)
    single = replace(single, seed=1)
    several = with_task(replace(single, seed=0, run_dir=str(tmp_path / "several")), repeats=RepeatOptions(seeds=2))
    assert run(single) and repeats.run(several)
    expected, found = arrays(tmp_path / "single", 4), arrays(tmp_path / "several" / "seed_1", 4)
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
    with pytest.raises(ConfigError) as caught:
        run(replace(single, run_dir=str(tmp_path / "several")))
    assert caught.value.field == "run_dir" and "seed_1" in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        repeats.run(replace(several, run_dir=str(tmp_path / "single")))
    assert caught.value.field == "run_dir"


@pytest.mark.slow
def test_a_command_stopped_within_a_run_goes_on_there(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM in the second run's second step: no row of the table yet, then the uninterrupted numbers."""
    whole = config(place, tmp_path / "whole", encoder="table.vec", frozen=True)
    whole = with_task(whole, repeats=RepeatOptions(seeds=2))
    parts = replace(whole, run_dir=str(tmp_path / "parts"))
    advance, calls = Loop._advance, [0]

    def stopping(self: Loop, *given: Any) -> Any:
        calls[0] += 1
        if calls[0] == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return advance(self, *given)

    with monkeypatch.context() as patched:
        patched.setattr(Loop, "_advance", stopping)
        assert not repeats.run(parts)
    steps = [each["step"] for each in json.loads((tmp_path / "parts" / "results.json").read_text())["runs"]]
    assert steps[0] is not None and steps[1] is None
    said: list[str] = []
    runs, table = repeats.measured(tmp_path / "parts", lambda path: {"f1": float(path.name == "seed_0")}, said.append)
    assert [each["seed"] for each in runs] == [0] and table[0]["metrics"]["f1"]["mean"] == 1 and "seed_1" in said[0]
    assert repeats.run(whole) and repeats.run(parts)
    for name in ("results.json", "results.md"):
        assert (tmp_path / "parts" / name).read_text() == (tmp_path / "whole" / name).read_text()
    expected, found = (arrays(tmp_path / side / "seed_1", 4) for side in ("whole", "parts"))
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


def test_subsets_are_nested_and_do_not_depend_on_the_order_of_the_file() -> None:
    examples = [Example(f"text {number}", str(number % 2), "") for number in range(50)]
    found = {count: nested_subset(examples, count, 3) for count in (1, 7, 20, 50)}
    assert [len(each) for each in found.values()] == [1, 7, 20, 50]
    for less, more in ((1, 7), (7, 20), (20, 50)):
        assert {*found[less]} < {*found[more]}
    assert {*nested_subset(examples[::-1], 20, 3)} == {*found[20]} != {*nested_subset(examples, 20, 4)}


@pytest.mark.parametrize(
    "field, options, changes",
    [
        ("sizes", {"sizes": "10,41"}, {}),
        ("sizes", {"sizes": "1,all"}, {}),  # one example has one label
        ("sizes", {"sizes": "10,all"}, {"examples": 5}),
        ("data.examples", None, {"examples": 41}),
        ("seeds", {"seeds": 2}, {"valid": ""}),
        ("evaluate.every", {"seeds": 2}, {"every": 0}),
    ],
)
def test_what_gives_no_table_is_refused_at_once(
    place: Path, tmp_path: Path, field: str, options: dict[str, Any] | None, changes: dict[str, Any]
) -> None:
    every = LabelEvaluate(every=changes.pop("every", 2)) if "every" in changes else LabelEvaluate(every=2)
    settings = config(place, tmp_path / "run", encoder="table.vec", frozen=True, evaluate=every)
    settings = with_task(settings, data=replace(settings.task.data, **changes))
    with pytest.raises(ConfigError) as caught:
        repeats.run(with_task(settings, repeats=RepeatOptions(**options or {})))
    assert caught.value.field == field and not (tmp_path / "run" / "results.json").exists()
    if options:
        with pytest.raises(ConfigError) as caught:  # not silently one run
            run(with_task(settings, repeats=RepeatOptions(**options)))
        assert caught.value.field in options


@pytest.mark.parametrize(
    "content",
    [
        '{"runs": [{"run": "seed_0", "size": null, "seed": 0, "step": null, "metrics": null}]}',
        '{"runs": [{}]}',
        '{"runs": 1}',
    ],
)
def test_a_directory_without_finished_runs_is_not_measured(tmp_path: Path, content: str) -> None:
    (tmp_path / "seed_0").mkdir()
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(InputError):
        evaluate(Evaluate(str(tmp_path), (str(tmp_path / "test.tsv"),)))


@pytest.mark.slow
def test_words_that_are_no_sizes_are_refused() -> None:
    assert RepeatOptions(sizes="100, all,10").parsed_sizes == (10, 100, None)
    for wrong in ("ten", "10,10", "0", "-1", ",", "1.5"):
        with pytest.raises(ConfigError):
            RepeatOptions(sizes=wrong)
    with pytest.raises(ConfigError):
        RepeatOptions(seeds=-1)
