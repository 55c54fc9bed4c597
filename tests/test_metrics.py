"""What a run reports: metrics.jsonl across a resume, TensorBoard's files, the peaks of devices."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ctx_jax.io.errors import RunError
from ctx_jax.training.metrics import Display, MetricsLog, cut_after, peak_flops


def test_cutting_keeps_whole_lines_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    kept = '{"step":1, "split": "train"}\n{"step": 2, "split": "valid"}\n'
    path.write_text(kept + '{"step": 3, "split": "train"}\n{"step": 2, "split": "tr')
    cut_after(path, 2)
    assert path.read_text() == kept


def test_lines_that_no_run_wrote_do_not_block_a_resume(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    kept = b'{"step": 1, "split": "train"}\n'
    wrong = (
        b'{"step": "2", "split": "train"}',
        b"[]",
        b"\xff",
        b'{"step": true, "split": "train"}',
        b'{"step": 1}',
        b"",
    )
    for line in (*wrong, b'{"step": ' + b"9" * 5000 + b"}", b"[" * 5000):
        path.write_bytes(kept + line + b"\n" + kept)
        cut_after(path, 2)
        assert path.read_bytes() == kept + kept
    assert f"{path}: 1 damaged" in caplog.text and "line 2" in caplog.text


def test_a_removed_file_is_begun_again_and_a_removed_directory_is_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    with MetricsLog(run_dir, 0) as log:
        for step in (1, 2, 3):
            log.write(step, "train", {"loss": 1.0})
            if step == 1:
                log.path.unlink()
        assert [json.loads(line)["step"] for line in log.path.read_text().splitlines()] == [2, 3]
        assert caplog.text.count(str(log.path)) == 1
        shutil.rmtree(run_dir)
        with pytest.raises(RunError, match=str(run_dir)):
            log.write(4, "train", {"loss": 1.0})
    assert not run_dir.exists()


@pytest.mark.slow
def test_whoever_stops_reading_does_not_stop_the_run() -> None:
    code = (
        "from ctx_jax.training.metrics import print_line\nfor _ in range(3): print_line('x')\nopen(2, 'w').write('on')"
    )
    reader, writer = os.pipe()
    os.close(reader)
    try:
        run = subprocess.run(
            [sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, check=False, text=True
        )
    finally:
        os.close(writer)
    assert (run.returncode, run.stderr) == (0, "on")


def test_on_a_terminal_a_bar_shows_steps_numbers_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TTY_COMPATIBLE", "1")
        patch.setenv("COLUMNS", "120")
        with Display(4, 1) as display:
            display.advance(2)
            display.show(2, "train", {"loss": 1.5, "perplexity": 4.25, "tokens_per_second": 1234.0})
            display.log("a line of its own")
            display.show(2, "valid", {"loss": 1.25})
    printed = capsys.readouterr().out
    for part in ("2/4", "loss 1.5000  perplexity 4.25  1,234 tokens/s", "a line of its own\n", "valid  loss 1.2500"):
        assert part in printed


def test_a_number_that_json_has_no_word_for_is_null(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, 0) as log:
        log.write(1, "train", {"loss": 800.0, "perplexity": math.inf})
    assert (tmp_path / "metrics.jsonl").read_text() == (
        '{"step": 1, "split": "train", "loss": 800.0, "perplexity": null}\n'
    )


def test_tensorboard_without_its_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ModuleNotFoundError, match=r"ctx-jax\[tensorboard\]"):
        MetricsLog(tmp_path, 0, tensorboard=True)


def test_tensorboard_gets_the_numbers_of_metrics_jsonl_and_a_resume_withdraws_later_ones(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboardX.proto.event_pb2", reason="needs the [test] extra's tensorboardX")
    for first in (0, 3):  # a run stopped after step 4, gone on with from step 3
        with MetricsLog(tmp_path, first, tensorboard=True) as log:
            log.write(first + 1, "train", {"loss": 2.5})
            log.write(first + 1, "valid", {"loss": 2.25, "perplexity": 9.5})
    seen = []
    withdrawn = []
    for path in sorted((tmp_path / "tensorboard").iterdir()):
        rest = path.read_bytes()
        while rest:  # TFRecord: a length of 8 bytes, its checksum of 4, the event, its checksum of 4
            size = int.from_bytes(rest[:8], "little")
            event = events.Event.FromString(rest[12 : 12 + size])
            rest = rest[16 + size :]
            withdrawn += [event.step] if event.session_log.status == event.session_log.START else []
            seen += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    assert withdrawn == [1, 4]
    numbers = [("train/loss", 2.5), ("valid/loss", 2.25), ("valid/perplexity", 9.5)]
    assert seen == [(step, name, value) for step in (1, 4) for name, value in numbers]


@pytest.mark.parametrize(
    "kind, low, full",
    [
        ("NVIDIA H100 80GB HBM3", 989e12, 67e12),
        ("NVIDIA H100 PCIe", 756e12, 51e12),
        ("NVIDIA A100-SXM4-80GB", 312e12, 19.5e12),
        ("NVIDIA L4", 121e12, 30.3e12),
        ("NVIDIA L40", 181e12, 90.5e12),
        ("NVIDIA L40S", 362e12, 91.6e12),
        ("TPU v5 lite", 197e12, None),
        ("TPU v5", 459e12, None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None, None),
        ("NVIDIA GH200 480GB", None, None),
        ("cpu", None, None),
    ],
)
def test_peaks_are_those_of_the_kind_and_the_precision(kind: str, low: float | None, full: float | None) -> None:
    assert (peak_flops(kind, "bfloat16"), peak_flops(kind, "float32")) == (low, full)
