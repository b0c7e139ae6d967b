"""The servers of the system tests, each started once. One that is missing or does not start fails its tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.servers.mlflow_server import mlflow_server
from tests.servers.ray_nodes import Cluster, ray_nodes
from tests.servers.swift import ObjectStore, swift

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A running OpenStack Swift with its S3 API."""
    with swift(tmp_path_factory.mktemp("swift")) as store:
        yield store


@pytest.fixture
def s3(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """The same, with its endpoint and keys in this process's environment."""
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    return object_store


@pytest.fixture(scope="session")
def tracking_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running MLflow server."""
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as address:
        yield address


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A running headless Chromium."""
    from tests.servers.chromium import chromium

    with chromium() as found:
        yield found


@pytest.fixture(scope="session")
def two_nodes(object_store: ObjectStore, tracking_server: str) -> Iterator[Cluster]:
    """A Ray cluster of two nodes with token authentication, whose nodes know the object store and the MLflow server."""
    environment = object_store.environment | {"MLFLOW_TRACKING_URI": tracking_server}
    with ray_nodes(2, environment=environment) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return Path(__file__).resolve().parents[2]
