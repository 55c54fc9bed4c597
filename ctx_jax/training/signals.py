"""SIGTERM and Ctrl-C as a question the loop can ask between two steps."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

import jax

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequests:
    """While entered, the first SIGTERM or Ctrl-C only sets `asked`; a second one acts as it would without us.

    Does nothing in a job of several processes, where jax has to see SIGTERM itself (`devices.stop_agreed`), nor
    outside the main thread, where Python allows no handlers.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()
