"""A registration that MLflow interrupts: made once, reported in time, and resumed without undoing decisions."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from mlflow import MlflowClient

from orchestration.engine import checkpoint
from orchestration.errors import ServiceUnavailableError
from orchestration.export.model_card import Provenance
from orchestration.registry import decisions, register
from orchestration.registry import publish as publication
from orchestration.tracking import mlflow_retry
from tests.orchestration.tiny_model import MEAN, SIZE, STD, Tiny, provenance_of

INPUT = register.InputSettings(SIZE, MEAN, STD)


@pytest.fixture(scope="module")
def uri(mlflow_database: str) -> str:
    return mlflow_database


@pytest.fixture(scope="module")
def method() -> Tiny:
    torch.manual_seed(0)
    return Tiny().eval()


@pytest.fixture(scope="module")
def provenance(tmp_path_factory: pytest.TempPathFactory, uri: str) -> Provenance:
    return provenance_of(tmp_path_factory.mktemp("registration"), uri)


def losing_the_answer(send: Callable, which: int, lost: list[str], name: str) -> Callable:
    """`send` as it is, but for the answer of its call number `which`, after which nothing is heard."""

    def call(*args: object, **kwargs: object) -> object:
        answer = send(*args, **kwargs)
        lost.append(name)
        if lost.count(name) == which:
            raise ConnectionError("the server was killed before it answered")
        return answer

    return call


def test_a_registration_whose_answers_are_lost_is_made_once(
    provenance: Provenance, method: Tiny, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_retry, "LONGEST_PAUSE_S", 0.2)
    calls: list[str] = []
    names = ("create_logged_model", "log_model_artifacts", "finalize_logged_model", "log_outputs",
             "create_registered_model", "create_model_version", "set_registered_model_alias")  # fmt: skip
    for name in names:
        monkeypatch.setattr(MlflowClient, name, losing_the_answer(getattr(MlflowClient, name), 1, calls, name))
    made = register.register(method, "lost-answers", provenance, INPUT, tracking_uri=uri)
    assert set(names) == set(calls)
    monkeypatch.undo()
    client = MlflowClient(uri)
    assert [v.version for v in client.search_model_versions("name='lost-answers'")] == [1]
    assert str(client.get_model_version_by_alias("lost-answers", "candidate").version) == made.version
    experiment = client.get_run(provenance.run_id).info.experiment_id
    logged = [model.model_id for model in client.search_logged_models([experiment]) if model.name == "lost-answers"]
    assert logged == [made.model_id]
    made_by_run = client.get_run(provenance.run_id).outputs
    assert made_by_run is not None
    outputs = [output.model_id for output in made_by_run.model_outputs]
    assert outputs.count(made.model_id) == 1
    assert register.load(made.uri, tracking_uri=uri)


Publish = Callable[[str, str], str]


@pytest.fixture
def publish(provenance: Provenance, uri: str, monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Registers a model without files (name, attempt); returns the version."""
    client = MlflowClient(uri)
    experiment = client.get_run(provenance.run_id).info.experiment_id
    logged = client.create_logged_model(experiment, source_run_id=provenance.run_id)
    monkeypatch.setattr(publication, "log", lambda client, packed: logged.model_id)

    def call(name: str, attempt: str) -> str:
        packed = publication.Packed(name, provenance, {"card": b"# card"}, (), ("images",), 5, f"{name} {attempt}")
        return publication.publish(MlflowClient(uri), packed).version

    return call


def candidate(name: str, uri: str) -> str | None:
    number = MlflowClient(uri).get_registered_model(name).aliases.get("candidate")
    return None if number is None else str(number)


def test_a_resumed_registration_keeps_decisions_and_newer_candidates(publish: Publish, uri: str) -> None:
    assert publish("again", "first") == candidate("again", uri) == "1"
    decisions.reject("models:/again/1", "looks at bags", tracking_uri=uri)
    assert publish("again", "first") == "1"
    assert candidate("again", uri) is None
    assert publish("again", "second") == candidate("again", uri) == "2"
    assert publish("again", "first") == "1"
    assert candidate("again", uri) == "2"
    MlflowClient(uri).delete_registered_model_alias("again", "candidate")
    assert publish("again", "second") == "2"
    assert candidate("again", uri) is None, "it was taken away by hand"


def test_a_version_whose_registration_was_interrupted_becomes_candidate_unless_a_newer_one_is(
    publish: Publish, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(attempt: str) -> None:
        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, "set_registered_model_alias", killed)
            with pytest.raises(KeyboardInterrupt):
                publish("cut", attempt)

    interrupted("first")
    publish("cut", "first")
    assert candidate("cut", uri) == "1"
    interrupted("second")
    decisions.reject("models:/cut/2", "looks at bags", tracking_uri=uri)
    publish("cut", "second")
    assert candidate("cut", uri) == "1"
    interrupted("third")
    assert publish("cut", "fourth") == "4"
    publish("cut", "third")
    assert candidate("cut", uri) == "4"


def test_a_registry_that_stays_unavailable_is_reported_in_time(
    provenance: Provenance, method: Tiny, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable(*_: object, **__: object) -> None:
        raise ConnectionError("nobody there")

    monkeypatch.setattr(MlflowClient, "create_logged_model", unavailable)
    monkeypatch.setattr(mlflow_retry, "RETRY_S", 0.5)
    with pytest.raises(ServiceUnavailableError, match="became unavailable while registering gone: nobody there"):
        register.register(method, "gone", provenance, INPUT, tracking_uri=uri)


def test_a_version_of_the_same_run_checkpoint_and_digest_is_found_again(
    publish: Publish, provenance: Provenance, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(uri)
    same = ("twice", provenance.run_id, provenance.checkpoint, provenance.weights)
    assert publication.find_registered(client, *same) is None
    with monkeypatch.context() as patch:
        patch.setattr(publication, "DONE", "another.tag")
        publish("twice", "interrupted")
    assert publication.find_registered(client, *same) is None, "it was never made candidate"
    first = publish("twice", "first")
    assert publication.find_registered(client, *same) == f"models:/twice/{first}"
    for at in range(4):
        other = [*same]
        other[at] = "0" * 32
        assert publication.find_registered(client, *other) is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    found = SimpleNamespace(digests={checkpoint.FILES[0]: provenance.weights})
    monkeypatch.setattr(checkpoint, "find", lambda address: found)
    made = register.register_checkpoint(provenance.checkpoint, "twice", provenance.run_id, {}, attempt="second")
    assert made == f"models:/twice/{first}"
