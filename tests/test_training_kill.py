"""A run that is killed at any moment and resumed equals one that is not: `train.py` itself, in processes."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from ctx_jax.checkpoints.runs import RunCheckpoints
from ctx_jax.cli import main

ROOT = Path(__file__).resolve().parents[1]
STEPS = 40
CONFIG = '''
"""Tiny."""
from ctx_jax.data.config import BiLMData
from ctx_jax.encoders.elmo import BiLM
from ctx_jax.tasks import TrainConfig
from ctx_jax.tasks.bilm import BiLMConfig, BiLMEvaluate
from ctx_jax.training.config import CheckpointConfig, LogConfig
from ctx_jax.training.optimizer import Adagrad

def config():
    return TrainConfig(
        task=BiLMConfig(
            model=BiLM(max_characters=8, character_dim=3, filters=((1, 4), (2, 4)), dim=6, projection=4),
            data=BiLMData(train="{text}", valid="{text}", batch_size=4, unroll_steps=5),
            evaluate=BiLMEvaluate(every=10),
            negatives=9,
        ),
        optimizer=Adagrad(loss_scale=5.0),
        checkpoint=CheckpointConfig(every=3, keep=2),
        log=LogConfig(every=1),
        steps={steps},
    )
'''


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    random = np.random.default_rng(0)
    words = ["".join(map(chr, random.integers(97, 123, length))) for length in random.integers(1, 9, 30)]
    text = "\n".join(" ".join(random.choice(words, random.integers(1, 9))) for _ in range(40))
    (folder / "text.txt").write_text(text + "\n")
    (folder / "tiny.py").write_text(CONFIG.format(text=folder / "text.txt", steps=STEPS))
    return folder / "tiny.py"


def start(config: Path, run_dir: Path, *flags: str, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "train.py", str(config), "--run-dir", str(run_dir), *flags]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "1", "XLA_FLAGS": ""} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_two(config: Path, run_dir: Path, *flags: str, devices: int) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    both = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_NUM_CPU_DEVICES": str(devices)}
    flags = (*flags, "--devices.distributed")
    return [start(config, run_dir, *flags, JAX_PROCESS_ID=number, **both) for number in ("0", "1")]


@pytest.fixture(scope="module")
def whole(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run, on one device."""
    run_dir = tmp_path_factory.mktemp("whole")
    process = start(config, run_dir)
    printed = process.communicate(timeout=300)[0]
    assert process.returncode == 0, printed
    return run_dir


def lines(run_dir: Path) -> list[dict]:
    text = (run_dir / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def wait_for(process: subprocess.Popen, run_dir: Path, steps: int) -> None:
    """Until `steps` lines of metrics are written."""
    path, until = run_dir / "metrics.jsonl", time.monotonic() + 240
    while not (path.is_file() and path.read_bytes().count(b"\n") >= steps):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.002)


@pytest.mark.slow
def test_a_killed_run_resumes_from_its_last_checkpoint_bit_for_bit(
    config: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed = tmp_path / "killed"
    random = np.random.default_rng(7)  # any moment must do
    for steps in (int(random.integers(1, 15)), int(random.integers(18, 34))):
        process = start(config, killed)
        wait_for(process, killed, steps)
        time.sleep(random.random() / 20)
        process.kill()
        process.communicate()
    with RunCheckpoints(killed / "checkpoints") as checkpoints:
        last = checkpoints.latest()
    printed = start(config, killed).communicate(timeout=300)[0]
    assert f"resumed from step {last}" in printed
    again = [int(line.split()[1].split("/")[0]) for line in printed.splitlines() if line.startswith("step ")]
    assert min(again) > (last or 0), "a step up to the checkpoint was computed again"

    values = [
        {(line["split"], line["step"]): (line["loss"], line.get("gradient_norm")) for line in lines(run_dir)}
        for run_dir in (whole, killed)
    ]
    assert values[0] == values[1] and len(values[1]) == len(lines(killed)) == STEPS + 4
    parameters = []
    for run_dir in (whole, killed):
        with RunCheckpoints(run_dir / "checkpoints") as checkpoints:
            assert checkpoints.latest() == STEPS
            parameters.append(checkpoints.restore_params(STEPS))
    jax.tree.map(np.testing.assert_array_equal, *parameters)

    # A finished run trains nothing; more steps are allowed with a constant schedule; other settings are refused.
    command = ["train", str(config), "--run-dir", str(killed)]
    assert main(command) == 0
    assert "nothing to train" in capsys.readouterr().out
    assert len(lines(killed)) == STEPS + 4
    assert main([*command, "--model.dim", "7"]) == 1
    assert "model.dim: the run has 6, this command 7" in capsys.readouterr().err
    assert main([*command, "--steps", str(STEPS + 1), "--devices.mode", "pmap", "--devices.count", "4"]) == 0
    assert f"resumed from step {STEPS}" in capsys.readouterr().out
    assert lines(killed)[-1]["step"] == STEPS + 1

    # A missing file is an error, and is not written again.
    for name in ("config.json", "texts.json", "vocabulary.txt"):
        (killed / name).rename(tmp_path / name)
        assert main([*command, "--steps", str(STEPS + 2), "--devices.count", "1"]) == 1
        assert str(killed / name) in capsys.readouterr().err and not (killed / name).exists()
        (tmp_path / name).rename(killed / name)

    # One letter of the vocabulary's last word has changed.
    words = (killed / "vocabulary.txt").read_bytes()
    (killed / "vocabulary.txt").write_bytes(words[:-2] + b"?\n")
    assert main([*command, "--steps", str(STEPS + 2), "--devices.count", "1"]) == 1
    assert f"vocabulary.txt is not the one that step {STEPS + 1} was saved with" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_stop_together_and_one_goes_on_with_the_same_losses(
    config: Path, whole: Path, tmp_path: Path
) -> None:
    long = ("--steps", "120", "--checkpoint.every", "50")  # the signal takes a moment to reach every process
    processes = start_two(config, tmp_path, *long, devices=2)
    try:
        wait_for(processes[0], tmp_path, 4)
        processes[1].send_signal(signal.SIGINT)  # which becomes the SIGTERM that jax sees
        printed = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [143, 143], printed
    assert "and saved; the same command resumes it" in printed[0] and not re.search(
        r"^step \d", printed[1], re.MULTILINE
    )
    printed = [start(config, tmp_path, *long, JAX_NUM_CPU_DEVICES="4").communicate(timeout=300)[0]]
    assert "resumed from step" in printed[0]
    mine, reference = ([line["loss"] for line in lines(run_dir)] for run_dir in (tmp_path, whole))
    np.testing.assert_allclose(mine[: len(reference)], reference, rtol=1e-4)


@pytest.mark.slow
def test_when_one_of_two_processes_is_killed_the_other_ends_with_a_sentence(config: Path, tmp_path: Path) -> None:
    # In a save, or with more devices, which wait for each other, the other only misses the signs of life: 3 minutes.
    rare = ("--checkpoint.every", "100000", "--evaluate.every", "0")
    processes = start_two(config, tmp_path, "--steps", "100000", *rare, devices=1)
    try:
        wait_for(processes[0], tmp_path, 4)
        processes[1].kill()
        printed = processes[0].communicate(timeout=120)[0]
    finally:
        for process in processes:
            process.kill()
    assert processes[0].returncode == 1, printed
    assert "error: another process of the job has ended" in printed
    assert "Traceback" not in printed and "stack trace" not in printed
