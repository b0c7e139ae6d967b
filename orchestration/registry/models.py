"""`redress registry list | show | register`: registered models and their versions, as plain data."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from orchestration.config.settings import is_model_name
from orchestration.errors import RequestError
from orchestration.measures import DURING_TRAINING
from orchestration.registry import decisions, register
from orchestration.registry.locate import locate
from orchestration.registry.versions import aliases, find_version
from orchestration.tracking import mlflow_client, tracked_run
from orchestration.tracking.mlflow_filters import quoted
from orchestration.tracking.runs import show_run

METRIC = "metric."


def list_models(*, tracking_uri: str | None = None) -> list[dict[str, Any]]:
    """Every version of every registered model, newest first within a model."""
    client = mlflow_client.connect(tracking_uri, create=False)
    versions = []
    for model in mlflow.search_registered_models():  # not the client's own call, which returns at most a hundred
        found = client.search_model_versions(f"name = {quoted(model.name)}")
        versions += sorted(found, key=lambda version: -int(version.version))
    return [summary(client, version) for version in versions]


def show_model(uri: str, *, tracking_uri: str | None = None) -> dict[str, Any]:
    """One version with its tags, decisions and model card; for a bare NAME the decisions about all of its versions.

    Raises: RequestError where there is no such model or version.
    """
    client = mlflow_client.connect(tracking_uri, create=False)
    if not uri.startswith("models:/"):
        made = [asdict(one) for one in decisions.decisions(client, uri)]
        there = {alias: number for alias, number in aliases(client, uri).items() if number is not None}
        return {"model": uri, "aliases": there, "decisions": made}
    version = find_version(client, uri)
    made = [asdict(one) for one in decisions.decisions(client, version.name) if one.version == str(version.version)]
    found = {"tags": dict(version.tags), "decisions": made, "card": version.description or ""}
    return summary(client, version) | found


def register_run(run: str, name: str) -> dict[str, Any]:
    """Register the model of a run (its id, storage or one of its checkpoints) under `name`, as candidate.

    An interrupted earlier call is resumed; a version of the same weights is returned.
    Raises: RequestError.
    """
    try:
        is_model_name(name)
    except ValueError as error:
        raise RequestError(f"{name}: {error}.") from error
    located = locate(run)
    if located.run_id is None:
        raise RequestError(
            f"{run} is not a run of redress: {tracked_run.DESCRIPTION} is missing. Expected a run's id or storage."
        )
    found = show_run(located.run_id)["metrics"]
    metrics = {name: value for name, value in found.items() if not name.startswith(DURING_TRAINING)}
    address = located.checkpoint.address
    attempt = uuid.uuid5(uuid.NAMESPACE_OID, f"{located.run_id} {address} {name}").hex  # once, however often repeated
    model = register.register_checkpoint(address, name, located.run_id, metrics, attempt=attempt)
    return {"run_id": located.run_id, "checkpoint": address, "model": model, "metrics": metrics}


def summary(client: MlflowClient, version: ModelVersion) -> dict[str, Any]:
    aliases = client.get_registered_model(version.name).aliases
    created = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
    return {
        "model": f"models:/{version.name}/{version.version}",
        "aliases": sorted(alias for alias, number in aliases.items() if str(number) == str(version.version)),
        "decision": version.tags.get("decision"),
        "run_id": version.run_id,
        "created": created.isoformat(timespec="seconds"),
        "metrics": {k.removeprefix(METRIC): float(v) for k, v in version.tags.items() if k.startswith(METRIC)},
    }
