"""Long passes say how far they are, and short ones nothing."""

import time

import pytest

from ctx_jax.io.progress import Pace, paced


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still until a test moves it, in seconds."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_every_ten_seconds_there_is_a_line_with_rate_and_time_left(clock: list[float]) -> None:
    said: list[str] = []
    pace = Pace("reading made", "MB", said.append, total=400)
    for _ in range(30):
        clock[0] += 1.0
        pace.add(4)
    assert said == [
        "reading made: 40 of 400 MB, 4.0 MB/s, 1:30 left",
        "reading made: 80 of 400 MB, 4.0 MB/s, 1:20 left",
        "reading made: 120 of 400 MB, 4.0 MB/s, 1:10 left",
    ]


@pytest.mark.parametrize("total", [None, 3.0])
def test_without_a_known_end_or_past_a_guessed_one_nothing_is_promised(clock: list[float], total: float | None) -> None:
    said: list[str] = []
    for _ in paced(range(5), "counting", "words", said.append, total):
        clock[0] += 2.5
    assert said == ["counting: 4 words, 0.4 words/s"]


def test_a_short_pass_says_nothing(clock: list[float]) -> None:
    said: list[str] = []
    assert list(paced("abc", "counting", "words", said.append, 3)) == ["a", "b", "c"]
    assert said == []
