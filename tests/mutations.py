"""Damaged files: seeded mutations of a folder's files, and what a reader makes of them.

A `Case` is a reader: how to write a whole folder, which of its files is damaged, how it is loaded. `examine` damages
the file by a seed and loads it; what it returns must be one of `GOOD`. A whole run is made in a process of its own,
which may crash, hang or fill the memory:

    python tests/mutations.py huggingface-config --count 2000

The readers are in `mutation_cases.py`.
"""

import argparse
import faulthandler
import json
import os
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

GOOD = ("read", "refused")
SECONDS = 10
MEMORY = 2 * 2**30  # bytes that loading may add


class Case(NamedTuple):
    """A reader of one kind of file."""

    name: str
    file: str  # the file that is damaged, in the folder
    make_folder: Callable[[Path], None]
    load: Callable[[Path], Any]
    values: Callable[[Any], Iterable[np.ndarray]] | None = None
    """The numbers of what was loaded, of a file whose damaged bytes can only change the numbers they hold."""


# --- damage -----------------------------------------------------------------------------------------------------------


def mutated(data: bytes, name: str, seed: int) -> bytes:
    """The bytes of a file with one damage, of a kind that fits what the file is."""
    draw = random.Random(f"{name} {seed}")
    if name.endswith(".json") and draw.random() < 0.75:
        return mutated_json(data, draw)
    if name.endswith(".safetensors") and draw.random() < 0.6:
        size = struct.unpack("<Q", data[:8])[0]
        header = mutated_json(data[8 : 8 + size], draw)
        return struct.pack("<Q", len(header)) + header + data[8 + size :]
    if name.endswith(".hdf5") and draw.random() < 0.7:  # what is not numbers lies in the first kilobytes, mostly
        return _mutated_bytes(data[:6000], draw) + data[6000:]
    return _mutated_bytes(data, draw)


def _mutated_bytes(data: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    end = min(len(data), start + draw.choice((1, 8, 64, 1000)))
    changed = bytearray(data)
    match draw.choice(("bit", "bit", "bit", "bits", "cut", "drop", "twice", "zeros", "ones", "noise", "empty")):
        case "bit":
            changed[start] ^= 1 << draw.randrange(8)
        case "bits":
            for _ in range(draw.randrange(2, 20)):
                changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        case "cut":
            del changed[start:]
        case "drop":
            del changed[start:end]
        case "twice":
            changed[start:start] = data[start:end]
        case "zeros":
            changed[start:end] = bytes(end - start)
        case "ones":
            changed[start:end] = b"\xff" * (end - start)
        case "noise":
            changed[start:end] = draw.randbytes(end - start)
        case "empty":
            changed = bytearray(draw.choice((b"", b"\0", b"null", b"{}", b"[]", b'"', b"\xef\xbb\xbf{}")))
    return bytes(changed)


_ODD: tuple[Callable[[Any], str], ...] = (  # JSON in the place of a value
    *(lambda _, text=text: text for text in ("null", "true", "false", "0", "1", "-1", "2.5", "1e999", "-Infinity")),
    *(
        lambda _, text=text: text
        for text in ("NaN", '""', '"x"', "[]", "{}", '{"a": 1}', "[null]", '"\\ud800"', "1e-320")
    ),
    *(lambda _, text=text: text for text in (str(10**9), str(10**20), str(2**31), str(2**63), "1" * 400, "1" * 5001)),
    lambda _: "[" * 3000 + "]" * 3000,
    lambda _: '{"a":' * 900 + "1" + "}" * 900,
    lambda _: '"' + "y" * 100_000 + '"',
    lambda _: "[" + "0," * 300_000 + "0]",
    lambda _: "{" + ",".join(f'"k{n}": 0' for n in range(100_000)) + "}",
    lambda value: json.dumps([value]),
    lambda value: json.dumps(str(value)),
    lambda value: json.dumps({"value": value}),
    lambda value: json.dumps(-value if isinstance(value, int | float) else [value, value]),
    lambda value: json.dumps(value * 2 if isinstance(value, int | float | str | list) else value),
    lambda value: json.dumps(float(value) if isinstance(value, int) else value),
    lambda value: json.dumps(value + 1 if isinstance(value, int | float) else value),
)
_PLACE = "<<<here>>>"


def mutated_json(data: bytes, draw: random.Random) -> bytes:
    """One value replaced, or a key removed, renamed, doubled or added, anywhere in the tree."""
    content = json.loads(data)
    node, keys = content, []
    while isinstance(node, dict | list) and node and (not keys or draw.random() < 0.7):
        keys.append(draw.choice(list(node)) if isinstance(node, dict) else draw.randrange(len(node)))
        node = node[keys[-1]]
    if not keys:
        return draw.choice(_ODD)(content).encode("utf-8", "surrogatepass")
    parent, last = content, keys[-1]
    for key in keys[:-1]:
        parent = parent[key]
    odd = draw.choice(_ODD)(node)
    match draw.choice(("replace", "replace", "replace", "replace", "remove", "rename", "add")):
        case "replace":
            parent[last] = _PLACE
        case "remove":
            del parent[last]
        case "rename" if isinstance(parent, dict):
            parent[draw.choice(("", "x", f"{last}x", "y" * 5000, "\ud800", "../up"))] = parent.pop(last)
        case _:
            if isinstance(parent, dict):
                parent[draw.choice(("x", f"{last}2", "is_causal", "layer.0"))] = _PLACE
            else:
                parent.append(_PLACE)
    return json.dumps(content).replace(json.dumps(_PLACE), odd).encode("utf-8", "surrogatepass")


# --- verdicts ---------------------------------------------------------------------------------------------------------


def examine(case: Case, whole: Path, folder: Path, seed: int) -> str:
    """Damage the file of a copy of `whole` by `seed` and load it: "read", "refused", or what is wrong."""
    from ctx_jax.io.errors import CtxJaxError

    original = (whole / case.file).read_bytes()
    damaged = mutated(original, case.file, seed)
    (folder / case.file).write_bytes(damaged)
    try:
        result = case.load(folder)
    except CtxJaxError as error:
        message = str(error)
        if str(folder) not in message:
            return f"names no file: {message[:200]}"
        return "refused" if len(message) < 20_000 else f"an error of {len(message)} characters"
    except BaseException as error:  # PanicException of a Rust library is no Exception
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"raw {type(error).__name__}: {str(error)[:200]}"
    if case.values is not None and len(damaged) == len(original):
        touched = sum(one != other for one, other in zip(damaged, original, strict=True))
        changed = sum(
            int(np.sum(~np.isclose(ours, theirs, rtol=0, atol=0, equal_nan=True)))
            for ours, theirs in zip(case.values(result), case.values(case.load(whole)), strict=True)
        )
        if changed > touched:
            return f"{touched} bytes changed {changed} numbers"
    return "read"


def work(case: Case, first: int, count: int, report: Callable[[int, str], None]) -> None:
    """Examine the seeds from `first`; a hang ends the process, as a crash does."""
    with tempfile.TemporaryDirectory(prefix="ctx-jax-mutations-") as place:
        whole, folder = Path(place) / "whole", Path(place) / "damaged"
        for each in (whole, folder):
            each.mkdir()
            case.make_folder(each)
        case.load(whole)
        for seed in range(first, first + count):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            verdict = examine(case, whole, folder, seed)
            faulthandler.cancel_dump_traceback_later()
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
            report(seed, verdict if grown < MEMORY else f"took {grown / 2**30:.1f} GB")


def run_whole(name: str, count: int) -> tuple[Counter[str], dict[int, str]]:
    """Counts of the good verdicts, and seed -> what was wrong, of `count` seeds in processes of their own."""
    good: Counter[str] = Counter()
    bad: dict[int, str] = {}
    first = 0
    while first < count:
        command = [sys.executable, __file__, name, "--worker", str(first), "--count", str(count - first)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('["')]
        for _, seed, verdict in lines:
            first = seed + 1
            if verdict in GOOD:
                good[verdict] += 1
            else:
                bad[seed] = verdict
        if done.returncode:
            bad[first] = f"ended by {done.returncode}: {done.stderr[-300:]}"
            first += 1
    return good, bad


def main() -> None:
    from mutation_cases import CASES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="case", help=f"of {', '.join(case.name for case in CASES)}")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--worker", type=int, help="the first seed; prints a line a seed")
    options = parser.parse_args()
    cases = [case for case in CASES if case.name in options.names or not options.names]
    if options.worker is not None:
        work(cases[0], options.worker, options.count, lambda *line: print(json.dumps(["", *line]), flush=True))
        return
    for case in cases:
        start = time.monotonic()
        good, bad = run_whole(case.name, options.count)
        print(case.name, dict(good), f"{len(bad)} bad, {time.monotonic() - start:.0f} s", flush=True)
        for seed, verdict in list(bad.items())[:20]:
            print("  ", seed, verdict.replace("\n", " "), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
