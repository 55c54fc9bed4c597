"""Config dataclasses survive JSON, and whatever does not fit is refused by name."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from ctx_jax.checkpoints import run_files
from ctx_jax.encoders.elmo.model import BiLM
from ctx_jax.io import configs


@dataclass(frozen=True)
class Words:
    width: int = 4


@dataclass(frozen=True)
class Optimizer:
    rate: float = 0.1
    kind: Literal["adagrad", "adamw"] = "adagrad"
    decay: float | None = None
    warmup: int | float = 5


@dataclass(frozen=True)
class Run:
    model: BiLM | Words = field(default_factory=Words)
    optimizer: Optimizer = field(default_factory=Optimizer)
    files: tuple[str, ...] = ("a.txt",)
    folder: Path | None = None
    weights: dict[str, float] = field(default_factory=dict)
    stages: tuple[Optimizer, ...] = ()
    pair: tuple[int, float] = (1, 2.0)
    steps: int = 10
    verbose: bool = False


RUNS = [
    Run(),
    Run(model=BiLM(filters=((1, 4), (2, 8)), cell_clip=None)),
    Run(folder=Path("runs/a"), weights={"forward": 0.5}, stages=(Optimizer(), Optimizer(decay=0.5))),
    Run(optimizer=Optimizer(warmup=0.5)),
]


@pytest.mark.parametrize("run", RUNS)
def test_what_was_stored_reads_back_equal_and_hashable_where_it_was(run: Run) -> None:
    back = configs.from_json([Run], json.loads(json.dumps(configs.to_json(run))))
    assert back == run
    assert type(back.model) is type(run.model)
    assert hash(back.model) == hash(run.model)
    assert configs.differences(run, back) == []


def test_a_file_reads_back_equal_and_a_torn_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    configs.write(path, Run())
    configs.write(path, RUNS[1])
    assert configs.read(path, [Run]) == RUNS[1]
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.json"]
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match=r"config\.json"):
        configs.read(path, [Run])
    with pytest.raises(FileNotFoundError):
        configs.read(tmp_path / "none.json", [Run])


def test_files_of_older_formats_are_read_and_of_newer_ones_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Format 2 gives the optimizer a decay and the run a pair, format 3 the stages of older runs a warm-up."""
    run = replace(RUNS[2], pair=(3, 4.0))
    path = tmp_path / "config.json"
    stored = json.loads(configs.text(run))
    assert stored["format"] == 1
    del stored["format"]  # as files were before there was a number
    for old in (stored["optimizer"], *stored["stages"]):
        del old["decay"], old["warmup"]
    del stored["pair"]
    path.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match="config.pair: missing"):
        configs.read(path, [Run])
    added = {2: {"Optimizer": {"decay": 0.25}, "Run": {"pair": [3, 4.0]}}, 3: {"Optimizer": {"warmup": 7}}}
    monkeypatch.setattr(configs, "ADDED", added)
    monkeypatch.setattr(configs, "NEWEST", 3)
    before = Optimizer(decay=0.25, warmup=7)
    assert configs.read(path, [Run]) == replace(run, optimizer=before, stages=(before, before))

    kept = {"config.json": path.read_text()}
    configs.write(path, replace(run, optimizer=before, stages=(before, before)))
    assert json.loads(path.read_text())["format"] == 3
    run_files.check(tmp_path, kept, 40)  # the same settings, stored by a newer version
    configs.write(path, replace(run, optimizer=before, stages=(before, Optimizer())))
    with pytest.raises(ValueError, match=r"step 40 was saved with: stages was "):
        run_files.check(tmp_path, kept, 40)

    monkeypatch.setattr(configs, "NEWEST", 2)
    for read in (lambda: configs.read(path, [Run]), lambda: run_files.check(tmp_path, kept, 40)):
        with pytest.raises(ValueError, match=r"config\.json.*format 3 is of a newer ctx_jax.* up to 2: update it"):
            read()
    for number in (0, "1", True):
        with pytest.raises(ValueError, match="needs a whole number from 1 to 2"):
            configs.newest({"format": number})


def test_an_integer_in_a_float_field_becomes_a_float_and_stays_one_in_a_union() -> None:
    back = configs.from_json([Run], configs.to_json(Run(optimizer=Optimizer(rate=1, warmup=7))))
    assert isinstance(back.optimizer.rate, float)
    assert isinstance(back.optimizer.warmup, int)


def change(path: str, value: Any) -> dict[str, Any]:
    data = configs.to_json(Run())
    *parents, last = path.split(".")
    place = data
    for parent in parents:
        place = place[parent]
    if value is KeyError:
        del place[last]
    else:
        place[last] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("optimizer.rtae", 0.1, ["config.optimizer.rtae", "Optimizer", "'rate'"]),
        ("optimizer.rate", KeyError, ["config.optimizer.rate", "missing"]),
        ("optimizer.rate", "fast", ["config.optimizer.rate", "float", "'fast'"]),
        ("optimizer.decay", "x", ["config.optimizer.decay", "float", "'x'"]),
        ("optimizer.kind", "adagard", ["config.optimizer.kind", "'adagrad'", "did you mean"]),
        ("steps", True, ["config.steps", "int", "True"]),
        ("steps", 1.5, ["config.steps", "int", "1.5"]),
        ("verbose", 1, ["config.verbose", "bool"]),
        ("files", ["a", 3], ["config.files.1", "str", "3"]),
        ("files", "a.txt", ["config.files", "list"]),
        ("pair", [1], ["config.pair", "2 values"]),
        ("model", {"type": "Word", "width": 3}, ["config.model.type", "BiLM or Words", "did you mean 'Words'"]),
        ("model", None, ["config.model"]),
        ("model", {"width": 3}, ["config.model", "type"]),
        ("type", "Runs", ["config.type", "Run"]),
    ],
)
def test_what_does_not_fit_is_refused_by_name(path: str, value: Any, said: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        configs.from_json([Run], change(path, value))
    for words in said:
        assert words in str(error.value)


def test_a_value_without_a_json_form_is_refused_when_stored() -> None:
    with pytest.raises(TypeError, match="weights"):
        configs.to_json(Run(weights={"a": object()}))  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="dataclass"):
        configs.to_json({"a": 1})


def test_differences_name_the_field_and_both_values() -> None:
    old = Run(stages=(Optimizer(), Optimizer()))
    new = replace(old, steps=20, optimizer=Optimizer(rate=0.2), stages=(Optimizer(), Optimizer(decay=1.0)), files=())
    assert configs.differences(old, new) == [
        ("optimizer.rate", 0.1, 0.2),
        ("files", ("a.txt",), ()),
        ("stages.1.decay", None, 1.0),
        ("steps", 10, 20),
    ]
    assert configs.differences(old, replace(old, model=BiLM())) == [("model.type", "Words", "BiLM")]
