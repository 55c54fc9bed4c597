"""Processes of a job agree on settings and disk and exchange values; if one stops, all end and none hangs."""

import errno
import os
import socket
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from ctx_jax.data.config import BiLMData
from ctx_jax.distributed.processes import broadcast, check_same, disk_problem, first_difference, gather
from ctx_jax.io.files import naming_full_disk, temporary_folder
from ctx_jax.tasks import TrainConfig
from ctx_jax.tasks.bilm import BiLMConfig, BiLMEvaluate
from ctx_jax.training.config import DevicesConfig
from ctx_jax.training.run import run

ROOT = Path(__file__).resolve().parents[1]


def test_the_first_setting_or_number_of_devices_that_differs_is_named_with_its_process() -> None:
    config = TrainConfig(steps=3)
    assert first_difference([(config, 2), (config, 2), (replace(config), 2)]) is None
    other = replace(config, task=BiLMConfig(evaluate=BiLMEvaluate(every=7)), seed=5)
    processes = [(config, 2), (config, 2), (other, 1)]
    assert first_difference(processes) == "task.evaluate.every is 1000 for process 0 and 7 for process 2"
    assert first_difference(processes, ["task.evaluate.every"]) == "seed is 0 for process 0 and 5 for process 2"
    assert first_difference([(config, 2), (config, 1)]) == "process 0 has 2 devices and process 1 has 1"


def test_a_disk_that_is_not_shared_or_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    assert "run_dir to a disk that all of them share" in disk_problem(tmp_path, "mark", 1, seconds=0)
    (tmp_path / "mark").touch()
    assert disk_problem(tmp_path, "mark", 1, seconds=0) == ""
    assert not list((tmp_path / "checkpoints").iterdir())
    (tmp_path / "checkpoints").rmdir()
    (tmp_path / "checkpoints").touch()
    assert "cannot write checkpoints to" in disk_problem(tmp_path, "mark", 1, seconds=0)


def test_a_refused_setting_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "")
    config = TrainConfig(run_dir=str(tmp_path / "run"), steps=0, devices=DevicesConfig(deterministic=True))
    with pytest.raises(ValueError, match="steps"):
        run(config)
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run(replace(config, steps=1, task=BiLMConfig(data=BiLMData(train=str(tmp_path / "nowhere.txt")))))
    assert (tmp_path / "run" / "autotune").is_dir(), "XLA would find no place for its choices"


@pytest.mark.parametrize(
    ("full", "advice"),
    [("run", r"make space there, or set another .*run.dir.*data.cache"), ("", "set TMPDIR")],
)
def test_a_full_disk_is_named_with_what_sets_another(
    full: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object, **__: object) -> None:
        with temporary_folder("test") if not full else naming_full_disk(tmp_path / full):
            raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(BiLMConfig, "open", no_space)
    with pytest.raises(OSError, match=advice) as error:
        run(TrainConfig(run_dir=str(tmp_path / "run")))
    assert ("cache" in str(error.value)) == bool(full)


JOB = textwrap.dedent("""
    import sys
    from ctx_jax.cli import main
    from ctx_jax.tasks.bilm import BiLMConfig
    from ctx_jax.training import loop
    {change}
    sys.exit(main(["train", "quickstart", "--data.train", "text.txt", "--devices.distributed", *sys.argv[1:]]))
""")


def two_processes(folder: Path, commands: list[list[str]]) -> list[tuple[int, str]]:
    """The exit status and output of two processes that run Python with these arguments."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    both = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_NUM_CPU_DEVICES": "1", "XLA_FLAGS": ""}
    path = {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    processes = []
    for number, arguments in enumerate(commands):
        command = [sys.executable, *arguments]
        environment = os.environ | both | path | {"JAX_PROCESS_ID": str(number)}
        processes.append(
            subprocess.Popen(
                command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]


def job(folder: Path, flags: tuple[str, ...] = (), change: str = "", where: int = 1) -> list[str]:
    """The output of two training processes that must both fail: the second has further `flags`, `where` other code."""
    (folder / "text.txt").write_text("a b c\n")
    codes = [JOB.format(change=change if number == where else "") for number in range(2)]
    commands = [["-c", code, "--run-dir", str(folder / "run")] for code in codes]
    commands[1] += flags
    ended = two_processes(folder, commands)
    assert [status for status, _ in ended] == [1, 1], ended
    return [output for _, output in ended]


EXCHANGE = textwrap.dedent("""
    import sys, time
    from dataclasses import dataclass
    from pathlib import Path
    from ctx_jax.distributed import processes
    from ctx_jax.io.errors import InputError

    @dataclass(frozen=True)
    class Settings:
        seed: int = 0
        run_dir: str = "run"

    processes.join()
    processes.join()  # does nothing
    number, folder = int(not processes.is_first_process()), Path(sys.argv[1])
    assert processes.gather(f"text {number}") == ["text 0", "text 1"]
    assert processes.broadcast({"loss": 0.1 + number}) == {"loss": 0.1}
    assert processes.broadcast(None if number else 7) == 7
    assert processes.broadcast(7 if number else None) is None
    made = []
    processes.first_process_first(lambda: made.append((folder / "shared").exists()) or (folder / "shared").touch())
    assert made == [bool(number)]
    processes.on_first_process(lambda: (folder / f"by {number}").touch())
    assert (folder / "by 0").exists() and not (folder / "by 1").exists()
    processes.barrier("here", seconds=60)
    assert not processes.stop_requested(1)
    processes.check_same(Settings(run_dir=str(number)))
    try:
        processes.check_same(Settings(seed=3 * number))
    except InputError as error:
        assert "seed is 0 for process 0 and 3 for process 1" in str(error), error
    else:
        raise AssertionError("other settings were accepted")
    processes.check_disk(folder)
    assert not list(folder.glob(".job-*"))
    with processes.stop_together():
        with processes.stop_together():
            if number:
                raise KeyError("only here")
            time.sleep(0.1)
""")


def test_alone_a_process_exchanges_with_itself() -> None:
    assert gather("a") == ["a"]
    assert (broadcast(3), broadcast(None)) == (3, None)
    check_same(TrainConfig(steps=3))


@pytest.mark.slow
def test_two_processes_exchange_values_agree_and_stop_together(tmp_path: Path) -> None:
    (first, its_output), (second, output) = two_processes(tmp_path, [["-c", EXCHANGE, str(tmp_path)]] * 2)
    assert (first, second) == (1, 1), (its_output, output)
    assert "OtherProcessStopped: process 1 of the job has stopped" in its_output
    assert "KeyError: 'only here'" in output and "OtherProcessStopped" not in output


@pytest.mark.slow
def test_a_process_with_another_setting_or_number_of_devices_stops_all_at_once(tmp_path: Path) -> None:
    for output in job(tmp_path, ("--seed", "3")):
        assert "seed is 0 for process 0 and 3 for process 1" in output
    for output in job(tmp_path, change="import jax; jax.config.update('jax_num_cpu_devices', 2)"):
        assert "process 0 has 1 devices and process 1 has 2" in output
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number, part", [(0, "BiLMConfig.open"), (1, "BiLMConfig.open"), (1, "loop.Loop")])
def test_what_one_process_alone_refuses_stops_the_other(number: int, part: str, tmp_path: Path) -> None:
    change = f"def refuse(*_, **__): raise ValueError('no such text')\n{part} = refuse"
    outputs = job(tmp_path, change=change, where=number)
    assert "no such text" in outputs[number]
    assert f"process {number} of the job has stopped" in outputs[1 - number]


WATCHED = textwrap.dedent("""
    import os, time
    from ctx_jax.distributed import processes, watch
    watch.SECONDS, watch.MISSED = 0.2, 20
    processes.join()
    with watch.watching(), watch.ending_others():
        if processes.is_first_process():
            time.sleep(100)
        {act}
""")


@pytest.mark.slow
def test_a_process_that_dies_or_fails_alone_ends_the_other_with_a_sentence(tmp_path: Path) -> None:
    def outputs(act: str) -> list[tuple[int, str]]:
        return two_processes(tmp_path, [["-c", WATCHED.format(act=act)]] * 2)

    (status, output), (killed, _) = outputs("os.kill(os.getpid(), 9)")
    assert (status, killed) == (1, -9)
    assert "process 1 of the job has died" in output and "stack trace" not in output
    (status, output), (other_status, its_output) = outputs("raise KeyError('only here')")
    assert (status, other_status) == (1, 1)
    assert "process 1 of the job has failed" in output and "KeyError: 'only here'" in its_output
    assert "stack trace" not in output + its_output
