"""Ctrl-C and SIGTERM: an exception that knows its signal and the exit status that follows from it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GO_ON = "Give the same command again to go on."
GRACE_S = (
    120  # what the files of infra/ leave a driver between SIGTERM and SIGKILL; a checkpoint takes 10 s and one step
)

_received: list[int] = []


class Interruption(KeyboardInterrupt):
    """A signal ended the work. `number`: which one."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


def status_of(error: KeyboardInterrupt) -> int:
    """The exit status that shells expect: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + number_of(error)


def number_of(error: KeyboardInterrupt) -> int:
    """Ray raises a plain KeyboardInterrupt after any signal: then the last one that `interrupt` received is the cause."""
    return error.number if isinstance(error, Interruption) else _received[-1] if _received else int(signal.SIGINT)


def interrupt(number: int, frame: FrameType | None) -> None:
    """The handler of both signals: Python's own raises for Ctrl-C alone."""
    _received.append(number)
    what = "interrupted" if number == signal.SIGINT else "terminated by SIGTERM"
    raise Interruption(number, f"{what}. {GO_ON}")


def has_received() -> bool:
    """Whether one of both signals has come since the request began."""
    return bool(_received)


def forget() -> None:
    """Begin a new request: signals of an earlier one in this process are not its own."""
    _received.clear()


def is_main_thread() -> bool:
    """Whether this thread may set handlers."""
    return threading.current_thread() is threading.main_thread()


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Within this block others may set handlers of the two signals; afterwards they are as before."""
    if not is_main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def first_signal_noted() -> Iterator[list[int]]:
    """Within this block the first signal is only noted, in the yielded list. A second one raises Interruption.

    A signal that this process ignores, as Ctrl-C in the background of a script, stays ignored.
    """
    noted: list[int] = []
    forget()

    def note(number: int, frame: FrameType | None) -> None:
        if noted:
            interrupt(number, frame)
        noted.append(number)
        _received.append(number)

    with handlers_kept():
        for number in SIGNALS if is_main_thread() else ():
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, note)
        yield noted
