"""Ends the processes of a job with a sentence when one of them fails or dies.

Left to itself jax waits for a dead process, then aborts the others with a C++ stack. It takes no function of ours: in
jaxlib 0.10.2 `missed_heartbeat_callback` aborts too, as the status that it passes has no Python type (std::bad_cast).
So each process gives a sign of life through the job's coordinator, which process 0 watches. What ends with process 0 is
the coordinator itself: jax then aborts the others at once, and nothing here can prevent it.
"""

import os
import re
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import jax
import orbax.checkpoint as ocp

from ctx_jax.distributed import processes
from ctx_jax.io.errors import CtxJaxError

SECONDS = 5.0  # between two signs of life
MISSED = 36  # signs of life until a process counts as dead: a stalled disk may stop Python for a while

_ALIVE, _FAILED, _ENDED = "ctx_jax/alive/", "ctx_jax/failed/", "ended"
_UNREACHABLE = re.compile("gloo|nccl|unavailable|deadline_exceeded|connection|coordination|heartbeat", re.IGNORECASE)


@contextmanager
def watching() -> Iterator[None]:
    """While the block runs, the failure or death of another process of the job ends this one, with an error.

    Does nothing in a job of one process.
    """
    if jax.process_count() == 1:
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_watch, args=(ended,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def ending_others() -> Iterator[None]:
    """An exception in the block ends the whole job: this process says why, and the others name it.

    At the exit of a process jax would wait for the others, which wait for this one. So the process ends here, unless
    all of them raise (`processes.stop_together`), or it is alone.
    """
    try:
        yield
    except BaseException as error:
        if jax.process_count() == 1 or processes.has_stopped_together():
            raise
        with suppress(jax.errors.JaxRuntimeError):  # the coordinator has ended, or counts this process as dead
            client = ocp.multihost.get_jax_distributed_client()
            client.key_value_set(f"{_FAILED}{jax.process_index()}", type(error).__name__)
        if isinstance(error, jax.errors.JaxRuntimeError) and _UNREACHABLE.search(str(error)):
            message = (
                "another process of the job has ended, or cannot be reached: its own output, or the log of its "
                f"machine, says why. The same command resumes from the last checkpoint ({str(error).splitlines()[0]})"
            )
        elif isinstance(error, CtxJaxError):
            message = str(error)
        else:
            traceback.print_exception(error)
            message = "this process stops, and the others of the job with it"
        _leave(message)


def _watch(ended: threading.Event) -> None:
    client, process = ocp.multihost.get_jax_distributed_client(), jax.process_index()
    signs, missed, number = dict[str, str](), Counter[str](), 0
    others = [f"{_ALIVE}{other}" for other in range(jax.process_count()) if other != process]
    while not ended.wait(SECONDS):
        number += 1
        try:
            client.key_value_set(f"{_ALIVE}{process}", str(number), allow_overwrite=True)
            failed = [name.removeprefix(_FAILED) for name, _ in client.key_value_dir_get(_FAILED)]
            now = dict(client.key_value_dir_get(_ALIVE)) if process == 0 else {}
        except jax.errors.JaxRuntimeError:  # the coordinator has ended, and jax aborts
            return
        if failed and str(process) not in failed:
            _leave(f"process {failed[0]} of the job has failed: its own output says why")
        for other in others if process == 0 else ():
            same = now.get(other) != _ENDED and now.get(other) == signs.get(other)
            missed[other] = missed[other] + 1 if same else 0
            if missed[other] >= MISSED:
                dead = other.removeprefix(_ALIVE)
                client.key_value_set(f"{_FAILED}{dead}", "died")
                _leave(
                    f"process {dead} of the job has died: no sign of life for {MISSED * SECONDS:.0f} s. Its own "
                    "output, or the log of its machine, says why. The same command resumes from the last checkpoint"
                )
        signs = now
    with suppress(jax.errors.JaxRuntimeError):
        client.key_value_set(f"{_ALIVE}{process}", _ENDED, allow_overwrite=True)


def _leave(message: str) -> NoReturn:
    """End this process without jax's shutdown; process 0, which holds the coordinator, after the others have read."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    if jax.process_index() == 0:
        time.sleep(2 * SECONDS)
    sys.stdout.flush()
    os._exit(1)
