"""What the processes of a job must agree on before any of them begins: settings, devices, and one disk.

A process with another seed would train something else without a word; one with other steps, devices or disk would
leave the rest waiting.
"""

import json
import os
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import jax

from ctx_jax.distributed.processes import everyones, on_first_host
from ctx_jax.io import configs
from ctx_jax.io.errors import DiskError, InputError
from ctx_jax.training.config import TrainConfig

PATIENCE = 90.0  # seconds in which a shared disk must show what another host wrote: NFS keeps names for up to 60


def check_same(config: TrainConfig) -> None:
    """ValueError, on all of them, unless the job's processes have the same settings and as many devices each.

    Their run directories may have different names: `check_disk` asks whether they are one.
    """
    mine = (configs.to_json(replace(config, run_dir="")), jax.local_device_count())
    theirs = [json.loads(one) for one in everyones(json.dumps(mine))]
    refused = difference([(configs.from_json([TrainConfig], one), count) for one, count in theirs])
    if refused is not None:
        raise InputError(f"the processes of a job need the same settings and devices: {refused}. Start all of them so")


def difference(processes: Sequence[tuple[TrainConfig, int]]) -> str | None:
    """Who differs from process 0, and in what first, of (config, number of devices) of each process; None: nobody."""
    config, count = processes[0]
    for number, (other, its_count) in enumerate(processes):
        for name, before, after in configs.differences(config, other)[:1]:
            return f"{name} is {before!r} for process 0 and {after!r} for process {number}"
        if its_count != count:
            return f"process 0 has {count} devices and process {number} has {its_count}"
    return None


def check_disk(run_dir: Path) -> None:
    """OSError, on all of them, unless every process sees this run directory and can write to its `checkpoints/`.

    The first host must hold the directory's lock.
    """
    mark = f".job-{secrets.token_hex(8)}"  # a name that no other run directory holds

    def put_mark() -> None:
        (run_dir / "checkpoints").mkdir(exist_ok=True)
        for left in run_dir.glob(".job-" + "[0-9a-f]" * 16):  # by one that was killed in here
            left.unlink()
        (run_dir / mark).touch()

    on_first_host(put_mark)
    mark = everyones(mark)[0]
    found = everyones(trouble(run_dir, mark, jax.process_index(), PATIENCE))
    on_first_host((run_dir / mark).unlink)
    for process, what in enumerate(found):
        if what:
            raise DiskError(f"process {process} {what}")


def trouble(run_dir: Path, mark: str, process: int, patience: float) -> str:
    """What keeps a process from using the run directory, in which the first host made a file `mark`; "": nothing."""
    until = time.monotonic() + patience
    while not os.path.exists(run_dir / mark):  # noqa: PTH110 (False also where the folder may not be read)
        if time.monotonic() > until:
            return (
                f"does not see the run directory of the first one in {run_dir}: --run-dir must be on a disk they share"
            )
        time.sleep(0.1)
    probe = run_dir / "checkpoints" / f".probe-{process}"
    try:
        probe.write_bytes(bytes(4096))
        probe.unlink()
    except OSError as error:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
        why = f"{probe.parent} ({error.strerror})"
        return f"cannot write its part of a checkpoint to {why}: see to that, or set another --run-dir"
    return ""
