"""Ctrl-C and SIGTERM: who handles them, what they raise, and the exit status that follows."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from orchestration.signals import (
    Interruption,
    first_signal_noted,
    forget,
    handlers_kept,
    interrupt,
    number_of,
    status_of,
)


@pytest.fixture(autouse=True)
def default_handlers() -> Iterator[None]:
    """Tests that run in the background inherit that Ctrl-C is ignored."""
    with handlers_kept():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, interrupt)
        yield


def test_the_exit_status_is_that_of_the_signal() -> None:
    assert status_of(KeyboardInterrupt()) == 130
    assert status_of(Interruption(signal.SIGTERM, "x")) == 143
    assert number_of(KeyboardInterrupt()) == signal.SIGINT


def test_sigterm_raises_as_ctrl_c_does() -> None:
    with pytest.raises(KeyboardInterrupt, match=r"terminated by SIGTERM\. Give the same command again") as raised:
        os.kill(os.getpid(), signal.SIGTERM)
    assert status_of(raised.value) == 143
    assert status_of(KeyboardInterrupt()) == 143, "Ray passes on no more than that"
    forget()
    assert status_of(KeyboardInterrupt()) == 130


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_a_second_one_raises(number: int) -> None:
    before = signal.getsignal(number)
    with first_signal_noted() as noted:
        os.kill(os.getpid(), number)
        assert noted == [number]
        with pytest.raises(Interruption) as raised:
            os.kill(os.getpid(), number)
    assert raised.value.number == number
    assert signal.getsignal(number) is before


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with first_signal_noted() as noted:
        os.kill(os.getpid(), signal.SIGINT)
        assert noted == []


def test_handlers_that_others_set_are_replaced_again() -> None:
    with handlers_kept():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert signal.getsignal(signal.SIGTERM) is interrupt


def test_another_thread_sets_no_handlers() -> None:
    found: list[list[int]] = []

    def work() -> None:
        with handlers_kept(), first_signal_noted() as noted:
            found.append(noted)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [[]]
