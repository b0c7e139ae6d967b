"""Which checkpoint a run, an address or a registered version refers to, and whether it is still the registered one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from orchestration.engine import checkpoint
from orchestration.errors import RequestError
from orchestration.registry.locate import locate
from orchestration.registry.versions import WEIGHTS
from orchestration.tracking import mlflow_client, tracked_run
from tests.orchestration.checkpoints import checkpoint_of
from tests.orchestration.reviewed_models import make_place, recipe


@pytest.fixture(scope="module")
def run(place: Path) -> tuple[tracked_run.TrackedRun, list[str]]:
    """A run with checkpoints of two epochs, the older one first."""
    made = make_place(place, persons=2)
    experiment = recipe(made)
    tracked = tracked_run.create_run(experiment.resolved(), "f" * 64)
    return tracked, [checkpoint_of(experiment, tracked.storage, 1, epoch) for epoch in (1, 2)]


@pytest.fixture
def client(place: Path, mlflow_database: str) -> MlflowClient:
    return mlflow_client.connect(mlflow_database)


Run = tuple[tracked_run.TrackedRun, list[str]]


def test_a_run_by_id_or_storage_is_its_newest_checkpoint(run: Run) -> None:
    tracked, (_, newest) = run
    for model in (tracked.run_id, tracked.storage):
        found = locate(model)
        assert found.checkpoint.address == newest
        assert (found.run, found.run_id) == (tracked.storage, tracked.run_id)


def test_a_checkpoint_s_address_is_that_checkpoint_and_its_run(run: Run) -> None:
    tracked, (older, _) = run
    found = locate(older)
    assert found.checkpoint.address == older
    assert (found.run, found.run_id) == (tracked.storage, tracked.run_id)


def test_a_checkpoint_outside_of_a_run_belongs_to_none(run: Run, place: Path) -> None:
    alone = checkpoint_of(recipe(make_place(place / "alone", persons=2)), str(place / "models"), 1)
    found = locate(alone)
    assert found.run_id is None
    assert found.run == str(place / "models")


def version(client: MlflowClient, name: str, run_id: str, **tags: str) -> str:
    client.create_registered_model(name)
    made = client.create_model_version(name, source="file:///nowhere/model", run_id=run_id, tags=tags)
    return f"models:/{name}/{made.version}"


def digest(address: str) -> str:
    return checkpoint.find(address).digests[checkpoint.FILES[0]]


def test_a_version_is_the_checkpoint_of_its_tag_or_else_of_its_run(client: MlflowClient, run: Run) -> None:
    tracked, (older, newest) = run
    tags: dict[str, Any] = {"checkpoint": older, WEIGHTS: digest(older)}
    assert locate(version(client, "tagged", tracked.run_id, **tags)).checkpoint.address == older
    assert locate(version(client, "untagged", tracked.run_id)).checkpoint.address == newest


def test_a_checkpoint_that_was_overwritten_is_not_the_version_s(client: MlflowClient, run: Run) -> None:
    tracked, (older, _) = run
    model = version(client, "overwritten", tracked.run_id, **{"checkpoint": older, WEIGHTS: "0" * 64})
    with pytest.raises(RequestError) as raised:
        locate(model)
    text = str(raised.value)
    assert f"exported from weights with SHA-256 000000000000…, and those at {older} have {digest(older)[:12]}…" in text
    assert "Register it as a new version, or name the checkpoint itself" in text


def test_a_version_whose_checkpoint_is_missing_says_how_to_use_the_graph_alone(
    client: MlflowClient, run: Run, place: Path
) -> None:
    model = version(client, "missing", run[0].run_id, checkpoint=str(place / "nowhere"))
    with pytest.raises(RequestError, match=r"nowhere, which cannot be used: .*load it with mlflow\.pyfunc\.load_model"):
        locate(model)


def test_what_is_no_model_is_a_wrong_request(client: MlflowClient, place: Path) -> None:
    for model in ("models:/unheard-of/1", "0" * 32, str(place / "nowhere")):
        with pytest.raises(RequestError):
            locate(model)
