"""What processes of a job must agree on: where they do not, or where one alone stops, all end, and none hangs."""

import errno
import os
import socket
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from ctx_jax.data.config import DataConfig
from ctx_jax.distributed.processes import difference, trouble
from ctx_jax.io.files import naming_full_disk, temporary_folder
from ctx_jax.training import run as run_module
from ctx_jax.training.config import DevicesConfig, EvaluateConfig, TrainConfig
from ctx_jax.training.run import run

ROOT = Path(__file__).resolve().parents[1]


def test_the_first_setting_or_number_of_devices_that_differs_is_named_with_its_process() -> None:
    config = TrainConfig(steps=3)
    assert difference([(config, 2), (config, 2), (replace(config), 2)]) is None
    other = replace(config, evaluate=EvaluateConfig(every=7), seed=5)
    found = difference([(config, 2), (config, 2), (other, 1)])
    assert found == "evaluate.every is 1000 for process 0 and 7 for process 2"
    assert difference([(config, 2), (config, 1)]) == "process 0 has 2 devices and process 1 has 1"


def test_a_disk_that_is_not_shared_or_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    assert "must be on a disk they share" in trouble(tmp_path, "mark", 1, patience=0)
    (tmp_path / "mark").touch()
    assert trouble(tmp_path, "mark", 1, patience=0) == ""
    assert not list((tmp_path / "checkpoints").iterdir())
    (tmp_path / "checkpoints").rmdir()
    (tmp_path / "checkpoints").touch()
    assert "cannot write its part of a checkpoint to" in trouble(tmp_path, "mark", 1, patience=0)


def test_a_refused_setting_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "")
    config = TrainConfig(run_dir=str(tmp_path / "run"), steps=0, devices=DevicesConfig(deterministic=True))
    with pytest.raises(ValueError, match="--steps must be at least 1"):
        run(config)
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run(replace(config, steps=1, data=DataConfig(train=str(tmp_path / "nowhere.txt"))))
    assert (tmp_path / "run" / "autotune").is_dir(), "XLA would find no place for its choices"


@pytest.mark.parametrize(
    ("full", "says"),
    [("run", r"make space there, or set another --run-dir \(for the text alone, --data.cache\)"), ("", "set TMPDIR")],
)
def test_a_full_disk_is_named_with_what_sets_another(
    full: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object, **__: object) -> None:
        with temporary_folder("test") if not full else naming_full_disk(tmp_path / full):
            raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(run_module, "open_task", no_space)
    with pytest.raises(OSError, match=says) as error:
        run(TrainConfig(run_dir=str(tmp_path / "run")))
    assert ("--run-dir" in str(error.value)) == bool(full)


JOB = textwrap.dedent("""
    import sys
    from ctx_jax.cli import main
    from ctx_jax.training import loop, run
    {change}
    sys.exit(main(["train", "quickstart", "--data.train", "text.txt", "--devices.distributed", *sys.argv[1:]]))
""")


def job(folder: Path, flags: tuple[str, ...] = (), change: str = "", where: int = 1) -> list[str]:
    """What two processes print; both must fail. The second one has `flags` of its own, process `where` other code."""
    (folder / "text.txt").write_text("a b c\n")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    both = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_NUM_CPU_DEVICES": "1", "XLA_FLAGS": ""}
    path = {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    processes = []
    for number in range(2):
        code = JOB.format(change=change if number == where else "")
        command = [sys.executable, "-c", code, "--run-dir", str(folder / "run"), *(flags if number else ())]
        environment = os.environ | both | path | {"JAX_PROCESS_ID": str(number)}
        processes.append(
            subprocess.Popen(
                command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    try:
        printed = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [1, 1], printed
    return printed


@pytest.mark.slow
def test_a_process_with_another_setting_or_number_of_devices_stops_all_at_once(tmp_path: Path) -> None:
    for printed in job(tmp_path, ("--seed", "3")):
        assert "seed is 0 for process 0 and 3 for process 1" in printed
    for printed in job(tmp_path, change="import jax; jax.config.update('jax_num_cpu_devices', 2)"):
        assert "process 0 has 1 devices and process 1 has 2" in printed
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number, part", [(0, "run.open_task"), (1, "run.open_task"), (1, "loop.Loop")])
def test_what_one_process_alone_refuses_stops_the_other(number: int, part: str, tmp_path: Path) -> None:
    change = f"def refuse(*_, **__): raise ValueError('no such text')\n{part} = refuse"
    printed = job(tmp_path, change=change, where=number)
    assert "no such text" in printed[number]
    assert f"error: process {number} of the job has stopped: its own message says why" in printed[1 - number]
