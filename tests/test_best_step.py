"""The best step: chosen by metrics that are verified first, so that damage to them never chooses another one."""

import math
import shutil
from pathlib import Path

import jax.numpy as jnp
import pytest

from ctx_jax.checkpoints import digests
from ctx_jax.checkpoints.runs import RunCheckpoints
from ctx_jax.io.errors import InputError


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Steps 1, 2 and 3, of which the last is the best."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    with RunCheckpoints(folder, clean=True) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, {"params": jnp.ones(2)}, {}, {"loss": 3.0 - step})
    return folder


def flipped(content: bytes, bit: int) -> bytes:
    byte, mask = bit // 8, 1 << bit % 8
    return content[:byte] + bytes([content[byte] ^ mask]) + content[byte + 1 :]


def test_a_selection_goes_before_the_loss_and_the_earlier_of_equals_is_best(tmp_path: Path) -> None:
    metrics = [{"loss": 1.0, "selection": -3.0}, {"loss": 0.5, "selection": -7.0}, {"loss": 0.1, "selection": -7.0}]
    with RunCheckpoints(tmp_path / "c", keep=1, clean=True) as checkpoints:
        for step, measured in enumerate([{"loss": 9.0}, *metrics, {"loss": 1.0, "selection": math.nan}]):
            checkpoints.save(step, {"params": jnp.ones(2)}, {}, measured)
        checkpoints.wait()
        assert (checkpoints.best(), checkpoints.steps()) == (2, [2, 4])
        assert checkpoints.metrics(2) == {"loss": 0.5, "selection": -7.0}


def test_without_metrics_the_best_is_the_last(tmp_path: Path) -> None:
    with RunCheckpoints(tmp_path / "c", keep=1, clean=True) as checkpoints:
        assert (checkpoints.steps(), checkpoints.latest(), checkpoints.best()) == ([], None, None)
        for step in (3, 10):
            checkpoints.save(step, {"params": jnp.ones(2)}, {})
        checkpoints.wait()
        assert (checkpoints.steps(), checkpoints.best()) == ([10], 10)


def metrics_of(folder: Path, step: int) -> Path:
    return folder / str(step) / "metrics" / "metrics"


@pytest.mark.parametrize("step", [1, 2, 3])
def test_damaged_metrics_choose_no_step_and_remove_none(
    saved: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, step: int
) -> None:
    """Every one-bit flip, cut and loss of the metrics of a step, and of its digest file, is refused by file."""
    folder = Path(shutil.copytree(saved, tmp_path / "checkpoints"))
    metrics, digest = metrics_of(folder, step), digests.path_of(folder / str(step))
    with RunCheckpoints(folder) as reading:
        assert reading.best() == 3
        for path in (metrics, digest):
            whole = path.read_bytes()
            bits = range(8 * len(whole)) if path == metrics else range(0, 8 * len(whole), 37)
            flips = [
                whole[: bit // 8] + bytes([whole[bit // 8] ^ 1 << bit % 8]) + whole[bit // 8 + 1 :] for bit in bits
            ]
            for content in (*flips, whole[:-1], whole[: len(whole) // 2], b"", whole + b" ", b"{}"):
                path.write_bytes(content)
                with pytest.raises(InputError) as error:
                    reading.best()
                assert f"{path}:" in str(error.value)
            path.write_bytes(whole)
        metrics.unlink()
        with pytest.raises(InputError, match=f"{metrics}: missing"):
            reading.best()
        assert reading.latest() == 3
    with RunCheckpoints(folder, keep=1, clean=True) as training:
        training.save(4, {"params": jnp.ones(2)}, {})
        training.wait()
        assert training.steps() == [1, 2, 3, 4]
    assert str(metrics) in caplog.text


def test_metrics_that_were_added_to_a_step_are_refused(tmp_path: Path) -> None:
    with RunCheckpoints(tmp_path / "c", keep=2, clean=True) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {"params": jnp.ones(2)}, {})
    metrics_of(tmp_path / "c", 1).parent.mkdir()
    metrics_of(tmp_path / "c", 1).write_text('{"loss": 0.1}')
    with RunCheckpoints(tmp_path / "c") as checkpoints:
        with pytest.raises(InputError, match=str(metrics_of(tmp_path / "c", 1))):
            checkpoints.best()
        with pytest.raises(InputError, match=str(metrics_of(tmp_path / "c", 1))):
            checkpoints.restore_params(1)
