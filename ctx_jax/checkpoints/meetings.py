"""Where the processes of a job meet: they wait for each other, and take what the first one found or why it stopped."""

import itertools
from collections.abc import Callable

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

WAITING_HOURS = 24.0  # for a first host that reads a text, counts its words, trains a tokenizer
_MEETINGS = itertools.count()


def wait_for_all(name: str, *, hours: float) -> None:
    """Go on when every process of the job has come here; `name` is of this one meeting. RuntimeError after `hours`.

    A meeting at the coordinator: one of the devices gives up after half a minute on CPUs.
    """
    ocp.multihost.get_barrier_sync_fn()(key=f"ctx_jax_{name}", timeout_ms=round(hours * 3_600_000))


def first_hosts(numbers: dict[str, float]) -> dict[str, float]:
    """The first host's numbers, on every host: what all decide on must not differ in the last digit.

    Every host has to call it, with the same names; who comes early waits.
    """
    if jax.process_count() == 1:
        return numbers
    wait_for_all(f"numbers_{next(_MEETINGS)}", hours=WAITING_HOURS)
    # As bytes, since jax would round to float32.
    mine = np.array(list(numbers.values()), np.float64).view(np.uint8)
    theirs = np.asarray(multihost_utils.broadcast_one_to_all(mine)).view(np.float64)
    return dict(zip(numbers, theirs.tolist(), strict=True))


def raise_everywhere(refused: Exception | None) -> None:
    """Raise what the first host gives, on every host: one that ends alone would leave the others waiting."""
    if first_hosts({"refused": float(refused is not None)})["refused"]:
        raise refused or RuntimeError("the first host of the job has stopped: its own message says why")


def on_first_host(act: Callable[[], object]) -> None:
    """Act on the first host alone while the others wait; what it raises stops them all."""
    refused: Exception | None = None
    if jax.process_index() == 0:
        try:
            act()
        except Exception as error:
            refused = error
    raise_everywhere(refused)
