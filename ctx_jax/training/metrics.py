"""Reporting of a run: metrics.jsonl, TensorBoard, the progress bar, tokens per second."""

import json
import logging
import math
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ctx_jax.checkpoints.run_files import METRICS
from ctx_jax.io.errors import MissingPackageError, RunError
from ctx_jax.io.files import atomic_write, is_same, naming_full_disk
from ctx_jax.ops.linear import Compute

Metrics = dict[str, float]

LOGGER = logging.getLogger("ctx_jax")

# Kind of device -> dense FLOP/s from the vendors' data sheets: in bfloat16, and in float32 without TF32 (which
# compute="float32" does not use). None: TPUs have no native float32 products, and data sheets of the B200 disagree.
PEAKS: dict[str, tuple[float, float | None]] = {
    "B200": (2250e12, None),
    "H200": (989e12, 67e12),
    "H200 NVL": (835e12, 60e12),
    "H100": (989e12, 67e12),
    "H100 NVL": (835e12, 60e12),
    "H100 PCIe": (756e12, 51e12),
    "A100": (312e12, 19.5e12),
    "L40S": (362e12, 91.6e12),
    "L40": (181e12, 90.5e12),
    "L4": (121e12, 30.3e12),
    "TPU v4": (275e12, None),
    "TPU v5 lite": (197e12, None),
    "TPU v5p": (459e12, None),
    "TPU v5": (459e12, None),
    "TPU v6 lite": (918e12, None),
}


def peak_flops(kind: str, compute: Compute) -> float | None:
    """The peak FLOP/s of a kind of device (`jax.Device.device_kind`) in a precision; None if unknown, as for MIG.

    Whole words of the name must match, and the longest match counts: "NVIDIA L40" is no L4, "TPU v5 lite" no v5.
    """
    words = set(re.findall(r"\w+", kind))
    fitting = [name for name in PEAKS if words.issuperset(name.split())]
    if not fitting or "MIG" in words:
        return None
    low, full = PEAKS[max(fitting, key=lambda name: len(name.split()))]
    return low if compute == "bfloat16" else full


def cut_after(path: Path, step: int) -> None:
    """Remove incomplete lines and those of steps after `step` from a metrics.jsonl: a resumed run writes them again.

    The other lines keep their bytes. The file is replaced atomically; a missing file stays missing. A warning tells of
    lines that no run wrote, besides the last one, which a killed process leaves incomplete.
    """
    if not path.is_file():
        return
    lines = path.read_bytes().split(b"\n")
    steps = [_step_of(line) for line in lines[:-1]]
    if damaged := [number for number, found in enumerate(steps, start=1) if found is None]:
        LOGGER.warning("%s: %d damaged lines are removed, the first is line %d", path, len(damaged), damaged[0])
    kept = [line for line, found in zip(lines, steps, strict=False) if found is not None and found <= step]
    atomic_write(path, b"".join(line + b"\n" for line in kept).decode())


def _step_of(line: bytes) -> int | None:
    """The step of a line of metrics.jsonl; None if no run wrote it."""
    try:
        found = json.loads(line.decode())
        return found["step"] if type(found["step"]) is int and type(found["split"]) is str else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


class MetricsLog:
    """Writes metrics.jsonl line by line and, if asked to, TensorBoard files."""

    def __init__(self, run_dir: Path, step: int, *, tensorboard: bool = False) -> None:
        """`step`: the run continues after it, and later lines are removed. MissingPackageError without tensorboardX."""
        self.path = run_dir / METRICS
        cut_after(self.path, step or -1)  # a run that begins writes its numbers of step 0 again
        self._file = self.path.open("a", encoding="utf-8")
        self._board: Any = None
        if tensorboard:
            try:
                from tensorboardX import SummaryWriter
            except ModuleNotFoundError as error:
                raise MissingPackageError(
                    "log.tensorboard needs tensorboardX: pip install 'ctx-jax[tensorboard]'"
                ) from error
            # Its files are named by the second: without the suffix, a quick restart would overwrite the previous file.
            suffix = f".from-{step}"
            self._board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=step + 1, filename_suffix=suffix)

    def write(self, step: int, split: str, metrics: Metrics) -> None:
        """Write one object: step, split, then the metrics, with null for values that are not finite.

        Continues in a new file if this one was removed or replaced; RunError if the directory was removed.
        """
        if not is_same(self.path, os.fstat(self._file.fileno())):
            if not self.path.parent.is_dir():
                raise RunError(f"{self.path.parent} was removed while the run wrote to it")
            LOGGER.warning("%s was removed or replaced: what it holds now is kept, and written on", self.path)
            self._file.close()
            self._file = self.path.open("a", encoding="utf-8")
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        with naming_full_disk(self.path):
            self._file.write(json.dumps({"step": step, "split": split, **finite}, allow_nan=False) + "\n")
            self._file.flush()  # so that the line survives if the process is killed
        if self._board is not None:
            for name, value in metrics.items():
                self._board.add_scalar(f"{split}/{name}", value, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        with suppress(OSError) if error is not None else nullcontext():  # closing would fail on the same line again
            self._file.close()
        if self._board is not None:
            self._board.close()


class Speed:
    """Tokens per second between two lines, without the time of evaluations and checkpoints."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Start a new interval."""
        self._since, self._tokens = time.perf_counter(), 0

    def count(self, tokens: int) -> None:
        """Add the tokens of a batch."""
        self._tokens += tokens

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent in here does not count."""
        before = time.perf_counter()
        try:
            yield
        finally:
            self._since += time.perf_counter() - before

    def rate(self) -> float:
        """Tokens per second since the last `restart`."""
        return self._tokens / max(time.perf_counter() - self._since, 1e-9)


def print_line(text: str) -> None:
    """Print a line. If that fails (a closed pipe, a full disk), later output is discarded and the run continues."""
    try:
        print(text, flush=True)
    except OSError:
        discard_stdout()


def discard_stdout() -> None:
    """Send standard output to the null device: else flushing its buffer fails again when the interpreter exits."""
    with suppress(OSError), Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


class Display:
    """A progress bar on a terminal, plain lines elsewhere, nothing if not `shown`."""

    def __init__(self, steps: int, step: int, *, shown: bool = True) -> None:
        self._steps, self._shown = steps, shown
        console = Console()
        self._bar: Progress | None = None
        if shown and console.is_terminal:
            self._bar = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[numbers]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._bar.add_task("training", total=steps, completed=step, numbers="")
        self._began, self._first = time.perf_counter(), step

    def log(self, text: str) -> None:
        """Show a line."""
        if self._bar is not None:
            with suppress(OSError):
                self._bar.console.print(text, markup=False, highlight=False)
        elif self._shown:
            print_line(text)

    def advance(self, step: int) -> None:
        """Show that step `step` is done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def show(self, step: int, split: str, metrics: Metrics) -> None:
        """Show metrics that were written to metrics.jsonl."""
        numbers = f"loss {metrics['loss']:.4f}"
        if "perplexity" in metrics:
            numbers += f"  perplexity {metrics['perplexity']:,.2f}"
        shares = ("accuracy", "generator_accuracy", "discriminator_accuracy", "replaced_recall", "f1", "recall_at_1")
        others = ("matthews", "pearson", "spearman", "mrr")
        numbers += "".join(f"  {name} {metrics[name]:.2%}" for name in shares if name in metrics)
        numbers += "".join(f"  {name} {metrics[name]:.4f}" for name in others if name in metrics)
        if "tokens_per_second" in metrics:
            numbers += f"  {metrics['tokens_per_second']:,.0f} tokens/s"
        if self._bar is not None and split == "train":
            self._bar.update(self._task, numbers=numbers)
            return
        left = (time.perf_counter() - self._began) / max(step - self._first, 1) * (self._steps - step)
        clock = f"  {int(left) // 60}:{int(left) % 60:02d} left" if split == "train" else ""
        self.log(f"step {step}/{self._steps}  {split}  {numbers}{clock}")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()
