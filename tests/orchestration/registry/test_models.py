"""Registered models as plain data, and a run registered by hand. Of trained runs: tests/orchestration/cli/test_commands.py."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow import MlflowClient

from orchestration.errors import RequestError
from orchestration.registry import models, register
from orchestration.registry.decisions import reject
from orchestration.registry.models import list_models, register_run, show_model
from orchestration.tracking import mlflow_client


@pytest.fixture(scope="module")
def client(place: Path, mlflow_database: str) -> MlflowClient:
    """Two versions of `one` (the second is the candidate), one of `two`; version 1 of `one` is rejected."""
    client = mlflow_client.connect(mlflow_database)
    for name, number in (("one", 2), ("two", 1)):
        client.create_registered_model(name)
        for version in range(1, number + 1):
            tags = {"metric.general/mAP": f"0.{version}", "data.fingerprint": "f"}
            client.create_model_version(name, source="file:///nowhere/model", tags=tags, description=f"card {version}")
    client.set_registered_model_alias("one", "candidate", "2")
    client.set_registered_model_alias("one", "mine", "2")
    reject("models:/one/1", "looks at bags", who="ann")
    return client


def test_versions_are_listed_newest_first_within_a_model(client: MlflowClient) -> None:
    listed = [one for one in list_models() if one["model"].startswith(("models:/one/", "models:/two/"))]
    assert [one["model"] for one in listed] == ["models:/one/2", "models:/one/1", "models:/two/1"]
    newest, rejected, other = listed
    assert (newest["aliases"], newest["decision"]) == (["candidate", "mine"], None)
    assert (rejected["aliases"], rejected["decision"]) == ([], "rejected")
    assert (newest["metrics"], other["metrics"]) == ({"general/mAP": 0.2}, {"general/mAP": 0.1})
    assert newest["created"].endswith("+00:00")
    assert json.loads(json.dumps(listed)) == listed


def test_a_version_is_shown_with_its_tags_decisions_and_card(client: MlflowClient) -> None:
    found = show_model("models:/one/1")
    assert found["card"] == "card 1"
    assert found["tags"]["data.fingerprint"] == "f"
    assert [(one["what"], one["who"], one["why"]) for one in found["decisions"]] == [
        ("rejected", "ann", "looks at bags")
    ]
    assert show_model("models:/one@mine")["decisions"] == [], "those of its own version alone"


def test_a_name_shows_the_aliases_and_decisions_of_all_versions(client: MlflowClient) -> None:
    found = show_model("one")
    assert (found["model"], found["aliases"]) == ("one", {"candidate": "2"})
    assert [one["version"] for one in found["decisions"]] == ["1"]
    assert show_model("two") == {"model": "two", "aliases": {}, "decisions": []}


def test_what_does_not_exist_is_a_wrong_request(client: MlflowClient) -> None:
    for uri in ("unheard-of", "models:/unheard-of/1", "models:/one/9", "models:/one@champion"):
        with pytest.raises(RequestError):
            show_model(uri)


METRICS = {
    "general/mAP": 0.5,
    "validation/general/mAP": 0.7,
    "selection/general/mAP": 0.6,
}  # those of a model, of a training


@pytest.fixture
def located(monkeypatch: pytest.MonkeyPatch) -> Any:
    found = SimpleNamespace(run_id="r", checkpoint=SimpleNamespace(address="/runs/r/checkpoints/1"))
    monkeypatch.setattr(models, "locate", lambda run: found)
    monkeypatch.setattr(models, "show_run", lambda run_id: {"metrics": METRICS})
    return found


def test_a_run_is_registered_with_its_checkpoint_and_metrics(located: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def register_checkpoint(*arguments: Any, attempt: str) -> str:
        calls.append((*arguments, attempt))
        return "models:/m/1"

    monkeypatch.setattr(register, "register_checkpoint", register_checkpoint)
    metrics = {"general/mAP": 0.5}
    assert register_run("r", "m") == {
        "run_id": "r",
        "checkpoint": "/runs/r/checkpoints/1",
        "model": "models:/m/1",
        "metrics": metrics,
    }
    assert calls[0][:-1] == ("/runs/r/checkpoints/1", "m", "r", metrics)
    register_run("r", "m")
    assert calls[1] == calls[0], "a repeated request resumes what an interrupted one began"
    register_run("r", "other")
    assert calls[2][-1] != calls[0][-1]


@pytest.mark.parametrize("name", ["", "a/b", "a:b", 'ann\'s "best"'])
def test_a_name_that_mlflow_does_not_take_is_refused_before_work(located: Any, name: str) -> None:
    located.run_id = None
    with pytest.raises(RequestError, match=f"^{name}: "):
        register_run("r", name)


def test_a_checkpoint_without_a_run_cannot_be_registered(located: Any) -> None:
    located.run_id = None
    with pytest.raises(
        RequestError, match=r"^somewhere is not a run of redress: run\.json is missing\. Expected a run's id"
    ):
        register_run("somewhere", "m")
