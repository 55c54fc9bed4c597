"""Batches made ready on a thread of their own while the device works on the one before.

A `Batch` carries the data's position after it, so there is no state to save here: a checkpoint holds the position of
the last batch trained on, however many more are ready.
"""

import queue
import threading
import weakref
from collections.abc import Iterator
from types import TracebackType
from typing import Generic, NamedTuple, TypeVar

from ctx_jax.io.errors import ConfigError

Item = TypeVar("Item")


class _End(NamedTuple):
    """The last item of a producer: why it stopped (None: the iterator ended)."""

    error: BaseException | None


def _produce(iterator: Iterator[Item], ready: "queue.Queue[Item | _End]", stop: threading.Event) -> None:
    # Holds no reference to the Prefetched object: one that is dropped can be collected, which stops this thread.
    try:
        for item in iterator:
            ready.put(item)
            if stop.is_set():
                return
        ready.put(_End(None))
    except BaseException as error:  # the consumer raises it
        ready.put(_End(error))


def _drain(ready: "queue.Queue[Item | _End]") -> None:
    while True:
        try:
            ready.get_nowait()
        except queue.Empty:
            return


def _stop(ready: "queue.Queue[Item | _End]", stop: threading.Event, thread: threading.Thread) -> None:
    stop.set()
    # The producer puts at most once more after this, so an empty queue is room enough for it to come to its end.
    _drain(ready)
    if thread is threading.current_thread():  # the garbage collector may run this from the producer itself
        return
    thread.join()
    _drain(ready)
    ready.put(_End(None))  # wakes a consumer that waits on another thread


class Prefetched(Iterator[Item], Generic[Item]):
    """An iterator whose next `depth` items are made on a background thread. See `prefetch`."""

    def __init__(self, iterator: Iterator[Item], depth: int) -> None:
        if depth < 1:
            raise ConfigError("data.prefetch", f"must be a depth of at least 1, got {depth}")
        self._ready: queue.Queue[Item | _End] = queue.Queue(depth)
        self._ended = False
        stop = threading.Event()
        thread = threading.Thread(
            target=_produce, args=(iterator, self._ready, stop), name="ctx_jax prefetch", daemon=True
        )
        # Also runs at interpreter exit and when the object is dropped: a daemon thread that is still inside numpy
        # while the interpreter is taken down can crash it.
        self._finalize = weakref.finalize(self, _stop, self._ready, stop, thread)
        thread.start()

    def __next__(self) -> Item:
        if self._ended or not self._finalize.alive:
            raise StopIteration
        item = self._ready.get()
        if not isinstance(item, _End):
            return item
        self._ended = True
        if item.error is not None:
            raise item.error
        raise StopIteration

    def close(self) -> None:
        """Stop the thread and wait for it; what lay ready is dropped. The iterator then has no more items."""
        self._finalize()

    def __enter__(self) -> "Prefetched[Item]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def prefetch(iterator: Iterator[Item], depth: int) -> Prefetched[Item]:
    """Run `iterator` on a background thread, at most `depth` finished items ahead of the caller.

    Items come in their order. An exception of the iterator is raised by the `next` that would have returned its
    item. `close()` (also at the end of a `with`, at interpreter exit, or when the object is dropped) stops the thread
    after the item it is making. Raises ValueError for a depth under 1.
    """
    return Prefetched(iterator, depth)
