"""Config dataclasses survive JSON, and whatever does not fit is refused by name."""

import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest

from ctx_jax.io import configs
from ctx_jax.io.errors import ConfigError, InputError


@dataclass(frozen=True)
class BiLM:
    dim: int = 8
    filters: tuple[tuple[int, int], ...] = ((1, 4),)
    cell_clip: float | None = 3.0


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


@dataclass(frozen=True)
class Holder:
    """Of configs that whoever reads it knows."""

    held: tuple[Any, ...]


RUNS = [
    Run(),
    Run(model=BiLM(filters=((1, 4), (2, 8)), cell_clip=None)),
    Run(folder=Path("runs/a"), weights={"forward": 0.5}, stages=(Optimizer(), Optimizer(decay=0.5))),
    Run(optimizer=Optimizer(warmup=0.5)),
]


@pytest.mark.parametrize("run", RUNS)
def test_what_was_stored_reads_back_equal_and_hashable_where_it_was(run: Run) -> None:
    back = configs.from_json(Run, json.loads(json.dumps(configs.to_json(run))))
    assert back == run
    assert type(back.model) is type(run.model)
    assert hash(back.model) == hash(run.model)
    assert configs.differences(run, back) == []


def test_a_file_reads_back_equal_and_a_torn_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(configs.text(RUNS[1]))
    assert configs.read(path, Run) == RUNS[1]
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match=r"config\.json"):
        configs.read(path, Run)
    with pytest.raises(FileNotFoundError):
        configs.read(tmp_path / "none.json", Run)


def test_a_field_of_any_type_holds_one_of_the_dataclasses_that_the_reader_names() -> None:
    stored = configs.to_json(Holder((Words(7), Holder(()))))
    assert configs.from_json(Holder, stored, (Words, Holder)) == Holder((Words(7), Holder(())))
    assert configs.from_json(Holder, stored).held[0] == {"type": "Words", "width": 7}
    with pytest.raises(ConfigError, match=r"held\.0\.type.*Words"):
        configs.from_json(Holder, stored, (Holder,))


def test_an_unknown_format_is_refused_by_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    stored = json.loads(configs.text(Run()))
    assert stored["format"] == 1
    for number in (0, 2, "1", True, None):
        path.write_text(json.dumps(stored | {"format": number}))
        with pytest.raises(InputError, match=rf"config\.json.*format 1, got {number!r}"):
            configs.read(path, Run)


def test_a_union_may_hold_dataclasses_of_any_module(tmp_path: Path) -> None:
    """A user's own task config, in a field whose annotation is a string."""
    users = ModuleType("users")
    code = """
from __future__ import annotations
from dataclasses import dataclass
from test_configs import Run, Words

@dataclass(frozen=True)
class Mine:
    depth: int = 2

@dataclass(frozen=True)
class UsersRun(Run):
    task: Words | Mine | None = Mine(3)
"""
    sys.modules["users"] = users
    try:
        exec(code.replace("test_configs", __name__), users.__dict__)
        for run in (users.UsersRun(), users.UsersRun(task=Words(7)), users.UsersRun(task=None)):
            (tmp_path / "config.json").write_text(configs.text(run))
            assert configs.read(tmp_path / "config.json", users.UsersRun) == run
        assert configs.from_json(Words | users.Mine, {"type": "Mine", "depth": 1}) == users.Mine(1)
    finally:
        del sys.modules["users"]


def test_an_integer_in_a_float_field_becomes_a_float_and_stays_one_in_a_union() -> None:
    back = configs.from_json(Run, configs.to_json(Run(optimizer=Optimizer(rate=1, warmup=7))))
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
    ("path", "value", "message"),
    [
        ("optimizer.rtae", 0.1, ["Optimizer", "'rate'"]),
        ("optimizer.rate", KeyError, ["missing", "Optimizer"]),
        ("optimizer.rate", "fast", ["float", "'fast'"]),
        ("optimizer.rate", True, ["float", "True"]),
        ("optimizer.rate", -(10**400), ["float", "range"]),
        ("optimizer.decay", "x", ["float", "'x'"]),
        ("optimizer.warmup", False, ["int or float", "False"]),
        ("optimizer.kind", "adagard", ["'adagrad'", "did you mean"]),
        ("steps", True, ["int", "True"]),
        ("steps", 1.5, ["int", "1.5"]),
        ("verbose", 1, ["bool"]),
        ("files", ["a", 3], ["files.1", "str", "3"]),
        ("files", "a.txt", ["list"]),
        ("pair", [1], ["2 values"]),
        ("weights", [], ["dict", "[]"]),
        ("model", {"type": "Word", "width": 3}, ["model.type", "BiLM or Words", "did you mean 'Words'"]),
        ("model", {"type": []}, ["model.type", "BiLM or Words"]),
        ("model", None, ["BiLM or Words"]),
        ("model", {"width": 3}, ["type"]),
        ("stages", [{"type": "Optimizer"}], ["stages.0.rate", "missing"]),
        ("type", "Runs", ["Run"]),
    ],
)
def test_what_does_not_fit_is_refused_by_field(path: str, value: Any, message: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        configs.from_json(Run, change(path, value))
    assert error.value.field.startswith(path)
    for words in message:
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
