"""The checkpoint that a run, an address or a registered version refers to."""

from __future__ import annotations

import json
from dataclasses import dataclass

from datasets.storage.store import StoreError, open_store
from orchestration.addresses import RUN_ID
from orchestration.engine import checkpoint
from orchestration.engine.checkpoint import Checkpoint
from orchestration.errors import RequestError
from orchestration.progress import doing
from orchestration.registry.versions import WEIGHTS, find_version
from orchestration.tracking import mlflow_client, tracked_run


@dataclass(frozen=True)
class Located:
    """A model's checkpoint and its run: the storage's address and the id (None where the storage does not tell it)."""

    checkpoint: Checkpoint
    run: str
    run_id: str | None


def locate(model: str) -> Located:
    """The checkpoint of a run (id or storage), at an address, or of a registered version (models:/…).

    Raises: RequestError where there is none, or where a version's checkpoint was replaced after registration.
    """
    if model.startswith("models:/"):
        with doing(f"looking for {model} in MLflow"):
            return locate_version(model)
    try:
        address = model
        if RUN_ID.fullmatch(model):
            address = tracked_run.open_run(model).storage
        found = checkpoint.find(address)
        run = found.address.rpartition(f"/{checkpoint.FOLDER}/")[0] or found.address
        store = open_store(run)
        described = json.loads(store.read(tracked_run.DESCRIPTION)) if store.exists(tracked_run.DESCRIPTION) else {}
    except StoreError as error:
        raise RequestError(str(error)) from error
    return Located(found, run, described.get("run_id"))


def locate_version(model: str) -> Located:
    """The checkpoint that a registered version was exported from.

    The network itself is scored, not the served graph: at full speed, for every protocol, and with its cached descriptors.
    Registration checked that both give the same features; the digest of the weights is checked here.
    """
    version = find_version(mlflow_client.connect(create=False), model)
    address = version.tags.get("checkpoint") or tracked_run.open_run(version.run_id or "").storage
    try:
        located = locate(address)
    except RequestError as error:
        raise RequestError(
            f"{model} was exported from the checkpoint {address}, which cannot be used: {error} To use the registered graph "
            "alone, load it with mlflow.pyfunc.load_model."
        ) from error
    registered, there = version.tags.get(WEIGHTS), located.checkpoint.digests[checkpoint.FILES[0]]
    if registered and registered != there:
        raise RequestError(
            f"{model} was exported from weights with SHA-256 {registered[:12]}…, and those at {address} have {there[:12]}…: "
            "the checkpoint was overwritten. Register it as a new version, or name the checkpoint itself."
        )
    return located
