"""Versions found by name, address and alias; each error lists what exists. Reading an alias imports no torch."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from orchestration.errors import RequestError
from orchestration.registry.versions import aliases, existing, find, find_version, registered, uri
from orchestration.tracking import mlflow_client
from orchestration.tracking.provenance import ROOT

NUMBER = itertools.count()


@pytest.fixture
def client(place: object, mlflow_database: str) -> MlflowClient:
    return mlflow_client.connect(mlflow_database)


@pytest.fixture
def model(client: MlflowClient) -> str:
    """A registered model of a name of its own with versions 1 and 2; 2 is the candidate, 1 the champion."""
    name = f"versions-{next(NUMBER)}"
    client.create_registered_model(name)
    for _ in range(2):
        client.create_model_version(name, source="file:///nowhere/model")
    client.set_registered_model_alias(name, "candidate", "2")
    client.set_registered_model_alias(name, "champion", "1")
    return name


def test_importing_the_module_imports_no_torch_and_nothing_that_trains() -> None:
    code = (
        "import sys; import orchestration.registry.versions; "
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'torch', 'torchvision', 'ray', 'methods'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("address", "number"),
    [
        ("{name}", "2"),
        ("models:/{name}/1", "1"),
        ("models:/{name}/2", "2"),
        ("models:/{name}@champion", "1"),
        ("models:/{name}@candidate", "2"),
    ],
)
def test_a_version_is_found_by_number_by_alias_and_by_its_model_s_name(
    client: MlflowClient, model: str, address: str, number: str
) -> None:
    found = find(client, address.format(name=model))
    assert (found.name, str(found.version)) == (model, number)
    assert uri(found) == f"models:/{model}/{number}"


def test_the_aliases_that_do_not_exist_are_none(client: MlflowClient, model: str) -> None:
    assert aliases(client, model) == {"candidate": "2", "champion": "1", "previous": None}


def test_an_alias_of_a_deleted_version_is_an_error_that_names_it(client: MlflowClient, model: str) -> None:
    client.set_registered_model_alias(model, "previous", "1")
    real = client.get_model_version

    def without_the_first(name: str, number: str) -> ModelVersion:  # a database may drop aliases of what is deleted
        return real(name, "9" if number == "1" else number)

    client.get_model_version = without_the_first  # type: ignore[method-assign, assignment]
    with pytest.raises(RequestError, match="the alias champion points to version 1, which was deleted"):
        aliases(client, model)


def test_a_model_without_candidate_is_an_error_that_says_what_to_name(client: MlflowClient, model: str) -> None:
    client.delete_registered_model_alias(model, "candidate")
    with pytest.raises(RequestError) as raised:
        find(client, model)
    text = str(raised.value)
    assert "has no candidate: no version has that alias" in text
    assert f"`redress registry register RUN {model}`" in text
    assert f"models:/{model}/VERSION" in text


@pytest.mark.parametrize("ending", ["/9", "/latest", "@previous"])
def test_a_missing_version_is_an_error_that_lists_versions_and_aliases(
    client: MlflowClient, model: str, ending: str
) -> None:
    with pytest.raises(RequestError) as raised:
        find_version(client, f"models:/{model}{ending}")
    text = str(raised.value)
    assert text.startswith(f"models:/{model}{ending}: ")
    assert text.endswith(f"{model} has versions 1, 2 and @candidate (version 2), @champion (version 1).")


def test_a_missing_model_is_an_error_that_lists_models_and_no_locks(client: MlflowClient, model: str) -> None:
    tags = {"lock.holder": "ann", "lock.expires": "0"}
    client.create_registered_model(f"{model}.lock-1", tags=tags)
    try:
        with pytest.raises(RequestError, match="registered are ") as raised:
            find_version(client, "models:/unheard-of/1")
        assert model in str(raised.value)
        assert ".lock-" not in str(raised.value)
    finally:
        client.delete_registered_model(f"{model}.lock-1")
    with pytest.raises(RequestError, match=r"no registered model 'unheard-of'.*`redress registry list`"):
        registered(client, "unheard-of")


def test_a_model_may_have_neither_versions_nor_aliases(client: MlflowClient) -> None:
    client.create_registered_model("bare")
    assert existing(client, "bare") == "bare has no version and no alias"
