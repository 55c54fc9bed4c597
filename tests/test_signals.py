"""SIGTERM and Ctrl-C while a run trains; `test_training_kill.py` sends them to whole processes."""

import signal

from ctx_jax.training.signals import StopRequests


def test_a_second_signal_acts_as_it_would_without_us() -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        with StopRequests() as stop:
            assert not stop.asked
            signal.raise_signal(signal.SIGTERM)
            assert stop.asked and not received
            signal.raise_signal(signal.SIGTERM)
            assert received == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
