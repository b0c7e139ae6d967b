"""Delivery of a run's records: each once and in order, whatever the server loses. With a real server: test_tracked_run.py."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INTERNAL_ERROR,
    INVALID_PARAMETER_VALUE,
    PERMISSION_DENIED,
    UNAUTHENTICATED,
)

from datasets.storage.store import Store, open_store
from orchestration.tracking import forwarder, journal, system_metrics
from orchestration.tracking.forwarder import BATCH, CURSOR, FILES, OUTBOX, Delivery, Forwarder, batches, drain
from orchestration.tracking.segments import Record, SegmentWriter


class Server:
    """MLflow's client and server in one: keeps what it gets, and fails as `failures` say, by method's name."""

    def __init__(self) -> None:
        self.points: dict[str, list[Metric]] = defaultdict(list)
        self.calls: list[str] = []
        self.sizes: list[int] = []
        self.files: dict[str, bytes] = {}
        self.tags: dict[str, str] = {}
        self.status: list[tuple[str, int | None]] = []
        self.failures: dict[str, Callable[[], None]] = {}

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.failures:
            self.failures[name]()

    def get_run(self, run_id: str) -> Any:
        self._called("get_run")
        newest = [max(points, key=lambda m: (m.step, m.timestamp)) for points in self.points.values()]
        return SimpleNamespace(data=SimpleNamespace(_metric_objs=newest))

    def log_batch(self, run_id: str, metrics: list[Metric]) -> None:
        self.sizes.append(len(metrics))
        for metric in metrics:
            self.points[metric.key].append(metric)
        self._called("log_batch")  # what arrived stays, even where the answer is lost

    def get_metric_history(self, run_id: str, key: str) -> list[Metric]:
        return self.points[key]

    def log_artifact(self, run_id: str, path: str, folder: str | None) -> None:
        self._called("log_artifact")
        self.files[f"{folder}/{Path(path).name}" if folder else Path(path).name] = Path(path).read_bytes()

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        self._called("set_tag")
        self.tags[key] = value

    def update_run(self, run_id: str, status: str) -> None:
        self.status.append((status, None))

    def set_terminated(self, run_id: str, status: str, end_time: int) -> None:
        self.status.append((status, end_time))

    def steps(self, key: str) -> list[int]:
        return [metric.step for metric in self.points[key]]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "run"))


@pytest.fixture
def server() -> Server:
    return Server()


def deliver_all(store: Store, server: Server) -> Delivery:
    delivery = Delivery(store, "r", server)  # type: ignore[arg-type]
    delivery.read()
    delivery.deliver()
    return delivery


def write(store: Store, folder: str, *records: Record) -> None:
    writer = SegmentWriter(store, folder, {})
    for record in records:
        writer.append(record)
    writer.close()


def step(number: int, *names: str) -> Record:
    return {"step": number, "time": 1000 + number, "metrics": dict.fromkeys(names or ("loss",), number / 7)}


def once(error: Exception) -> Callable[[], None]:
    left = [error]

    def fail() -> None:
        if left:
            raise left.pop()

    return fail


def always(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def test_steps_are_delivered_once_by_whichever_process(store: Store, server: Server) -> None:
    write(store, journal.FOLDER, *(step(n) for n in range(5)))
    assert deliver_all(store, server).delivered == 5
    write(store, journal.FOLDER, *(step(n) for n in range(5, 8)))
    assert deliver_all(store, server).delivered == 3, "another process delivers the rest"
    assert server.steps("loss") == list(range(8))
    assert [(m.timestamp, m.value) for m in server.points["loss"]] == [(1000 + n, n / 7) for n in range(8)]


def test_steps_that_arrived_although_the_answer_was_lost_are_not_doubled(store: Store, server: Server) -> None:
    write(store, journal.FOLDER, *(step(n) for n in range(4)))
    server.failures["log_batch"] = once(ConnectionError("the answer was lost"))
    delivery = Delivery(store, "r", server)  # type: ignore[arg-type]
    delivery.read()
    with pytest.raises(ConnectionError):
        delivery.deliver()
    assert delivery.pending == 4
    delivery.deliver()
    assert server.steps("loss") == [0, 1, 2, 3]
    assert delivery.pending == 0


def test_one_call_has_at_most_as_many_metrics_as_mlflow_takes(store: Store, server: Server) -> None:
    names = [f"m{number}" for number in range(2 * BATCH + 1)]
    write(store, journal.FOLDER, step(0, *names), step(1, "m0"), step(2, "m0"))
    deliver_all(store, server)
    assert server.sizes == [BATCH, BATCH, 1, 2]
    assert server.steps("m0") == [0, 1, 2]


@given(st.lists(st.integers(0, 2 * BATCH), max_size=20))
def test_batches_keep_the_order_and_their_limit(sizes: list[int]) -> None:
    records = [{"step": n, "metrics": dict.fromkeys(range(size))} for n, size in enumerate(sizes)]
    found = list(batches(records))
    assert [record for batch in found for record in batch] == records
    assert all(len(batch) == 1 or sum(len(record["metrics"]) for record in batch) <= BATCH for batch in found)
    assert all(batch for batch in found)


def test_samples_of_every_machine_are_delivered(store: Store, server: Server) -> None:
    for node in ("driver", "10.0.0.7"):
        write(store, f"{system_metrics.FOLDER}/{node}", step(0, f"system/{node}/cpu"), step(1, f"system/{node}/cpu"))
    deliver_all(store, server)
    assert server.steps("system/driver/cpu") == server.steps("system/10.0.0.7/cpu") == [0, 1]


def test_messages_are_delivered_in_order_and_the_storage_counts_them(store: Store, server: Server) -> None:
    store.write(f"{FILES}/pictures/a.png", b"png")
    store.write(f"{FILES}/experiment.json", b"{}")
    write(
        store,
        OUTBOX,
        {"kind": "status", "status": "RUNNING", "time": 1},
        {"kind": "metrics", "step": 9, "time": 2, "metrics": {"general/mAP": 0.5}},
        {"kind": "file", "path": "pictures/a.png", "time": 3},
        {"kind": "file", "path": "experiment.json", "time": 3},
        {"kind": "tags", "tags": {"a": "1", "b": "2"}, "time": 4},
        {"kind": "status", "status": "FINISHED", "time": 5},
    )
    delivery = deliver_all(store, server)
    assert server.status == [("RUNNING", None), ("FINISHED", 5)]
    assert [(m.step, m.timestamp, m.value) for m in server.points["general/mAP"]] == [(9, 2, 0.5)]
    assert server.files == {"pictures/a.png": b"png", "experiment.json": b"{}"}
    assert server.tags == {"a": "1", "b": "2"}
    assert (delivery.delivered, delivery.pending) == (6, 0)
    assert json.loads(store.read(CURSOR)) == {"outbox": 6}


def test_another_process_continues_after_the_delivered_messages(store: Store, server: Server) -> None:
    write(store, OUTBOX, *({"kind": "tags", "tags": {"n": str(n)}, "time": n} for n in range(3)))
    server.failures["set_tag"] = once(ConnectionError("no answer"))
    delivery = Delivery(store, "r", server)  # type: ignore[arg-type]
    delivery.read()
    with pytest.raises(ConnectionError):
        delivery.deliver()
    assert delivery.pending == 3
    delivery.deliver()
    write(store, OUTBOX, {"kind": "tags", "tags": {"n": "last"}, "time": 4})
    server.calls.clear()
    assert deliver_all(store, server).delivered == 1
    assert server.calls == ["set_tag"]
    assert server.tags == {"n": "last"}


def test_an_evaluation_that_arrived_already_is_not_logged_again(store: Store, server: Server) -> None:
    write(store, OUTBOX, {"kind": "metrics", "step": 9, "time": 2, "metrics": {"a/mAP": 0.5, "b/mAP": 0.25}})
    server.points["a/mAP"].append(Metric("a/mAP", 0.5, 2, 9))
    deliver_all(store, server)
    assert server.steps("a/mAP") == server.steps("b/mAP") == [9]


def test_new_steps_are_shown_before_mlflow_has_them(store: Store, server: Server) -> None:
    shown: list[Record] = []
    write(store, journal.FOLDER, step(0), step(1))
    write(store, f"{system_metrics.FOLDER}/driver", step(0, "system/cpu"))
    delivery = Delivery(store, "r", server, shown.extend)  # type: ignore[arg-type]
    delivery.read()
    delivery.read()
    assert [record["step"] for record in shown] == [0, 1], "steps alone, each once"
    assert server.calls == []


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_draining_tries_until_the_deadline_and_returns_the_last_error(
    store: Store, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(forwarder, "time", clock)
    write(store, journal.FOLDER, step(0))
    error = ConnectionError("no answer")
    server.failures["get_run"] = always(error)
    delivery = Delivery(store, "r", server)  # type: ignore[arg-type]
    assert drain(delivery, 30.0) is error
    assert 25 <= clock.now <= 30
    assert 6 < len(server.calls) < 20, "with growing pauses"
    server.failures.clear()
    assert drain(delivery, 30.0) is None
    assert server.steps("loss") == [0]


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            ConnectionError("nobody at http://me:secret@host"),
            "MLflow is unavailable; the run continues and delivers later",
        ),
        (MlflowException("no", error_code=PERMISSION_DENIED), "MLflow rejects the records; the run continues"),
    ],
)
def test_the_thread_reports_a_failure_once_and_delivers_when_it_is_over(
    store: Store, server: Server, error: Exception, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    write(store, journal.FOLDER, step(0))
    server.failures["get_run"] = always(error)
    thread = Forwarder(Delivery(store, "r", server), poll_s=0.01)  # type: ignore[arg-type]
    thread.start()
    wait_until(lambda: len(server.calls) > 2)
    assert thread.error is error
    server.failures.clear()
    wait_until(lambda: thread.error is None)
    thread.stop()
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0].startswith(text)
    assert "secret" not in messages[0]
    assert messages[1:] == ["MLflow is available again; 1 records delivered so far"]
    assert server.steps("loss") == [0]
    assert not any(one.name == "forward to MLflow" for one in threading.enumerate())


def refuse(text: str, code: int = INVALID_PARAMETER_VALUE) -> MlflowException:
    return MlflowException(text, error_code=code)


TOO_LARGE = MlflowException("API request to endpoint /x failed with error code 413 != 200", error_code=INTERNAL_ERROR)


@pytest.mark.parametrize(
    "error", [TOO_LARGE, refuse("denied", PERMISSION_DENIED), FileNotFoundError("gone"), KeyError("path")]
)
def test_a_message_that_is_refused_is_set_aside_and_the_run_ends(
    error: Exception, store: Store, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    store.write(f"{FILES}/a.png", b"png")
    messages = [{"kind": "file", "path": "a.png", "time": 1}, {"kind": "tags", "tags": {"n": "1"}, "time": 2},
                {"kind": "status", "status": "FINISHED", "time": 3}]  # fmt: skip
    write(store, OUTBOX, *messages)
    server.failures["log_artifact"] = always(error)
    delivery = deliver_all(store, server)
    assert (delivery.delivered, delivery.pending) == (2, 0)
    assert server.status == [("FINISHED", 3)]
    [refused] = delivery.set_aside
    assert refused.startswith("file a.png: ")
    assert "MLflow refuses file a.png" in caplog.text
    assert json.loads(store.read(CURSOR)) == {"outbox": 3, "set_aside": [0]}

    server.failures.clear()
    again = deliver_all(store, server)
    assert (again.delivered, again.set_aside) == (1, [])
    assert server.files == {"a.png": b"png"}
    assert json.loads(store.read(CURSOR)) == {"outbox": 3}
    assert deliver_all(store, server).delivered == 0


def test_a_lost_file_of_the_outbox_is_set_aside(store: Store, server: Server) -> None:
    write(
        store, OUTBOX, {"kind": "file", "path": "lost.png", "time": 1}, {"kind": "tags", "tags": {"n": "1"}, "time": 2}
    )
    delivery = deliver_all(store, server)
    assert server.tags == {"n": "1"}
    assert "there is no such file" in delivery.set_aside[0]


@pytest.mark.parametrize("where", [journal.FOLDER, OUTBOX])
def test_a_metric_with_a_bad_name_does_not_hold_up_the_others(where: str, store: Store, server: Server) -> None:
    def picky(run_id: str, metrics: list[Metric]) -> None:
        server.calls.append("log_batch")
        if any(metric.key == "bad?" for metric in metrics):
            raise refuse("Invalid value \"bad?\" for parameter 'name'")
        for metric in metrics:
            server.points[metric.key].append(metric)

    server.log_batch = picky  # type: ignore[method-assign]
    names = ["loss", "bad?", *(f"m{number}" for number in range(6))]
    kind = {"kind": "metrics"} if where == OUTBOX else {}
    write(store, where, *(step(n, *names) | kind for n in range(20)))
    delivery = deliver_all(store, server)
    assert server.steps("loss") == server.steps("m5") == list(range(20))
    assert not server.points.get("bad?")
    assert delivery.pending == 0
    assert all("metric 'bad?': Invalid value" in refused for refused in delivery.set_aside)
    assert len(delivery.set_aside) == (21 if where == OUTBOX else 1), "the metric, and each message that has it"
    assert len(server.calls) < 20 + 20, "the bad one is found by halves, once"


def test_a_call_that_is_too_large_is_divided(store: Store, server: Server) -> None:
    def small_ones(run_id: str, metrics: list[Metric]) -> None:
        if len(metrics) > 100:
            raise TOO_LARGE
        for metric in metrics:
            server.points[metric.key].append(metric)

    server.log_batch = small_ones  # type: ignore[method-assign]
    write(store, journal.FOLDER, *(step(n) for n in range(350)))
    assert deliver_all(store, server).set_aside == []
    assert server.steps("loss") == list(range(350))


def test_credentials_that_are_wrong_hold_everything_back(store: Store, server: Server) -> None:
    write(store, OUTBOX, {"kind": "tags", "tags": {"n": "1"}, "time": 2})
    server.failures["set_tag"] = always(refuse("who are you", UNAUTHENTICATED))
    delivery = Delivery(store, "r", server)  # type: ignore[arg-type]
    delivery.read()
    with pytest.raises(MlflowException, match="who are you"):
        delivery.deliver()
    assert (delivery.pending, delivery.set_aside) == (1, [])
    server.failures.clear()
    delivery.deliver()
    assert server.tags == {"n": "1"}


def test_a_deadline_holds_between_calls_and_progress_is_shown(
    store: Store, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(forwarder, "time", clock)
    names = [f"m{number}" for number in range(BATCH // 10)]
    write(store, journal.FOLDER, *(step(n, *names) for n in range(200)))
    write(store, OUTBOX, *({"kind": "tags", "tags": {"n": str(n)}, "time": n} for n in range(5)))
    for name in ("log_batch", "set_tag"):
        server.failures[name] = lambda: clock.sleep(2.0)
    delivery = Delivery(store, "r", server)  # type: ignore[arg-type]
    seen: list[tuple[int, int]] = []
    error = drain(delivery, 5.0, lambda done, total: seen.append((done, total)))
    assert isinstance(error, forwarder.NotInTimeError)
    assert clock.now <= 5.0 + 2.0, "the deadline and one call"
    assert seen == [(10, 205), (20, 205), (30, 205)]
    assert delivery.pending == 175
    assert drain(delivery, 1000.0) is None
    assert server.steps("m0") == list(range(200))
    assert server.tags == {"n": "4"}
