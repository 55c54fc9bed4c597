"""Record SIGTERM and Ctrl-C, so that the loop can stop and save between two steps."""

import os
import signal
import threading
from types import FrameType
from typing import Any, Self

import jax

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequests:
    """Context in which the first SIGTERM or Ctrl-C only sets `asked`; a second one has its usual effect.

    In a job of several processes jax's own handler must receive SIGTERM (`distributed.processes.stop_requested`), so
    the first Ctrl-C is sent on as a SIGTERM and `asked` stays False. Does nothing outside the main thread, where Python
    allows no handlers.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            if jax.process_count() == 1:
                self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
            else:
                self._before = {signal.SIGINT: signal.signal(signal.SIGINT, self._send_sigterm)}
        return self

    def _send_sigterm(self, number: int, frame: FrameType | None) -> None:
        self._restore()
        os.kill(os.getpid(), signal.SIGTERM)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def __exit__(self, *error: object) -> None:
        self._restore()
