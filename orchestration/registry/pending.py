"""A run's wish to be registered. It lies in the run's storage until it is fulfilled, so that a tracking server which goes
away, or a driver that is killed, delays it and makes no version twice.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

from datasets.storage.store import Store
from orchestration.errors import RequestError, ServiceUnavailableError, first_line, without_secret
from orchestration.registry import register
from orchestration.tracking import tracked_run
from orchestration.tracking.forwarder import drain

WISH = "registration.json"
SYNC_S = 60.0


def register_once(store: Store, run_id: str, name: str, checkpoint: str, metrics: Mapping[str, float]) -> str:
    """Register that checkpoint of the run in `store` under `name`; returns models:/name/version.

    An earlier call for the same that did not come to its end is taken up. Raises: ServiceUnavailableError, the wish stays then;
    what `registry.register` raises.
    """
    asked = {"name": name, "checkpoint": checkpoint, "metrics": dict(metrics)}
    wish = json.loads(store.read(WISH)) if store.exists(WISH) else {}
    if {key: wish.get(key) for key in asked} != json.loads(json.dumps(asked)):
        wish = asked | {"attempt": uuid.uuid4().hex}
        store.write(WISH, json.dumps(wish, indent=1).encode())
    return fulfil(store, run_id) or ""


def fulfil(store: Store, run_id: str) -> str | None:
    """Register what waits in `store`; returns models:/name/version, None where nothing waits. Raises: as `register_once`."""
    if not store.exists(WISH):
        return None
    wish = json.loads(store.read(WISH))
    try:
        model = register.register_checkpoint(
            wish["checkpoint"], wish["name"], run_id, wish["metrics"], attempt=wish["attempt"]
        )
    except ServiceUnavailableError:
        raise
    except Exception:
        store.delete(WISH)  # asking again would fail again
        raise
    store.delete(WISH)
    return model


def sync(run: str, *, deadline_s: float = SYNC_S, tracking_uri: str | None = None) -> dict[str, Any]:
    """Deliver what a run's storage has and MLflow lacks, and register the model that waits there, if any.

    Raises: RequestError where MLflow does not take it in time.
    """
    tracked = tracked_run.open_run(run, tracking_uri=tracking_uri)
    delivery = tracked.delivery
    error = drain(delivery, deadline_s)
    if error is not None:
        raise RequestError(
            f"{delivery.pending} records of run {tracked.run_id} wait: MLflow at "
            f"{without_secret(tracked.tracking_uri)} did not take them ({first_line(error)}). Try again later."
        )
    # a run that is going on registers its model itself
    model = None if tracked.is_going_on() else fulfil(tracked.store, tracked.run_id)
    return {"run_id": tracked.run_id, "delivered": delivery.delivered, "waiting": delivery.pending, "model": model}
