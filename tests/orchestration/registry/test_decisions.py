"""Decisions about registered models: with evidence, one at a time, on record, and undone by one command."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

from orchestration.cli.main import main
from orchestration.errors import RequestError, ServiceUnavailableError
from orchestration.registry import decisions
from orchestration.registry.decisions import EVIDENCE, promote, reject, rollback
from orchestration.registry.gate import set_gate
from orchestration.registry.models import list_models
from orchestration.registry.versions import aliases, find
from orchestration.tracking import mlflow_client
from orchestration.tracking.mlflow_filters import quoted

GOOD = {"champion": 0.2, "candidate": 0.3, "low": 0.05, "high": 0.15}
BAD = {"champion": 0.2, "candidate": 0.1, "low": -0.15, "high": -0.05}


@pytest.fixture
def client(place: object, mlflow_database: str) -> MlflowClient:
    return mlflow_client.connect(mlflow_database)


def add(client: MlflowClient, name: str, against: str | None = None, **found: Any) -> str:
    """A new version, as candidate, with the evidence that a comparison leaves; returns its number."""
    if not client.search_registered_models(f"name = {quoted(name)}"):
        client.create_registered_model(name)
    version = client.create_model_version(name, source="file:///nowhere/model")
    evidence = {
        "model": f"models:/{name}/{version.version}", "against": against, "same_data": True, "data_note": "",
        "select_on_test": False, "confidence": 0.95, "differences": {"clothes-changing/mAP": GOOD},
    }  # fmt: skip
    tags = {EVIDENCE: json.dumps(evidence | found), "review.page": f"reviews/{version.version}/review.html"}
    for key, value in tags.items():
        client.set_model_version_tag(name, version.version, key, value)
    client.set_registered_model_alias(name, "candidate", version.version)
    return str(version.version)


def test_promotion_moves_the_aliases_and_says_who_when_and_why(client: MlflowClient) -> None:
    first, second = add(client, "moves"), None
    promote("moves", who="ann")
    assert aliases(client, "moves") == {"candidate": None, "champion": first, "previous": None}
    second = add(client, "moves", first)
    told = promote(f"models:/moves/{second}", who="bob")
    assert aliases(client, "moves") == {"candidate": None, "champion": second, "previous": first}
    assert told["aliases"] == {"champion": second, "previous": first}
    tags = client.get_model_version("moves", second).tags
    assert (tags["decision"], tags["decision.by"], tags["decision.why"]) == ("promoted", "bob", "passes the gate")
    assert tags["decision.evidence"] == f"reviews/{second}/review.html"
    assert tags["decision.at"].startswith("20")
    made = decisions.decisions(client, "moves")
    assert [(one.number, one.version, one.who) for one in made] == [(1, first, "ann"), (2, second, "bob")]


def test_a_closed_gate_stays_closed_unless_somebody_says_why(client: MlflowClient) -> None:
    first = add(client, "closed", differences={"clothes-changing/mAP": BAD})
    with pytest.raises(
        RequestError, match=r"does not pass the gate:\n  target better: .*\n  no mode worse: .*\n.*--override"
    ):
        promote("closed")
    assert aliases(client, "closed")["champion"] is None
    with pytest.raises(RequestError, match="a decision needs a reason of 1 to 1000 characters"):
        promote("closed", override="  ")
    told = promote("closed", override="the demo needs one", who="ann")
    assert told["decision"]["why"] == "the demo needs one"
    tags = client.get_model_version("closed", first).tags
    assert tags["decision.overrides"] == "target better, no mode worse"


def test_the_gate_of_the_registered_model_is_the_one_that_counts(client: MlflowClient) -> None:
    differences = {"clothes-changing/mAP": GOOD, "general/mAP": GOOD | {"candidate": 0.18}}
    add(client, "wide", differences=differences)
    with pytest.raises(RequestError, match=r"worse by more than 1\.0 points: general/mAP −2\.0 points"):
        promote("wide")
    set_gate(client, "wide", tolerance=0.03)
    assert promote("wide")["aliases"]["champion"] == "1"


def test_no_promotion_without_evidence_or_on_evidence_against_another_champion(client: MlflowClient) -> None:
    first = add(client, "stale")
    client.delete_model_version_tag("stale", first, EVIDENCE)
    with pytest.raises(RequestError, match=r"has no evidence.*redress registry compare models:/stale/1"):
        promote("stale", override="now!")
    one, other = add(client, "stale"), add(client, "stale")
    promote(f"models:/stale/{one}")
    with pytest.raises(
        RequestError,
        match=r"compared with no champion, and version 2 is the champion now\. The evidence is out of date.*Compare again",
    ):
        promote(f"models:/stale/{other}", override="now!")
    with pytest.raises(RequestError, match="models:/stale/2 is the champion already"):
        promote(f"models:/stale/{one}")


def test_rejection_takes_the_candidate_out_and_is_in_the_way_of_its_promotion(client: MlflowClient) -> None:
    first = add(client, "rejected")
    reject("rejected", "looks at bags", who="ann")
    assert aliases(client, "rejected") == {"candidate": None, "champion": None, "previous": None}
    assert client.get_model_version("rejected", first).tags["decision.why"] == "looks at bags"
    with pytest.raises(RequestError, match=r"not rejected: rejected by ann at .*: looks at bags"):
        promote(f"models:/rejected/{first}")
    promote(f"models:/rejected/{first}", override="bags are fine here")
    with pytest.raises(RequestError, match=r"is the champion\. `redress registry rollback rejected"):
        reject(f"models:/rejected/{first}", "after all")


def test_each_decision_is_rolled_back_the_last_first(client: MlflowClient) -> None:
    first = add(client, "back")
    promote("back")
    second = add(client, "back", first)
    promote("back")
    third = add(client, "back", second)
    reject("back", "worse")
    assert aliases(client, "back") == {"candidate": None, "champion": second, "previous": first}
    assert rollback("back", "it is not", who="bob")["decision"]["undoes"] == 3
    assert aliases(client, "back") == {"candidate": third, "champion": second, "previous": first}
    rollback("back", "fails at night", who="bob")
    assert aliases(client, "back") == {"candidate": third, "champion": first, "previous": None}
    tags = client.get_model_version("back", second).tags
    assert (tags["decision"], tags["decision.why"]) == ("promoted: rolled back", "fails at night")
    rollback("models:/back@champion", "all of it", who="bob")
    assert aliases(client, "back") == {"candidate": third, "champion": None, "previous": None}
    with pytest.raises(RequestError, match="there is no decision to roll back"):
        rollback("back", "more")
    promote(f"models:/back/{first}")
    assert [one.number for one in decisions.decisions(client, "back")] == [1, 2, 3, 4, 5, 6, 7]


def test_an_alias_that_was_moved_by_hand_is_not_overwritten(client: MlflowClient) -> None:
    first = add(client, "byhand")
    promote("byhand")
    second = add(client, "byhand", first)
    client.set_registered_model_alias("byhand", "champion", second)
    with pytest.raises(RequestError, match=r"since decision 1 .* champion was moved by hand from 1 to 2"):
        rollback("byhand", "a mistake")
    assert aliases(client, "byhand")["champion"] == second


def test_of_two_reviewers_one_promotes_and_the_other_gets_an_error(client: MlflowClient) -> None:
    first = add(client, "race")
    promote("race")
    rivals = [add(client, "race", first), add(client, "race", first)]
    start = threading.Barrier(2)

    def decide(number: str) -> str:
        start.wait()
        try:
            promote(f"models:/race/{number}", who=f"reviewer {number}")
        except RequestError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(2) as pool:
        told = dict(zip(rivals, pool.map(decide, rivals), strict=True))
    [winner] = [number for number, text in told.items() if not text]
    [loser] = [text for text in told.values() if text]
    assert "who is deciding about it" in loser or "at the same moment" in loser or "out of date" in loser
    assert aliases(client, "race")["champion"] == winner
    assert aliases(client, "race")["previous"] == first
    assert len(decisions.decisions(client, "race")) == 2


def test_a_rejection_while_another_promotes_is_seen(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    add(client, "seen")
    look = decisions.find

    def look_and_lose_time(client: MlflowClient, model: str) -> Any:
        found = look(client, model)
        monkeypatch.setattr(decisions, "find", look)
        reject("models:/seen/1", "looks at bags", who="ann")
        return found

    monkeypatch.setattr(decisions, "find", look_and_lose_time)
    with pytest.raises(RequestError, match=r"not rejected: rejected by ann at .*: looks at bags"):
        promote("models:/seen/1", who="bob")
    assert aliases(client, "seen")["champion"] is None


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_an_interrupted_decision_is_repeated_and_everything_rolled_back(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    """The process ends after so many aliases were moved."""
    name = f"cut-{moved}"
    first = add(client, name)
    promote(name)
    second = add(client, name, first)
    move, left = MlflowClient.set_registered_model_alias, iter(range(moved))

    def move_or_end(self: MlflowClient, *words: str) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        move(self, *words)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", move_or_end)
        patch.setattr(MlflowClient, "delete_registered_model_alias", move_or_end)
        with pytest.raises(KeyboardInterrupt):
            promote(name)
    if moved < 2:
        promote(f"models:/{name}/{second}")
        assert aliases(client, name)["champion"] == second
        assert [one.number for one in decisions.decisions(client, name)] == [1, 2], "the decision that was interrupted"
    rollback(name, "too soon")
    assert aliases(client, name)["champion"] == first
    rollback(name, "all of it")
    assert aliases(client, name)["champion"] is None


def test_of_another_reviewer_it_is_another_decision(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    add(client, "twice")
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", unavailable(print, itertools.count(), 0))
        with pytest.raises(ServiceUnavailableError):
            promote("twice", who="ann")
    promote("twice", who="bob")
    assert [(one.number, one.who) for one in decisions.decisions(client, "twice")] == [(1, "ann"), (2, "bob")]


COMMANDS = {
    "promote": (["promote", "{name}"], {"candidate": None, "champion": "2", "previous": "1"}),
    "reject": (["reject", "{name}", "--reason", "x"], {"candidate": None, "champion": "1", "previous": None}),
    "rollback": (["rollback", "{name}", "--reason", "x"], {"candidate": "2", "champion": None, "previous": None}),
}


@pytest.mark.parametrize(
    "failing", [pytest.param(number, marks=[pytest.mark.long] if number % 3 else []) for number in range(10)]
)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_decision_interrupted_by_an_unavailable_server_is_completed_by_the_same_command(
    client: MlflowClient, command: str, failing: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """At each call that writes, and for the calls after it."""
    name = f"{command}-{failing}"
    first = add(client, name)
    promote(name)
    add(client, name, first)
    words, expected = [word.format(name=name) for word in COMMANDS[command][0]], COMMANDS[command][1]
    with monkeypatch.context() as patch:
        left = itertools.count()
        for write in ("set_registered_model_tag", "set_model_version_tag", "set_registered_model_alias",
                      "delete_registered_model_alias"):  # fmt: skip
            patch.setattr(MlflowClient, write, unavailable(getattr(MlflowClient, write), left, failing))
        status = main(["registry", *words])
    told = capfd.readouterr().err
    if next(left) > failing:
        assert status == 1
        assert "Repeat the same command when MLflow is available" in told
        assert main(["registry", *words]) == 0, capfd.readouterr().err
    else:
        assert status == 0
    assert aliases(client, name) == expected
    standing = decisions.decisions(client, name)[-1]
    assert standing.after == expected
    assert client.get_model_version(name, standing.version).tags["decision"] == standing.what


def test_changes_after_a_complete_decision_are_not_taken_for_an_interruption(client: MlflowClient) -> None:
    first = add(client, "rest")
    promote("rest")
    second = add(client, "rest", first)
    with pytest.raises(RequestError, match="is the champion already"):
        promote("models:/rest/1")
    promote("rest")
    rollback("rest", "too soon")
    third = add(client, "rest", first)
    assert aliases(client, "rest") == {"candidate": third, "champion": first, "previous": None}
    rollback("rest", "all of it")
    assert aliases(client, "rest") == {"candidate": third, "champion": None, "previous": None}
    assert second != third


def unavailable(write: Callable[..., None], calls: Iterator[int], failing: int) -> Callable[..., None]:
    def call(*words: Any) -> None:
        if next(calls) >= failing:
            raise MlflowException("nobody there", error_code=TEMPORARILY_UNAVAILABLE)
        write(*words)

    return call


def test_a_long_reason_fits_a_tag_in_every_language(client: MlflowClient) -> None:
    add(client, "long")
    reject("long", "ж" * decisions.REASON_LIMIT)
    assert len(client.get_registered_model("long").tags["decision.0001"]) < 5000  # what MLflow's databases hold
    assert decisions.decisions(client, "long")[0].why == "ж" * decisions.REASON_LIMIT


@pytest.mark.parametrize("who", ["x" * 201, "  ", "ann\nbob", "ann\0"])
def test_who_decides_has_a_name_that_fits_the_records(
    client: MlflowClient, who: str, capfd: pytest.CaptureFixture[str]
) -> None:
    name = f"named-{sum(map(ord, who))}"
    add(client, name)
    for words in (["promote", name], ["reject", name, "--reason", "x"], ["rollback", name, "--reason", "x"]):
        assert main(["registry", *words, "--by", who]) == 2
        assert "expected a reviewer's name of 1 to 200 printable characters" in capfd.readouterr().err
    assert decisions.decisions(client, name) == []


def test_who_decides_is_who_is_logged_in_at_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server, database = "https://mlflow.example", "sqlite:///mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    assert decisions.reviewer(None, server) == decisions.reviewer("ann", server) == "ann"
    with pytest.raises(RequestError, match=r"under the MLflow user 'ann', and --by is 'bob'\. Leave out --by"):
        decisions.reviewer("bob", server)
    assert decisions.reviewer(None, "https://eva%40home:secret@mlflow.example") == "eva@home"
    assert decisions.reviewer("bob", database) == "bob", "a file asks for no password"
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    (tmp_path / "credentials").write_text("[mlflow]\nmlflow_tracking_username = ida\nmlflow_tracking_password = x\n")
    monkeypatch.setattr("mlflow.utils.credentials._get_credentials_path", lambda: str(tmp_path / "credentials"))
    assert decisions.reviewer(None, server) == "ida"
    (tmp_path / "credentials").unlink()
    assert decisions.reviewer("bob", server) == "bob", "a server without passwords knows nobody"


def test_the_longest_name_and_the_longest_reason_fit_a_tag_together(client: MlflowClient) -> None:
    add(client, "longest")
    who, why = "ж" * decisions.NAME_LIMIT, '"' * decisions.REASON_LIMIT
    reject("longest", why, who=who)
    assert len(client.get_registered_model("longest").tags["decision.0001"]) < 5000
    [made] = decisions.decisions(client, "longest")
    assert (made.who, made.why) == (who, why)


@pytest.mark.parametrize("name", ["ann's", 'the "best"', "100%_it's"])
def test_a_model_with_a_quotation_mark_in_its_name_is_decided_about_and_listed(client: MlflowClient, name: str) -> None:
    first = add(client, name)
    promote(name)
    assert aliases(client, name)["champion"] == first
    assert f"models:/{name}/1" in [version["model"] for version in list_models()]
    with pytest.raises(RequestError, match="has version 1 and @champion"):
        find(client, f"models:/{name}/9")


def test_a_name_with_both_quotation_marks_is_refused_before_it_is_registered(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["registry", "register", "0" * 32, 'ann\'s "best"']) == 2
    assert "not both of ' and \"" in capfd.readouterr().err
    with pytest.raises(RequestError, match="contains both ' and \""):
        quoted('ann\'s "best"')


def test_an_alias_without_version_is_reported(client: MlflowClient, capfd: pytest.CaptureFixture[str]) -> None:
    add(client, "nothing")
    client.delete_registered_model_alias("nothing", "candidate")
    for words, message in (
        (["promote", "nothing"], "nothing has no candidate: no version has that alias"),
        (["promote", "models:/nothing@champion"], "models:/nothing@champion: "),
        (["reject", "unheard-of", "--reason", "x"], "no registered model 'unheard-of'"),
        (["rollback", "nothing"], "--reason"),
        (["compare", "models:/nothing/7"], "models:/nothing/7: "),
        (["gate", "nothing", "--tolerance", "7"], "tolerance 7.0 is not a fraction"),
    ):
        assert main(["registry", *words]) == 2
        assert message in capfd.readouterr().err


def test_an_alias_of_a_deleted_version_is_reported(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    first = add(client, "deleted")
    promote("deleted")
    add(client, "deleted", first)
    client.delete_model_version("deleted", first)
    if "champion" in client.get_registered_model("deleted").aliases:
        with pytest.raises(RequestError, match="the alias champion points to version 1, which was deleted"):
            promote("deleted")
    else:
        with pytest.raises(RequestError, match="compared with version 1, and there is no champion now"):
            promote("deleted")


def test_the_history_is_shown(client: MlflowClient, capfd: pytest.CaptureFixture[str]) -> None:
    add(client, "shown")
    promote("shown", who="ann")
    rollback("shown", "too soon", who="bob")
    assert main(["registry", "show", "shown"]) == 0
    told = capfd.readouterr().out
    assert told.index("too soon") < told.index("passes the gate")
    assert main(["registry", "show", "models:/shown/1", "--json"]) == 0
    assert [one["who"] for one in json.loads(capfd.readouterr().out)["decisions"]] == ["ann", "bob"]


def test_every_model_is_listed_however_many_there_are(client: MlflowClient) -> None:
    add(client, "the-last")
    before = [f"before-{number}" for number in range(100)]  # as many as MLflow lists at once
    for name in before:
        client.create_registered_model(name)
    try:
        assert "models:/the-last/1" in [version["model"] for version in list_models()]
        with pytest.raises(RequestError, match=r"registered are .*before-0.*the-last"):
            find(client, "models:/unheard-of/1")
    finally:
        for name in before:
            client.delete_registered_model(name)
