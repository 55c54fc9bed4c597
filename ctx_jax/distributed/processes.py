"""Where the processes of a job meet: they wait for each other, and learn what the others found or that one stopped.

All of it goes through the job's coordinator, none through the devices: a meeting of those gives up after half a minute
on CPUs, and crashes where two processes have different numbers of them.
"""

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import orbax.checkpoint as ocp

from ctx_jax.io.errors import RunError

WAITING_HOURS = 24.0  # for a first host that reads a text, counts its words, trains a tokenizer
_MEETINGS = itertools.count()
_GIVEN, _STOPPED = "given ", "stopped"
_regions = 0  # of `stopping_all`, one within the other


class OtherStopped(RunError):
    """Another process of the job has raised, and says why in its own output."""


def wait_for_all(name: str, *, seconds: int) -> None:
    """Go on when every process of the job is here; `name` is of this one meeting. RuntimeError after `seconds`."""
    ocp.multihost.get_barrier_sync_fn()(key=f"ctx_jax_{name}", timeout_ms=1000 * seconds)


def everyones(text: str) -> list[str]:
    """What each process of the job gives here, in the order of the processes; who comes early waits.

    Every process has to call it, from the thread that trains. OtherStopped where one raised instead (`stopping_all`).
    """
    if jax.process_count() == 1:
        return [text]
    client, meeting = ocp.multihost.get_jax_distributed_client(), next(_MEETINGS)
    _say(meeting, _GIVEN + text)
    told = [
        client.blocking_key_value_get(_key(meeting, process), round(WAITING_HOURS * 3_600_000))
        for process in range(jax.process_count())
    ]
    if _STOPPED in told:
        raise OtherStopped(f"process {told.index(_STOPPED)} of the job has stopped: its own message says why")
    return [one.removeprefix(_GIVEN) for one in told]


def _say(meeting: int, what: str) -> None:
    ocp.multihost.get_jax_distributed_client().key_value_set(_key(meeting, jax.process_index()), what)


def _key(meeting: int, process: int) -> str:
    return f"ctx_jax/meeting_{meeting}/{process}"


def first_hosts(numbers: dict[str, float]) -> dict[str, float]:
    """The first host's numbers, on every host: what all decide on must not differ in the last digit.

    Every host has to call it; who comes early waits.
    """
    first: dict[str, float] = json.loads(everyones(json.dumps(numbers))[0])  # exact: as many digits as it takes
    return first


@contextmanager
def stopping_all() -> Iterator[None]:
    """What one process raises in here stops all of them, at their next meeting; the last one is at the end.

    A process that ends alone would leave the others waiting. Who waits in here for devices instead is not told: jax's
    heartbeat ends it.
    """
    global _regions
    _regions += 1
    try:
        yield
    except OtherStopped:
        raise
    except BaseException:
        if _regions == 1 and jax.process_count() > 1:  # else the region around this one says it
            _say(next(_MEETINGS), _STOPPED)
        raise
    finally:
        _regions -= 1
    everyones("")


def on_first_host(act: Callable[[], object]) -> None:
    """Act on the first host alone while the others wait; what it raises stops them all."""
    with stopping_all():
        if jax.process_index() == 0:
            act()
