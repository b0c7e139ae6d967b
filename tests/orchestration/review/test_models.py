"""The models under review: who is compared with whom, on which data, and what an error says to do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from orchestration.engine.checkpoint import CorruptCheckpointError
from orchestration.errors import RequestError, UnreachableError
from orchestration.registry import versions
from orchestration.registry.gate import Gate
from orchestration.review import models
from orchestration.review.models import ReviewedModel, changed_data, check_data, data_of, fingerprints, located

OLD, NEW = "a" * 64, "b" * 64


def version(number: str, name: str = "m", *, fingerprint: str = OLD, run_id: str | None = "run") -> Any:
    tags = {"data.fingerprint": fingerprint} if fingerprint else {}
    return SimpleNamespace(name=name, version=number, tags=tags, run_id=run_id)


def reviewed(number: str, label: str, fingerprint: str = OLD, data: str = "/data") -> ReviewedModel:
    found = SimpleNamespace(checkpoint=SimpleNamespace(experiment={"data": data}), run_id="run of the storage")
    return ReviewedModel(version(number, fingerprint=fingerprint), found, label)  # type: ignore[arg-type]


class Registry:
    """A client of versions by number, and what `versions.find` and `aliases` say of them."""

    def __init__(self, champion: str | None, *others: Any) -> None:
        self.champion = champion
        self.there = {f"models:/{one.name}/{one.version}": one for one in (version("1"), version("2"), *others)}

    def get_model_version(self, name: str, number: str) -> Any:
        return self.there[f"models:/{name}/{number}"]


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Calls `models_under_review` with a registry; checkpoints are not looked for, their remedies are remembered."""
    remedies: dict[str, str] = {}

    def find_checkpoint(version: Any, remedy: str) -> str:
        remedies[version.version] = remedy
        return f"checkpoint of {version.version}"

    monkeypatch.setattr(versions, "find", lambda client, model: client.there[model])
    monkeypatch.setattr(versions, "aliases", lambda client, name: {"champion": client.champion})
    monkeypatch.setattr(models.gate, "gate_of", lambda client, name: Gate(tolerance=0.02))
    monkeypatch.setattr(models, "located", find_checkpoint)

    def call(registry: Registry, model: str, against: str | None = None) -> Any:
        return *models.models_under_review(registry, model, against), remedies  # type: ignore[arg-type]

    return call


def test_a_candidate_is_compared_with_the_champion_by_the_model_s_gate(compared: Any) -> None:
    gate, candidate, champion, remedies = compared(Registry("1"), "models:/m/2")
    assert gate == Gate(tolerance=0.02)
    assert (candidate.label, candidate.located) == ("candidate 2", "checkpoint of 2")
    assert (champion.label, champion.located) == ("champion 1", "checkpoint of 1")
    assert "redress registry register RUN m" in remedies["2"]
    assert "redress registry rollback m --reason" in remedies["1"]


def test_without_a_champion_the_candidate_is_alone(compared: Any) -> None:
    _, candidate, champion, _ = compared(Registry(None), "models:/m/2")
    assert candidate.label == "candidate 2"
    assert champion is None


def test_another_version_can_stand_for_the_champion(compared: Any) -> None:
    other = version("7", "other")
    registry = Registry("1", version("3"), other)
    _, _, champion, remedies = compared(registry, "models:/m/2", "models:/m/3")
    assert champion.label == "version 3"
    assert remedies["3"] == "name another version with --with"
    _, _, champion, _ = compared(registry, "models:/m/2", "models:/other/7")
    assert champion.label == "other 7", "a model of another name is called by it"


@pytest.mark.parametrize("against", [None, "models:/m/1"])
def test_a_version_is_not_compared_with_itself(compared: Any, against: str | None) -> None:
    with pytest.raises(RequestError, match=r"models:/m/1 is the champion itself\. Name another version"):
        compared(Registry("1"), "models:/m/1", against)


def test_a_model_knows_its_data_and_its_run() -> None:
    one = reviewed("2", "candidate 2")
    assert (one.fingerprint, one.run_id) == (OLD, "run")
    bare = ReviewedModel(version("2", fingerprint="", run_id=None), one.located, "candidate 2")
    assert (bare.fingerprint, bare.run_id) == ("", "run of the storage")


@pytest.mark.parametrize("error", [RequestError("the weights are missing"), CorruptCheckpointError("bytes differ")])
def test_a_checkpoint_that_cannot_be_used_is_reported_with_the_remedy(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(models, "locate", lambda uri: SimpleNamespace(checkpoint=None, run_id="run"))
    monkeypatch.setattr(models.checkpoint, "load_tensors", fail)
    with pytest.raises(RequestError) as raised:
        located(version("2"), "do something else")
    assert str(raised.value) == f"{error}\nNothing was compared. Restore the checkpoint, or do something else."


def test_an_unreachable_server_is_no_missing_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(uri: str) -> None:
        raise UnreachableError("no answer")

    monkeypatch.setattr(models, "locate", fail)
    with pytest.raises(UnreachableError, match=r"^no answer$"):
        located(version("2"), "do something else")


def test_a_version_without_a_run_has_no_place_for_its_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "locate", lambda uri: SimpleNamespace(checkpoint=None, run_id=None))
    monkeypatch.setattr(models.checkpoint, "load_tensors", lambda *_: {})
    with pytest.raises(RequestError, match=r"models:/m/2 belongs to no run.*Register it from a run"):
        located(version("2", run_id=None), "")
    assert located(version("2"), "").run_id is None, "the version's own run will do"


def test_models_of_one_data_set_are_compared_on_it() -> None:
    candidate = reviewed("2", "candidate 2", data="s3://bucket/ltcc")
    for champion in (None, reviewed("1", "champion 1")):
        assert data_of(candidate, champion, None) == ("s3://bucket/ltcc", "")
        assert data_of(candidate, champion, "s3://bucket/prcc") == ("s3://bucket/prcc", "")


def test_models_of_different_data_are_compared_on_data_that_the_user_names() -> None:
    candidate, champion = reviewed("2", "candidate 2", NEW), reviewed("1", "champion 1", "")
    difference = (
        "champion 1 was trained on data with fingerprint unknown… and "
        "candidate 2 was trained on data with fingerprint bbbbbbbbbbbb…"
    )
    with pytest.raises(RequestError) as raised:
        data_of(candidate, champion, None)
    assert str(raised.value) == (
        f"models:/m/2: {difference}. Name one data set to compare both on with --data ADDRESS. Promotion will then need "
        "--override."
    )
    assert data_of(candidate, champion, "s3://bucket/prcc") == ("s3://bucket/prcc", difference)


def dataset(fingerprint: str) -> Any:
    return SimpleNamespace(address="s3://key:secret@bucket/ltcc", fingerprint=fingerprint)


def test_data_that_changed_since_training_are_used_only_if_the_user_names_them() -> None:
    candidate = reviewed("2", "candidate 2")
    assert changed_data(candidate, None, dataset(OLD), given=False) == ""
    difference = "s3://bucket/ltcc has fingerprint bbbbbbbbbbbb… and candidate 2 was trained on data with aaaaaaaaaaaa…"
    assert changed_data(candidate, None, dataset(NEW), given=True) == difference
    with pytest.raises(RequestError) as raised:
        changed_data(candidate, None, dataset(NEW), given=False)
    assert difference in str(raised.value)
    assert "Set --data ADDRESS to the unchanged data" in str(raised.value)


def test_the_error_says_which_model_does_not_fit_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    candidate, champion = reviewed("2", "candidate 2"), reviewed("1", "champion 1")

    def check(checkpoint: Any, dataset: Any, protocol: Any) -> None:
        if checkpoint is champion.located.checkpoint:
            raise RequestError("it needs masks")

    monkeypatch.setattr(models, "check_fits", check)
    check_data((None, candidate), dataset(OLD), None)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=r"^champion 1 \(models:/m/1\): it needs masks$"):
        check_data((champion, candidate), dataset(OLD), None)  # type: ignore[arg-type]


def test_fingerprints_are_one_line_where_they_agree() -> None:
    candidate, champion = reviewed("2", "candidate 2"), reviewed("1", "champion 1", NEW)
    assert fingerprints(candidate, None, dataset(OLD)) == {"fingerprint (all)": OLD}
    assert fingerprints(candidate, champion, dataset(OLD)) == {
        "compared on": OLD,
        "candidate 2 trained on": OLD,
        "champion 1 trained on": NEW,
    }
    assert fingerprints(reviewed("2", "candidate 2", ""), None, dataset(OLD))["candidate 2 trained on"] == "unknown"
