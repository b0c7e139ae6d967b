"""Signals in a run's storage that end a trial or let it continue."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from datasets.storage.store import Store, open_store
from orchestration.training import stop_signal
from orchestration.training.stop_signal import send_continue, send_stop, should_continue, stop_reason


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def test_a_trial_continues_unless_it_was_stopped(store: Store) -> None:
    assert stop_reason(store) is None
    assert should_continue(store, 1, wait=False)
    send_stop(store, 1, "below the median")
    assert stop_reason(store) == "below the median"
    assert not should_continue(store, 1, wait=False)
    assert not should_continue(store, 1, wait=True), "a stop signal ends waiting"


def test_a_waiting_trial_continues_with_the_signal_of_its_epoch_and_not_of_an_earlier_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stop_signal, "POLL_S", 0.01)
    send_continue(store, 1)
    assert should_continue(store, 1, wait=True)
    answers: list[bool] = []
    waiting = threading.Thread(target=lambda: answers.append(should_continue(store, 2, wait=True)), daemon=True)
    waiting.start()
    time.sleep(0.1)
    assert answers == []
    send_continue(store, 2)
    waiting.join(timeout=30)
    assert answers == [True]
