"""Progress of long passes over text: every ten seconds a line with the rate and, where the end is known, the time left.
Passes that are done sooner write nothing."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

EVERY = 10.0  # seconds between two lines

Item = TypeVar("Item")
_LOGGER = logging.getLogger("ctx_jax")


class Progress:
    """Counts what is done and logs it: `reading python-docs: 120 of 400 MB, 12 MB/s, 0:23 left`."""

    def __init__(
        self,
        what: str,
        unit: str,
        total: float | None = None,
        log: Callable[[str], object] = _LOGGER.info,
    ) -> None:
        """`total`: about how much there is to do, in `unit`; None where that is unknown. `log` takes each line."""
        self._what, self._unit, self._total, self._log = what, unit, total, log
        self._done = 0.0
        self._begun: float | None = None  # the fraction that was done at the first `add`
        self._started = self._logged = time.monotonic()

    def add(self, amount: float = 1.0, fraction: float | None = None) -> None:
        """Count `amount` more as done. `fraction`: how much of all that is; gives the time left where the total is
        unknown."""
        self._done += amount
        self._begun = fraction if self._begun is None else self._begun
        now = time.monotonic()
        if now - self._logged < EVERY:
            return
        self._logged = now
        seconds = now - self._started
        rate = self._done / seconds
        of_total = percent = time_left = ""
        if self._total is not None and self._total >= self._done:
            of_total, time_left = f" of {self._total:,.0f}", _left((self._total - self._done) / rate if rate else 0)
        elif fraction is not None and self._begun is not None and fraction > self._begun:
            percent, time_left = (
                f" ({100 * fraction:.0f} %)",
                _left(seconds * (1 - fraction) / (fraction - self._begun)),
            )
        slow = rate < 0.1
        speed = f"{60 * rate if slow else rate:,.{0 if rate >= 10 else 1}f} {self._unit}/{'min' if slow else 's'}"
        self._log(f"{self._what}: {self._done:,.0f}{of_total} {self._unit}{percent}, {speed}{time_left}")

    def track(self, items: Iterable[Item], amount: Callable[[Item], float] = lambda item: 1) -> Iterator[Item]:
        """The same items; the `amount` of each is added when the next one is asked for."""
        for item in items:
            yield item
            self.add(amount(item))


def _left(seconds: float) -> str:
    return f", {int(seconds) // 60}:{int(seconds) % 60:02d} left"
