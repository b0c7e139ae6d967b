"""A pending registration: the request to register a run's model, kept in the run's storage until it is done.

A tracking server that becomes unavailable or a driver that is killed delays the registration and makes no version twice.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

from datasets.storage.store import Store
from orchestration.errors import RequestError, ServiceUnavailableError, first_line, without_secret
from orchestration.progress import Progress
from orchestration.registry import register
from orchestration.tracking import tracked_run
from orchestration.tracking.forwarder import drain

FILE = "registration.json"
SYNC_S = 60.0


def register_idempotent(store: Store, run_id: str, name: str, checkpoint: str, metrics: Mapping[str, float]) -> str:
    """Register that checkpoint of the run in `store` under `name`; returns models:/name/version.

    An interrupted earlier call with the same arguments is resumed.
    Raises: ServiceUnavailableError, and the registration stays pending; what `register.register_checkpoint` raises.
    """
    wanted = {"name": name, "checkpoint": checkpoint, "metrics": dict(metrics)}
    pending = json.loads(store.read(FILE)) if store.exists(FILE) else {}
    if {key: pending.get(key) for key in wanted} != json.loads(json.dumps(wanted)):
        pending = wanted | {"attempt": uuid.uuid4().hex}
        store.write(FILE, json.dumps(pending, indent=1).encode())
    return flush(store, run_id) or ""


def flush(store: Store, run_id: str) -> str | None:
    """Complete the registration pending in `store`; returns models:/name/version, None where none is pending.

    Raises: as `register_idempotent`.
    """
    if not store.exists(FILE):
        return None
    pending = json.loads(store.read(FILE))
    try:
        model = register.register_checkpoint(
            pending["checkpoint"], pending["name"], run_id, pending["metrics"], attempt=pending["attempt"]
        )
    except ServiceUnavailableError:
        raise
    except Exception:
        store.delete(FILE)  # another attempt would fail again
        raise
    store.delete(FILE)
    return model


def sync(run: str, *, deadline_s: float = SYNC_S, tracking_uri: str | None = None) -> dict[str, Any]:
    """Deliver to MLflow what a run's storage has and MLflow lacks, and complete a pending registration.

    set_aside: what MLflow refused for good, with its reasons.
    Raises: RequestError where MLflow does not accept all records within `deadline_s` seconds.
    """
    tracked = tracked_run.open_run(run, tracking_uri=tracking_uri)
    delivery = tracked.delivery
    with Progress().bar("delivering to MLflow", "records") as bar:
        error = drain(delivery, deadline_s, bar)
    if error is not None:
        raise RequestError(
            f"{delivery.pending} records of run {tracked.run_id} are not delivered: MLflow at "
            f"{without_secret(tracked.tracking_uri)} did not accept them ({first_line(error)}). Try again later."
        )
    # a running run registers its model itself
    model = None if tracked.is_running() else flush(tracked.store, tracked.run_id)
    return {
        "run_id": tracked.run_id,
        "delivered": delivery.delivered,
        "waiting": delivery.pending,
        "set_aside": delivery.set_aside,
        "model": model,
    }
