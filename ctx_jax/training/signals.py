"""SIGTERM and Ctrl-C as a question the loop can ask between two steps."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

import jax

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequests:
    """While entered, the first SIGTERM or Ctrl-C only sets `asked`; a second one acts as it would without us.

    In a job of several processes jax has to see SIGTERM itself (`devices.stop_agreed`): the first Ctrl-C is handed on
    as one, and `asked` stays False. Does nothing outside the main thread, where Python allows no handlers.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            if jax.process_count() == 1:
                self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
            else:
                self._before = {signal.SIGINT: signal.signal(signal.SIGINT, self._hand_on)}
        return self

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        self._restore()
        os.kill(os.getpid(), signal.SIGTERM)

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
