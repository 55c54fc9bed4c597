"""Orbax's CheckpointManager configured for our runs: the entries of a step, processes, timeouts, logging."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import orbax.checkpoint as ocp

STATE, POSITION, METRICS, FILES = "state", "position", "metrics", "files"
SAVE_SECONDS = 600
"""The most a save may take, writing and barriers included; then the processes give up on one that cannot write."""


def open_manager(folder: Path, *, writable: bool) -> ocp.CheckpointManager:
    """A manager of the steps in `folder`: `writable`, for all processes together; else read-only for this one alone."""
    handlers: dict[str, ocp.CheckpointHandler] = {STATE: ocp.PyTreeCheckpointHandler()}
    handlers |= {name: ocp.JsonCheckpointHandler(filename=name) for name in (POSITION, METRICS, FILES)}
    # Orbax keeps every step: it would delete old ones before the digest of the new one exists. A reader is its only
    # active process: Orbax's barrier after each restore would meet an unrelated one of this job, and crash it.
    mine = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=mine, active_processes={mine})
    options = ocp.CheckpointManagerOptions(
        create=writable,
        read_only=not writable,
        save_interval_steps=1 if writable else 0,
        save_root_metadata=False,
        async_options=ocp.AsyncOptions(timeout_secs=SAVE_SECONDS),
        lightweight_initialize=True,
        multiprocessing_options=ocp.options.MultiprocessingOptions() if writable else alone,
    )
    return ocp.CheckpointManager(folder, options=options, item_handlers=handlers)


class _NotOrbax(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return "orbax" not in Path(record.pathname).parts


def drop_orbax_log() -> None:
    """Drop Orbax's log from now on: after an error its threads, which nothing joins, log it for a while."""
    logging.getLogger("absl").addFilter(_NotOrbax())


@contextmanager
def without_orbax_log() -> Iterator[None]:
    """Drops Orbax's log inside the block: it warns of read-only folders and slow disks. Its errors are still raised."""
    logger, not_orbax = logging.getLogger("absl"), _NotOrbax()
    logger.addFilter(not_orbax)
    try:
        yield
    finally:
        logger.removeFilter(not_orbax)
