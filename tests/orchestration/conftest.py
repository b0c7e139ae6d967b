"""What the tests of the Ray jobs share: a place for runs and an MLflow of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A SQLite file for the session's runs; making its tables takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, mlflow_database: str) -> Iterator[Path]:
    """A folder for a module's data and runs, which MLflow keeps in the session's database."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", mlflow_database)
        patch.setenv("RAY_TRAIN_ENABLE_STATE_TRACKING", "1")  # Ray then tells which process has which rank
        yield tmp_path_factory.mktemp("place")
