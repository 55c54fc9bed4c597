"""Batches made ready on a thread while the device works on the one before.

A `Batch` carries the data's position after it, so there is no state to save here: a checkpoint holds the position of
the last batch trained on, however many more are ready.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from ctx_jax.io.errors import ConfigError

Item = TypeVar("Item")
_END: Any = object()


@contextmanager
def prefetch(iterator: Iterator[Item], depth: int) -> Iterator[Iterator[Item]]:
    """Run `iterator` on a background thread, at most `depth` items ahead of the caller.

    Items come in their order. An exception of the iterator is raised by the `next` that would have returned its
    item. Leaving the context waits for the item under way, drops what is ready, and ends the items. Raises ConfigError
    for a depth under 1.
    """
    if depth < 1:
        raise ConfigError("data.prefetch", f"must be a depth of at least 1, got {depth}")
    executor = ThreadPoolExecutor(1, "ctx_jax prefetch")
    ready = deque(executor.submit(next, iterator, _END) for _ in range(depth))

    def items() -> Iterator[Item]:
        while ready:
            first = ready.popleft()
            ready.append(executor.submit(next, iterator, _END))
            if (item := first.result()) is _END:
                return
            yield item

    try:
        yield items()
    finally:
        executor.shutdown(cancel_futures=True)
        ready.clear()
