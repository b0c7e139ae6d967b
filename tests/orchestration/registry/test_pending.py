"""A pending registration: kept until it is complete, with one attempt however often it is resumed.

With a server that is killed: tests/system/test_unavailable.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from datasets.storage.store import Store, open_store
from orchestration.errors import RequestError, ServiceUnavailableError
from orchestration.registry import pending
from orchestration.registry.pending import FILE, flush, register_idempotent
from orchestration.tracking import tracked_run

METRICS = {"general/mAP": 0.5}


class Registry:
    """Stands in for `register_checkpoint`: remembers its calls and raises `errors` in turn."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.errors: list[Exception] = []

    def __call__(self, address: str, name: str, run_id: str, metrics: Mapping[str, float], *, attempt: str) -> str:
        self.calls.append((address, name, run_id, dict(metrics), attempt))
        if self.errors:
            raise self.errors.pop(0)
        return f"models:/{name}/1"

    @property
    def attempts(self) -> list[str]:
        return [attempt for *_, attempt in self.calls]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    registry = Registry()
    monkeypatch.setattr("orchestration.registry.register.register_checkpoint", registry)
    return registry


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "run"))


def test_a_registration_that_succeeds_leaves_nothing_pending(store: Store, registry: Registry) -> None:
    assert register_idempotent(store, "r", "m", "checkpoints/1", METRICS) == "models:/m/1"
    [(address, name, run_id, metrics, attempt)] = registry.calls
    assert (address, name, run_id, metrics) == ("checkpoints/1", "m", "r", METRICS)
    assert len(attempt) == 32
    assert not store.exists(FILE)
    assert flush(store, "r") is None
    assert len(registry.calls) == 1


def test_an_interrupted_registration_is_resumed_as_the_same_attempt(store: Store, registry: Registry) -> None:
    registry.errors = [ServiceUnavailableError("no answer"), ServiceUnavailableError("no answer")]
    for _ in range(2):
        with pytest.raises(ServiceUnavailableError):
            register_idempotent(store, "r", "m", "checkpoints/1", METRICS)
    assert json.loads(store.read("registration.json")) == {
        "name": "m",
        "checkpoint": "checkpoints/1",
        "metrics": METRICS,
        "attempt": registry.attempts[0],
    }, "old runs have this file"
    assert flush(store, "r") == "models:/m/1"
    assert len(registry.attempts) == 3
    assert len(set(registry.attempts)) == 1
    assert not store.exists(FILE)


@pytest.mark.parametrize(
    "other", [("n", "checkpoints/1", METRICS), ("m", "checkpoints/2", METRICS), ("m", "checkpoints/1", {})]
)
def test_another_request_replaces_the_pending_one(
    store: Store, registry: Registry, other: tuple[str, str, dict[str, float]]
) -> None:
    registry.errors = [ServiceUnavailableError("no answer")]
    with pytest.raises(ServiceUnavailableError):
        register_idempotent(store, "r", "m", "checkpoints/1", METRICS)
    register_idempotent(store, "r", *other)
    assert len(set(registry.attempts)) == 2
    assert registry.calls[1][:2] == (other[1], other[0])


def test_a_registration_that_is_rejected_is_not_pending(store: Store, registry: Registry) -> None:
    registry.errors = [RequestError("MLflow does not accept the model name")]
    with pytest.raises(RequestError):
        register_idempotent(store, "r", "m:m", "checkpoints/1", METRICS)
    assert flush(store, "r") is None


class Run:
    """A tracked run, of which `sync` needs this much."""

    run_id, tracking_uri = "r", "http://me:secret@host"

    def __init__(self, store: Store, *, running: bool) -> None:
        self.store, self.running = store, running
        self.delivery = self
        self.delivered, self.pending, self.set_aside = 7, 2, ["file a.png: too large"]

    def is_running(self) -> bool:
        return self.running


@pytest.mark.parametrize("running", [False, True])
def test_sync_registers_what_is_pending_unless_the_run_does_so_itself(
    store: Store, registry: Registry, running: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.errors = [ServiceUnavailableError("no answer")]
    with pytest.raises(ServiceUnavailableError):
        register_idempotent(store, "r", "m", "checkpoints/1", METRICS)
    monkeypatch.setattr(tracked_run, "open_run", lambda run, tracking_uri: Run(store, running=running))
    monkeypatch.setattr(pending, "drain", lambda delivery, deadline_s, on_progress: None)
    assert pending.sync("r") == {
        "run_id": "r",
        "delivered": 7,
        "waiting": 2,
        "set_aside": ["file a.png: too large"],
        "model": None if running else "models:/m/1",
    }
    assert store.exists(FILE) is running


def test_sync_reports_what_was_not_delivered(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracked_run, "open_run", lambda run, tracking_uri: Run(store, running=False))
    monkeypatch.setattr(pending, "drain", lambda delivery, deadline_s, on_progress: ConnectionError("no answer"))
    with pytest.raises(RequestError) as raised:
        pending.sync("r")
    assert str(raised.value) == (
        "2 records of run r are not delivered: MLflow at http://host did not accept them (no answer). Try again later."
    )
