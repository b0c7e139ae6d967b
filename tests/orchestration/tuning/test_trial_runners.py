"""A trial as a Ray Train job, whose workers are a function of this process: scores, signals, failures."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from datasets.storage.store import Store, open_store
from orchestration.training import stop_signal, train
from orchestration.training.validation import Scores, keep
from orchestration.training.worker import FAILURE
from orchestration.tuning import trial_runners
from orchestration.tuning.trial_runners import FinalError, RayTrainRunner


def record(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "step": 10 * epoch, "metrics": {"m": epoch / 10}}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(trial_runners, "POLL_S", 0.01)
    monkeypatch.setattr(stop_signal, "POLL_S", 0.01)
    return open_store(str(tmp_path))


def start(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    workers: Callable[[], None],
    epochs: int = 3,
    earlier: Sequence[dict[str, Any]] = (),
) -> RayTrainRunner:
    """A runner whose job runs `workers`, in the thread where Ray Train's driver would be."""
    monkeypatch.setattr(train, "fit", lambda *_: workers())
    scores = Scores(store)
    scores.read_new()
    prepared: Any = SimpleNamespace(experiment=SimpleNamespace(epochs=epochs))
    run: Any = SimpleNamespace(storage=store.address)
    config: Any = None
    return RayTrainRunner(config, run, prepared, scores, earlier)


def test_scores_come_one_by_one_and_each_request_lets_the_workers_continue(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def workers() -> None:
        for epoch in (1, 2, 3):
            keep(store, record(epoch))
            if epoch < 3 and not stop_signal.should_continue(store, epoch, wait=True):
                return

    runner = start(store, monkeypatch, workers)
    assert runner.next_score() == record(1)
    assert not store.exists(stop_signal.GO_ON), "the workers wait until the next score is requested"
    assert runner.next_score() == record(2)
    assert runner.next_score() == record(3)
    assert runner.stop(failed=False)
    assert not runner.thread.is_alive()


def test_a_stopped_trial_ends_its_workers(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def workers() -> None:
        keep(store, record(1))
        assert not stop_signal.should_continue(store, 1, wait=True)

    runner = start(store, monkeypatch, workers)
    runner.next_score()
    stop_signal.send_stop(store, 1, "below the median")
    assert runner.stop(failed=False)
    assert runner.error is None


def test_a_job_that_still_trains_is_reported_as_running(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    runner = start(store, monkeypatch, lambda: (ended.wait(30), None)[1])
    assert not runner.stop(failed=False)
    ended.set()
    assert runner.stop(failed=True), "after a failure it waits for the job"


def test_the_last_score_of_an_earlier_attempt_is_reported_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for epoch in (1, 2):
        keep(store, record(epoch))
    runner = start(store, monkeypatch, lambda: keep(store, record(3)), earlier=[record(1), record(2)])
    assert [runner.next_score()["epoch"], runner.next_score()["epoch"]] == [2, 3]


def test_a_job_without_a_score_says_why(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FinalError, match="training ended without a score"):
        start(store, monkeypatch, lambda: None).next_score()

    def lost() -> None:
        raise RuntimeError("a node died")

    with pytest.raises(RuntimeError, match="a node died") as raised:
        start(store, monkeypatch, lost).next_score()
    assert not isinstance(raised.value, FinalError), "another attempt may succeed"
    store.write(FAILURE, json.dumps({"type": "DataError", "message": "broken"}).encode())
    with pytest.raises(FinalError, match="a node died"):
        start(store, monkeypatch, lost).next_score()
