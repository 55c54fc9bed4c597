"""Sides of one comparison, run in turns in one process, and what machine they ran on."""

import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import jax
import jax.numpy as jnp

from ctx_jax.training.metrics import peak_flops


@dataclass
class Side:
    """One contender: `call` does one batch and waits for its result."""

    call: Callable[[], object]
    tokens: int  # real tokens of one call
    flops: float = 0.0  # of one call, as the network is defined: shortcuts do not lower it
    sentences: int = 0  # of one call; 0: its tokens alone are counted
    seconds: list[float] = field(default_factory=list)  # per call, one entry a round

    @property
    def rate(self) -> float:
        """Real tokens per second, the median over the rounds."""
        return self.tokens / statistics.median(self.seconds)


def alternate(sides: Mapping[str, Side], rounds: int, minimum: float, least: int = 3) -> None:
    """Fill `seconds` of every side: in each round every side runs for at least `minimum` seconds and `least` calls.

    The first round's warm-up compiles; before each later measurement one call goes untimed, so that threads of the
    other framework that still spin and caches that hold the other's weights cost no side.
    """
    for _ in range(rounds):
        for side in sides.values():
            side.call()
            start, calls = time.perf_counter(), 0
            while calls < least or time.perf_counter() - start < minimum:
                side.call()
                calls += 1
            side.seconds.append((time.perf_counter() - start) / calls)


def table(title: str, sides: Mapping[str, Side], against: tuple[str, ...], peaks: Mapping[str, float]) -> list[str]:
    """A Markdown table: tokens/s of each side, spread, ratio to each of `against` (median of the rounds' ratios)."""
    present = [name for name in against if name in sides]
    sentences = any(side.sentences for side in sides.values())
    heads = [
        "side",
        *(["sentences/s"] if sentences else []),
        "tokens/s",
        "ms a call",
        "spread",
        "GFLOP/s",
        "share of peak",
        *(f"x {name}" for name in present),
    ]
    lines = ["", f"### {title}", "", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name, side in sides.items():
        spread = (max(side.seconds) - min(side.seconds)) / statistics.median(side.seconds)
        work = side.flops / side.tokens * side.rate
        peak = peaks.get("bfloat16" if "bf16" in name else "int8" if "int8" in name else "float32")
        count = [f"{side.rate * side.sentences / side.tokens:,.1f}"] if sentences else []
        cells = [name, *count, f"{side.rate:,.0f}", f"{statistics.median(side.seconds) * 1e3:,.1f}", f"{spread:.0%}"]
        cells += [f"{work / 1e9:,.0f}" if work else "-", f"{work / peak:.1%}" if work and peak else "-"]
        for other in present:
            ratios = [theirs / ours for ours, theirs in zip(side.seconds, sides[other].seconds, strict=True)]
            cells.append(f"{statistics.median(ratios) * side.tokens / sides[other].tokens:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def machine(gpu: bool) -> str:
    """Name, cores and the instructions that decide a CPU's speed in bf16; the GPU's name and driver."""
    if gpu:
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    information = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"model name\s*:\s*(.*)", information)
    flags = sorted(set(re.findall(r"\b(avx2|avx512f|avx512_bf16|amx_bf16)\b", information)))
    return f"{name[1] if name else platform.processor()}, {os.cpu_count()} cores, {' '.join(flags) or 'flags unknown'}"


def peaks(gpu: bool) -> dict[str, float]:
    """FLOP/s by operand type: of the data sheet on a GPU we know, else those of a 2048-wide product measured now."""
    if gpu:
        kind = jax.devices("gpu")[0].device_kind
        sheet = {"bfloat16": peak_flops(kind, "bfloat16"), "float32": peak_flops(kind, "float32")}
        return {name: peak for name, peak in sheet.items() if peak is not None}
    measured = {}
    for dtype in (jnp.bfloat16, jnp.float32):
        matrix = jnp.ones((2048, 2048), dtype)
        product = jax.jit(lambda a: jnp.dot(a, a, preferred_element_type=jnp.float32))
        product(matrix).block_until_ready()
        times = []
        for _ in range(5):
            start = time.perf_counter()
            product(matrix).block_until_ready()
            times.append(time.perf_counter() - start)
        measured[jnp.dtype(dtype).name] = 2 * 2048**3 / min(times)
    return measured
