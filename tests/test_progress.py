"""Long passes log how far they are; short ones log nothing."""

import logging
import time

import pytest

from ctx_jax.io.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still until a test moves it, in seconds."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_every_ten_seconds_there_is_a_line_with_rate_and_time_left(clock: list[float]) -> None:
    lines: list[str] = []
    progress = Progress("reading made", "MB", 400, lines.append)
    for _ in range(30):
        clock[0] += 1.0
        progress.add(4)
    assert lines == [
        "reading made: 40 of 400 MB, 4.0 MB/s, 1:30 left",
        "reading made: 80 of 400 MB, 4.0 MB/s, 1:20 left",
        "reading made: 120 of 400 MB, 4.0 MB/s, 1:10 left",
    ]


def test_the_fraction_gives_the_time_left_where_the_total_is_unknown(clock: list[float]) -> None:
    """From where the pass began: half of the text was read before, and not by this one."""
    lines: list[str] = []
    progress = Progress("embedding", "sentences", log=lines.append)
    progress.add(1, 0.5)
    clock[0] += 10.0
    progress.add(9, 0.75)
    assert lines == ["embedding: 10 sentences (75 %), 1.0 sentences/s, 0:10 left"]


@pytest.mark.parametrize("total", [None, 3.0])
def test_without_a_known_total_or_past_a_guessed_one_no_time_is_promised(
    clock: list[float], total: float | None
) -> None:
    lines: list[str] = []
    for _ in Progress("counting", "words", total, lines.append).track(range(5)):
        clock[0] += 2.5
    assert lines == ["counting: 4 words, 0.4 words/s"]


def test_items_count_by_their_amount(clock: list[float]) -> None:
    lines: list[str] = []
    for _ in Progress("evaluating", "tokens", log=lines.append).track(["ab", "cde"], len):
        clock[0] += 5.0
    assert lines == ["evaluating: 5 tokens, 0.5 tokens/s"]


def test_a_short_pass_logs_nothing(clock: list[float]) -> None:
    lines: list[str] = []
    assert list(Progress("counting", "words", 3, lines.append).track("abc")) == ["a", "b", "c"]
    assert lines == []


def test_lines_go_to_the_log_of_the_package(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    progress = Progress("counting", "words")
    with caplog.at_level(logging.INFO, "ctx_jax"):
        clock[0] += 10.0
        progress.add()
    assert caplog.messages == ["counting: 1 words, 0.1 words/s"]
