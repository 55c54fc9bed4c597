"""Long passes over text say how far they are: every ten seconds a line with the rate and, where the end is known, the
time left. Short ones say nothing."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

EVERY = 10.0  # seconds between two lines

Item = TypeVar("Item")


class Pace:
    """Counts what is done and reports it: `python-docs: 120 of 400 MB, 12 MB/s, 0:23 left`."""

    def __init__(self, what: str, unit: str, report: Callable[[str], None], total: float | None = None) -> None:
        """`total`: all there is to do in `unit`, at least about; None where nobody knows."""
        self._what, self._unit, self._report, self._total = what, unit, report, total
        self._done = 0.0
        self._began = self._shown = time.monotonic()

    def add(self, amount: float = 1.0) -> None:
        """So much more is done."""
        self._done += amount
        now = time.monotonic()
        if now - self._shown < EVERY:
            return
        self._shown = now
        rate = self._done / (now - self._began)
        known = self._total is not None and self._total >= self._done
        left = int((self._total - self._done) / rate) if self._total is not None and known and rate else 0
        end = f" of {self._total:,.0f}" if known else ""
        clock = f", {left // 60}:{left % 60:02d} left" if known else ""
        speed = f"{rate:,.{0 if rate >= 10 else 1}f} {self._unit}/s"
        self._report(f"{self._what}: {self._done:,.0f}{end} {self._unit}, {speed}{clock}")


def paced(
    items: Iterable[Item], what: str, unit: str, report: Callable[[str], None], total: float | None = None
) -> Iterator[Item]:
    """The same items, each counted by a `Pace` once it has been dealt with."""
    return counted(items, Pace(what, unit, report, total).add)


def counted(
    items: Iterable[Item], advance: Callable[[int], object], amount: Callable[[Item], int] = lambda item: 1
) -> Iterator[Item]:
    """The same items; `advance` hears of the `amount` of each once it has been dealt with."""
    for item in items:
        yield item
        advance(amount(item))
