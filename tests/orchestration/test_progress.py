"""Long work says how far it is, how fast, and how long it will still take."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable

import pytest
from rich.console import Console

from orchestration import progress
from orchestration.progress import Bar, Pace, Progress, amount, duration


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock whose hand is set."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def bar(unit: str, terminal: bool = False) -> tuple[Bar, io.StringIO]:
    shown = io.StringIO()
    return Bar(Console(file=shown, force_terminal=terminal, width=120), "converting", unit=unit), shown


def test_a_line_has_counts_rate_and_time_left(clock: list[float]) -> None:
    made, shown = bar("images")
    for second, done in enumerate((0, 2000, 4000, 6000, 8000, 10000, 12000)):
        clock[0] = 100.0 + second
        made(done, 17000)
    assert "converting 10,000/17,000 (59 %)  2,000 images/s  4 s left\n" in shown.getvalue()
    made.close()
    assert shown.getvalue().endswith("converting: 12,000 images in 6.0 s\n")


def test_a_terminal_shows_the_same(clock: list[float]) -> None:
    made, shown = bar("images", terminal=True)
    made(0, 17000)
    clock[0] += 1
    made(2000, 17000)
    made.close()
    assert "2,000/17,000 (12 %)  2,000 images/s  8 s left" in shown.getvalue()


def test_what_was_there_before_does_not_count_as_speed(clock: list[float]) -> None:
    pace = Pace()
    pace.note(0.0, 1_000_000)
    assert pace.rate() is None
    pace.note(1.0, 1_000_050)
    assert pace.rate() == 50
    for second in range(2, 100):
        pace.note(float(second), 1_000_050)
    assert pace.rate() is None  # it stands still


def test_stages_follow_each_other(clock: list[float]) -> None:
    shown = io.StringIO()
    labels = {"read": ("reading the archive", "bytes"), "check": ("checking", "images")}
    with Progress(Console(file=shown, width=120)).stages(labels) as tell:
        tell("read", 5_000_000, 5_000_000)
        tell("check", 1, 2)
        tell("check", 2, 2)
    assert shown.getvalue().splitlines() == [
        "reading the archive …",
        "reading the archive: 5.0 MB in 0.0 s",
        "checking …",
        "checking: 2 images in 0.0 s",
    ]


@pytest.mark.parametrize(
    ("seconds", "told"), [(2, "2 s"), (89, "89 s"), (120, "2 min"), (3600, "60 min"), (12_000, "3 h 20 min")]
)
def test_durations_are_told_as_people_say_them(seconds: float, told: str) -> None:
    assert duration(seconds) == told


@pytest.mark.parametrize(
    ("number", "unit", "told"),
    [(3.4e9, "bytes", "3.4 GB"), (999, "bytes", "999 B"), (12345, "images", "12,345"), (0.25, "steps", "0.2")],
)
def test_amounts_have_their_units(number: float, unit: str, told: str) -> None:
    assert amount(number, unit) == told


def test_only_silent_work_says_what_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.01)
    shown = io.StringIO()
    console = Console(file=shown, width=120)

    def wait_until_said(text: str) -> None:
        deadline = time.monotonic() + 60
        while text not in shown.getvalue():
            assert time.monotonic() < deadline, shown.getvalue()
            time.sleep(0.005)

    with progress.doing("loading libraries", console):
        wait_until_said("loading libraries …\n")
        with progress.doing("loading the model", console):
            wait_until_said("loading the model …\n")
    assert shown.getvalue() == "loading libraries …\nloading the model …\n"


def test_work_that_speaks_or_ends_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=120)
    timers: list[threading.Timer] = []
    monkeypatch.setattr(progress, "_silent", timers)

    def is_silenced(speak: Callable[[], object]) -> bool:
        with progress.doing("loading libraries", console):
            [timer] = timers
            assert not timer.finished.is_set()
            speak()
            return timer.finished.is_set()

    assert is_silenced(lambda: Progress(console).say("starting Ray [/from/a.cc:545]"))
    assert "starting Ray [/from/a.cc:545]" in shown.getvalue()
    assert is_silenced(lambda: Bar(console, "evaluating"))
    assert not is_silenced(lambda: None)
    with progress.doing("loading libraries", console):
        [timer] = timers
    assert timer.finished.is_set()
    assert timers == []
    assert "loading" not in shown.getvalue()
