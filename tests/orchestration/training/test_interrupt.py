"""A signal reaches the workers through the run's storage, before, during and after training."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from datasets.storage.store import Store, open_store
from orchestration.signals import Interruption, handlers_kept
from orchestration.training import interrupt
from orchestration.training.interrupt import LISTENING, REQUEST, Listener, forget, run_interruptibly


@pytest.fixture(autouse=True)
def default_handlers() -> Iterator[None]:
    with handlers_kept():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        yield


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def test_rank_0_looks_at_most_once_in_a_while(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = Listener(store)
    assert not listener.is_asked()
    store.write(REQUEST, b"")
    assert not listener.is_asked(), "it has just looked"
    monkeypatch.setattr(interrupt, "POLL_S", 0.0)
    listener.next_poll = 0.0
    assert listener.is_asked()
    listener.close()
    assert store.list("interrupt") == [REQUEST], "nobody listens any more"


def test_what_an_earlier_attempt_left_is_forgotten(store: Store) -> None:
    Listener(store)
    store.write(REQUEST, b"")
    forget(store)
    assert store.list("interrupt") == []


def test_a_running_training_is_asked_and_waited_for(store: Store) -> None:
    said: list[str] = []
    left: list[bool] = []

    def training() -> None:
        Listener(store)
        os.kill(os.getpid(), signal.SIGINT)
        while not store.exists(REQUEST):
            pass
        left.append(True)

    with pytest.raises(Interruption) as raised:
        run_interruptibly(training, store, said.append)
    assert raised.value.number == signal.SIGINT
    assert left == [True], "the training ended by itself"
    assert "a second signal stops at once" in said[0]


def test_a_training_that_has_not_started_ends_at_once(store: Store) -> None:
    release = threading.Event()

    def starting() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        release.wait(60)

    with pytest.raises(Interruption):
        run_interruptibly(starting, store, lambda _: None)
    release.set()
    assert not store.exists(REQUEST)


def test_a_second_signal_does_not_wait(store: Store) -> None:
    release = threading.Event()

    def training() -> None:
        Listener(store)
        os.kill(os.getpid(), signal.SIGINT)
        release.wait(60)

    with pytest.raises(Interruption):
        run_interruptibly(training, store, lambda _: os.kill(os.getpid(), signal.SIGINT))
    release.set()
    assert store.exists(LISTENING)


def test_a_training_in_another_thread_runs_there(store: Store) -> None:
    ran: list[str] = []
    thread = threading.Thread(
        target=run_interruptibly,
        args=(lambda: ran.append(threading.current_thread().name), store, lambda _: None),
        name="trial",
    )
    thread.start()
    thread.join()
    assert ran == ["trial"]
