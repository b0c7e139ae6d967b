"""Which checkpoint is meant by a run, an address or a registered version."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from datasets.storage.store import StoreError, open_store
from orchestration.engine import checkpoint
from orchestration.engine.checkpoint import Checkpoint
from orchestration.errors import RequestError
from orchestration.registry.versions import WEIGHTS, find_version
from orchestration.tracking import mlflow_client, tracked_run


@dataclass(frozen=True)
class Located:
    """A model's checkpoint and the run that it is of: storage's address and id (None where nothing tells)."""

    checkpoint: Checkpoint
    run: str
    run_id: str | None


def locate(model: str) -> Located:
    """The checkpoint of a run (id or storage), at an address, or that a registered version was made of (models:/…).

    Raises: RequestError where there is none, or where a version's is no longer the one that was registered.
    """
    if model.startswith("models:/"):
        return locate_version(model)
    try:
        address = model
        if re.fullmatch(r"[0-9a-f]{32}", model):
            address = tracked_run.open_run(model).storage
        found = checkpoint.find(tracked_run.absolute(address))
        run = found.address.rpartition(f"/{checkpoint.FOLDER}/")[0] or found.address
        store = open_store(run)
        described = json.loads(store.read(tracked_run.DESCRIPTION)) if store.exists(tracked_run.DESCRIPTION) else {}
    except StoreError as error:
        raise RequestError(str(error)) from error
    return Located(found, run, described.get("run_id"))


def locate_version(model: str) -> Located:
    """The checkpoint of a registered version: what is scored is the network itself, at full speed and for every protocol,
    and its stored descriptors are of use. That the served graph gives the same features was checked when it was made; that
    the checkpoint is still the one that it was made of is checked here, by its digest.
    """
    version = find_version(mlflow_client.connect(), model)
    address = version.tags.get("checkpoint") or tracked_run.open_run(version.run_id or "").storage
    try:
        located = locate(address)
    except RequestError as error:
        raise RequestError(
            f"{model} was made of the checkpoint {address}, which cannot be used: {error} The registered graph needs none: "
            "mlflow.pyfunc.load_model."
        ) from error
    registered, there = version.tags.get(WEIGHTS), located.checkpoint.digests[checkpoint.FILES[0]]
    if registered and registered != there:
        raise RequestError(
            f"{model} was made of weights with SHA-256 {registered[:12]}…, and those at {address} have {there[:12]}…: the "
            "checkpoint was written again. Register it as a new version, or name the checkpoint itself."
        )
    return located
