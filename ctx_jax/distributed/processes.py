"""The processes of a job: how they join, wait for each other, exchange values, agree on settings and stop together.

The exchange goes through the job's coordinator, not through the devices: a collective on CPUs gives up after half a
minute, and crashes if two processes have different numbers of devices.
"""

import itertools
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from ctx_jax.io import compilation_cache, configs
from ctx_jax.io.errors import DiskError, InputError, RunError

WAITING_HOURS = 24.0  # while the first process reads a corpus, counts its words, trains a tokenizer
DISK_SECONDS = 90.0  # in which a shared disk must show a file of another process: NFS caches names for up to 60

_EXCHANGE, _EXCHANGES = "ctx_jax/exchange_", itertools.count()
_STOPPED = "stopped"  # no JSON
_regions = 0  # nested `stop_together` blocks
_has_stopped = False

HEARTBEAT_SECONDS = 300  # jax's abort of all processes when one is silent; `watch` ends them before that

Value = TypeVar("Value")


class OtherProcessStopped(RunError):
    """Another process of the job has raised; its own output has the error."""


def join() -> None:
    """Join the job's other processes, before anything else uses jax. Does nothing if this process has joined.

    On TPU pods, Slurm and Kubernetes jax finds coordinator and process numbers itself; elsewhere they come from
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.
    """
    if not jax.distributed.is_initialized():
        compilation_cache.disable_default()
        count, number = os.environ.get("JAX_NUM_PROCESSES"), os.environ.get("JAX_PROCESS_ID")
        jax.distributed.initialize(
            num_processes=None if count is None else int(count),
            process_id=None if number is None else int(number),
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )


def is_first_process() -> bool:
    """Whether this is process 0, which logs and writes the metrics."""
    return jax.process_index() == 0


def barrier(name: str, *, seconds: int) -> None:
    """Wait until every process of the job is here. `name` must be used once. RuntimeError after `seconds`."""
    ocp.multihost.get_barrier_sync_fn()(key=f"ctx_jax_{name}", timeout_ms=1000 * seconds)


def gather(value: Value) -> list[Value]:
    """The values that the processes pass, any that JSON holds, in the order of the processes; waits for all of them.

    Every process must call it, from its main thread. OtherProcessStopped if one raised instead (`stop_together`).
    """
    if jax.process_count() == 1:
        return [value]
    client, exchange = ocp.multihost.get_jax_distributed_client(), next(_EXCHANGES)
    _publish(exchange, json.dumps(value))
    texts = [
        client.blocking_key_value_get(f"{_EXCHANGE}{exchange}/{process}", round(WAITING_HOURS * 3_600_000))
        for process in range(jax.process_count())
    ]
    if _STOPPED in texts:
        raise OtherProcessStopped(f"process {texts.index(_STOPPED)} of the job has stopped: its own output says why")
    return [json.loads(text) for text in texts]


def _publish(exchange: int, text: str) -> None:
    client = ocp.multihost.get_jax_distributed_client()
    client.key_value_set(f"{_EXCHANGE}{exchange}/{jax.process_index()}", text)


def broadcast(value: Value) -> Value:
    """Process 0's value on every process, so that decisions based on it agree. Called and raises as `gather`."""
    return gather(value)[0]


@contextmanager
def stop_together() -> Iterator[None]:
    """An exception on any process inside the block stops every process, at its next exchange or at the block's end.

    A process that ended alone would leave the others waiting. A process that waits for devices instead is ended by
    `watch`.
    """
    global _regions, _has_stopped
    _regions += 1
    try:
        yield
    except OtherProcessStopped:
        _has_stopped = True
        raise
    except BaseException:
        _has_stopped = True
        if _regions == 1 and jax.process_count() > 1:  # else the outer block publishes it
            _publish(next(_EXCHANGES), _STOPPED)
        raise
    finally:
        _regions -= 1
    gather(None)


def own_share(items: Sequence[Value]) -> Sequence[Value]:
    """Every n-th of `items`, n processes: each process gets its own."""
    return items[jax.process_index() :: jax.process_count()]


def on_first_process(act: Callable[[], object]) -> None:
    """Call `act` on process 0 while the others wait; an exception stops all of them."""
    with stop_together():
        if is_first_process():
            act()


def has_stopped_together() -> bool:
    """Whether an exception has left a `stop_together` block of this process, so that the others stop as well."""
    return _has_stopped


def first_process_first(make: Callable[[], Value]) -> Value:
    """The value of `make()`, called on process 0 and then, when it has prepared the shared files, on the others.

    An exception on any process stops all of them.
    """
    made: list[Value] = []
    with stop_together():
        if is_first_process():
            made.append(make())
    with stop_together():
        return made[0] if made else make()


def stop_requested(step: int) -> bool:
    """Whether any process of the job has received SIGTERM; all must ask at every step, and get the same answer.

    False in a job of one process, which has its own signal handler.
    """
    return jax.process_count() > 1 and bool(multihost_utils.reached_preemption_sync_point(step))


def check_same(config: Any) -> None:
    """InputError, on all processes, unless they have equal configs and as many devices each.

    A process with another seed would silently train something else; one with other steps or devices would leave the
    rest waiting. `run_dir` may differ: `check_disk` compares it.
    """
    processes = gather((configs.to_json(config), jax.local_device_count()))
    if difference := first_difference(processes, ignore=["run_dir"]):
        raise InputError(f"the processes of a job need the same settings and devices: {difference}")


def first_difference(processes: Sequence[tuple[Any, int]], ignore: Sequence[str] = ()) -> str | None:
    """The first setting or number of devices that differs from process 0's, of each process's (config, devices).

    Configs may be dataclasses or their JSON.
    """
    config, count = processes[0]
    for process, (its_config, its_count) in enumerate(processes):
        for field, first, other in configs.differences(config, its_config):
            if field not in ignore:
                return f"{field} is {first!r} for process 0 and {other!r} for process {process}"
        if its_count != count:
            return f"process 0 has {count} devices and process {process} has {its_count}"
    return None


def check_disk(run_dir: Path) -> None:
    """DiskError, on all processes, unless each sees this run directory and can write to its `checkpoints/`.

    Process 0 must hold the directory's lock.
    """
    mark = f".job-{secrets.token_hex(8)}"  # a name that no other run directory holds

    def put_mark() -> None:
        (run_dir / "checkpoints").mkdir(exist_ok=True)
        for left in run_dir.glob(".job-" + "[0-9a-f]" * 16):  # of killed processes
            left.unlink()
        (run_dir / mark).touch()

    on_first_process(put_mark)
    mark = broadcast(mark)
    problems = gather(disk_problem(run_dir, mark, jax.process_index(), DISK_SECONDS))
    on_first_process((run_dir / mark).unlink)
    for process, problem in enumerate(problems):
        if problem:
            raise DiskError(f"process {process} {problem}")


def disk_problem(run_dir: Path, mark: str, process: int, seconds: float) -> str:
    """Why a process cannot use the run directory, in which process 0 made a file `mark`; "" if it can."""
    until = time.monotonic() + seconds
    while not os.path.exists(run_dir / mark):  # noqa: PTH110 (False also if the folder may not be read)
        if time.monotonic() > until:
            return f"does not see process 0's run directory in {run_dir}: set run_dir to a disk that all of them share"
        time.sleep(0.1)
    probe = run_dir / "checkpoints" / f".probe-{process}"
    try:
        probe.write_bytes(bytes(4096))
        probe.unlink()
    except OSError as error:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
        return f"cannot write checkpoints to {probe.parent} ({error.strerror}): allow it, or set another run_dir"
    return ""
