"""A run's wish to be registered. It lies in the run's storage until it is fulfilled, so that a tracking server which goes
away, or a driver that is killed, delays it and makes no version twice.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping

from datasets.store import Store
from orchestration import registry
from orchestration.errors import ServerAwayError

WISH = "registration.json"


def register_once(store: Store, run_id: str, name: str, checkpoint: str, metrics: Mapping[str, float]) -> str:
    """Register that checkpoint of the run in `store` under `name`; returns models:/name/version.

    An earlier call for the same that did not come to its end is taken up. Raises: ServerAwayError, the wish stays then;
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
        model = registry.register_checkpoint(
            wish["checkpoint"], wish["name"], run_id, wish["metrics"], attempt=wish["attempt"]
        )
    except ServerAwayError:
        raise
    except Exception:
        store.delete(WISH)  # asking again would fail again
        raise
    store.delete(WISH)
    return model
