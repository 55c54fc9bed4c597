"""Killed at any moment and started again, a run ends as if nothing had been: `train.py` itself, in processes."""

import json
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
from ctx_jax.data.config import DataConfig
from ctx_jax.models.bilm import BiLM
from ctx_jax.training.config import CheckpointConfig, EvaluateConfig, LogConfig, TrainConfig
from ctx_jax.training.optimizer import Adagrad

def config():
    return TrainConfig(
        model=BiLM(max_characters=8, character_dim=3, filters=((1, 4), (2, 4)), dim=6, projection=4, negatives=9),
        data=DataConfig(train="{text}", valid="{text}", lanes=4, window=5),
        optimizer=Adagrad(loss_scale=5.0),
        checkpoint=CheckpointConfig(every=3, keep=2),
        evaluate=EvaluateConfig(every=10),
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


def start(config: Path, run_dir: Path) -> subprocess.Popen:
    command = [sys.executable, "train.py", str(config), "--run-dir", str(run_dir)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def lines(run_dir: Path) -> list[dict]:
    text = (run_dir / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def kill_after(process: subprocess.Popen, run_dir: Path, steps: int, moment: float) -> None:
    """SIGKILL once `steps` lines are written, and a moment later."""
    path, until = run_dir / "metrics.jsonl", time.monotonic() + 240
    while not (path.is_file() and path.read_bytes().count(b"\n") >= steps):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.002)
    time.sleep(moment)
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_last_checkpoint_and_ends_bit_for_bit_the_same(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start(config, whole)
    printed = process.communicate(timeout=300)[0]
    assert process.returncode == 0, printed
    random = np.random.default_rng()  # any moment must do
    for steps in (int(random.integers(1, 15)), int(random.integers(18, 34))):
        kill_after(start(config, killed), killed, steps, float(random.random() / 20))
    with RunCheckpoints(killed / "checkpoints") as checkpoints:
        last = checkpoints.latest()
    printed = start(config, killed).communicate(timeout=300)[0]
    assert f"resumed from step {last}" in printed
    again = [int(line.split()[1].split("/")[0]) for line in printed.splitlines() if line.startswith("step ")]
    assert min(again) > (last or 0), "a step up to the checkpoint was computed again"

    told = [
        {(line["split"], line["step"]): (line["loss"], line.get("gradient_norm")) for line in lines(run_dir)}
        for run_dir in (whole, killed)
    ]
    assert told[0] == told[1] and len(told[1]) == len(lines(killed)) == STEPS + 4
    parameters = []
    for run_dir in (whole, killed):
        with RunCheckpoints(run_dir / "checkpoints") as checkpoints:
            assert checkpoints.latest() == STEPS
            parameters.append(checkpoints.restore_params(STEPS))
    jax.tree.map(np.testing.assert_array_equal, *parameters)

    # Done is done, more steps go on where the schedule allows it, and other settings are refused by name.
    command = ["train", str(config), "--run-dir", str(killed)]
    assert main(command) == 0
    assert "nothing to train" in capsys.readouterr().out
    assert len(lines(killed)) == STEPS + 4
    assert main([*command, "--model.dim", "7"]) == 1
    assert "model.dim: the run has 6, this command 7" in capsys.readouterr().err
    assert main([*command, "--steps", str(STEPS + 1), "--devices.mode", "pmap", "--devices.count", "4"]) == 0
    assert f"resumed from step {STEPS}" in capsys.readouterr().out
    assert lines(killed)[-1]["step"] == STEPS + 1
