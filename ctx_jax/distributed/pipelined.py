"""What lets devices work while the host does."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

Result = TypeVar("Result")


def one_behind(results: Iterable[Result]) -> Iterator[Result]:
    """The results in their order, each when the next one has been asked for.

    Where asking starts a computation and taking a result waits for it, the devices are never idle between the two.
    """
    waiting: list[Result] = []
    for result in results:
        waiting.append(result)
        if len(waiting) > 1:
            yield waiting.pop(0)
    yield from waiting
