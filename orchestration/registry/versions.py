"""The versions of a registered model: found by name or address, and by the aliases that point to them."""

from __future__ import annotations

from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from orchestration.errors import RequestError, first_line
from orchestration.registry.lock import is_lock
from orchestration.tracking.mlflow_filters import quoted

CANDIDATE, CHAMPION, PREVIOUS = "candidate", "champion", "previous"
ALIASES = (CANDIDATE, CHAMPION, PREVIOUS)

WEIGHTS = "sha256.weights"  # tag: the digest of the weights' file that the graph was exported from

Aliases = dict[str, str | None]


def find(client: MlflowClient, model: str) -> ModelVersion:
    """The version at models:/NAME/VERSION or models:/NAME@ALIAS; NAME alone is its candidate. Raises: RequestError."""
    if model.startswith("models:/"):
        return find_version(client, model)
    if CANDIDATE not in registered(client, model).aliases:
        raise RequestError(
            f"{model} has no candidate: no version has that alias. Register a run (`redress registry register RUN {model}`), "
            f"or name a version, models:/{model}/VERSION."
        )
    return find_version(client, f"models:/{model}@{CANDIDATE}")


def find_version(client: MlflowClient, uri: str) -> ModelVersion:
    """The version at models:/NAME/VERSION or models:/NAME@ALIAS. Raises: RequestError that lists the existing ones."""
    name, at, alias = uri.removeprefix("models:/").partition("@")
    if not at:
        name, _, number = name.rpartition("/")
    try:
        return client.get_model_version_by_alias(name, alias) if at else client.get_model_version(name, number)
    except MlflowException as error:
        raise RequestError(
            f"{uri}: {first_line(error).rstrip('.')}. Expected models:/NAME/VERSION or models:/NAME@ALIAS of a registered "
            f"model; {existing(client, name)}."
        ) from error


def existing(client: MlflowClient, name: str) -> str:
    """The versions and aliases of a registered model, or the registered models, as a phrase."""
    try:
        model = client.get_registered_model(name)
    except MlflowException:
        names = sorted(model.name for model in mlflow.search_registered_models() if not is_lock(model.tags))
        return (
            f"registered are {', '.join(names)}" if names else "nothing is registered yet (`redress registry register`)"
        )
    versions = sorted(int(version.version) for version in client.search_model_versions(f"name = {quoted(name)}"))
    aliases = ", ".join(f"@{alias} (version {number})" for alias, number in sorted(model.aliases.items()))
    numbers = ", ".join(map(str, versions))
    listed = f"version{'s' if len(versions) > 1 else ''} {numbers}" if versions else "no version"
    return f"{name} has {listed} and {aliases or 'no alias'}"


def aliases(client: MlflowClient, name: str) -> Aliases:
    """The versions that the three aliases point to; None for a missing alias.

    Raises: RequestError where there is no such model, or an alias points to a deleted version.
    """
    there = registered(client, name).aliases
    found: Aliases = {alias: str(there[alias]) if alias in there else None for alias in ALIASES}
    for alias, number in found.items():
        check_exists(client, name, alias, number)
    return found


def check_exists(client: MlflowClient, name: str, alias: str, number: str | None) -> None:
    """Check that the version of an alias exists. Raises: RequestError."""
    if number is None:
        return
    try:
        client.get_model_version(name, number)
    except MlflowException as error:
        raise RequestError(
            f"{name}: the alias {alias} points to version {number}, which was deleted. Set the alias to another version, or "
            "delete it, in MLflow."
        ) from error


def registered(client: MlflowClient, name: str) -> Any:
    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        raise RequestError(
            f"no registered model {name!r}: {first_line(error)}. `redress registry list` lists the registered models."
        ) from error


def uri(version: ModelVersion) -> str:
    return f"models:/{version.name}/{version.version}"
