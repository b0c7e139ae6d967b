"""Connecting to MLflow: errors with their remedy, experiments that others create or delete, one database at a time."""

from __future__ import annotations

import io
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
from collections.abc import Iterator
from contextlib import closing, contextmanager
from email.message import Message
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED, RESOURCE_ALREADY_EXISTS, UNAUTHENTICATED

from orchestration.errors import RequestError, UnreachableError
from orchestration.tracking import mlflow_client
from orchestration.tracking.mlflow_client import (
    artifact_location,
    check_health,
    connect,
    default_tracking_uri,
    experiment_id,
    initialisation_lock,
)
from orchestration.tracking.provenance import ROOT

SERVER = "http://me:secret@host:5000"


@pytest.fixture(autouse=True)
def own_tracking_uri(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    before = mlflow.get_tracking_uri()
    yield
    mlflow.set_tracking_uri(before)


def test_the_default_is_a_file_beside_unless_the_environment_names_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SERVER)
    assert default_tracking_uri() == SERVER


@pytest.mark.parametrize(("code", "given"), [(PERMISSION_DENIED, "wrong"), (UNAUTHENTICATED, "missing")])
def test_denied_access_names_the_credentials_to_set(code: int, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Denying:
        def __init__(self, uri: str) -> None:
            pass

        def search_experiments(self, max_results: int) -> None:
            raise MlflowException("not you", error_code=code)

    monkeypatch.setattr(mlflow_client, "MlflowClient", Denying)
    monkeypatch.setattr(mlflow_client, "check_health", lambda uri: None)
    if given == "wrong":
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    with pytest.raises(RequestError) as raised:
        connect(SERVER)
    assert not isinstance(raised.value, UnreachableError)
    text = str(raised.value)
    assert text.startswith("MLflow at http://host:5000 denied access (not you). ")
    assert f"Credentials are {given}: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in text
    assert "secret" not in text


def test_a_server_without_answer_is_unreachable_and_the_message_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("connection refused")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(
        UnreachableError, match=r"MLflow at http://host:5000 cannot be used: .*connection refused"
    ) as raised:
        connect(SERVER)
    assert "Start it (`mlflow server`), correct MLFLOW_TRACKING_URI, or unset that" in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_health_check_without_access_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def deny(address: str, timeout: float) -> None:
        asked.append(address)
        raise urllib.error.HTTPError(address, 401, "who are you", Message(), io.BytesIO())

    monkeypatch.setattr("urllib.request.urlopen", deny)
    check_health(f"{SERVER}/")
    assert asked == ["http://host:5000/health"]


class Experiments:
    """A client whose experiments are those of `found`, in turn; None is none."""

    def __init__(self, found: list[Any], *, taken: bool = False) -> None:
        self.found, self.taken, self.created = found, taken, list[tuple[str, str | None]]()

    def get_experiment_by_name(self, name: str) -> Any:
        return self.found.pop(0)

    def create_experiment(self, name: str, artifact_location: str | None) -> str:
        if self.taken:
            raise MlflowException("there already", error_code=RESOURCE_ALREADY_EXISTS)
        self.created.append((name, artifact_location))
        return "new"


ACTIVE = SimpleNamespace(lifecycle_stage="active", experiment_id="7")
DELETED = SimpleNamespace(lifecycle_stage="deleted", experiment_id="8")


def test_an_experiment_is_found_or_created_with_its_artifacts_beside_the_database() -> None:
    assert experiment_id(Experiments([ACTIVE]), "e", "sqlite:////runs/mlflow.db") == "7"  # type: ignore[arg-type]
    for uri, place in (("sqlite:////runs/mlflow.db", "file:///runs/mlartifacts"), (SERVER, None)):
        client = Experiments([None])
        assert experiment_id(client, "e", uri) == "new"  # type: ignore[arg-type]
        assert client.created == [("e", place)]
        assert artifact_location(uri) == place


def test_an_experiment_that_another_process_creates_first_is_found() -> None:
    assert experiment_id(Experiments([None, ACTIVE], taken=True), "e", SERVER) == "7"  # type: ignore[arg-type]


def test_an_experiment_that_is_deleted_or_stays_away_is_a_wrong_request() -> None:
    with pytest.raises(RequestError, match=r"experiment 'e' was deleted\. Restore it in the UI"):
        experiment_id(Experiments([DELETED]), "e", SERVER)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="MLflow at http://host:5000 can neither find nor create the experiment 'e'"):
        experiment_id(Experiments([None, None], taken=True), "e", SERVER)  # type: ignore[arg-type]


def test_one_at_a_time_initialises_a_database_and_a_server_needs_no_lock(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    entered = threading.Event()

    def enter() -> None:
        with initialisation_lock(uri):
            entered.set()

    with initialisation_lock(uri), initialisation_lock(f"sqlite:///{tmp_path}/another.db"), initialisation_lock(SERVER):
        second = threading.Thread(target=enter)
        second.start()
        assert not entered.wait(0.2)
    assert entered.wait(30)
    second.join()


def test_processes_that_start_at_once_share_a_new_database(tmp_path: Path) -> None:
    lines = [
        f"import sys; sys.path.insert(0, {str(ROOT)!r})",
        "from orchestration.tracking.mlflow_client import connect, default_tracking_uri, experiment_id",
        "print(experiment_id(connect(), 'e', default_tracking_uri()))",
    ]
    command = [sys.executable, "-c", "\n".join(lines)]
    started = [subprocess.Popen(command, cwd=tmp_path, stdout=-1, stderr=-1, text=True) for _ in range(2)]
    answers = [p.communicate() for p in started]
    assert [p.returncode for p in started] == [0, 0], answers
    assert answers[0][0] == answers[1][0]
    assert not any(err for _, err in answers), "no noise of migrations"
    made = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").get_experiment_by_name("e")
    assert made is not None
    assert made.artifact_location == (tmp_path / "mlartifacts").as_uri()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("sqlite:///mlflow.db", "sqlite:///{here}/mlflow.db"),
        ("sqlite:///a/b.db?timeout=3", "sqlite:///{here}/a/b.db?timeout=3"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("http://host:5000", "http://host:5000"),
    ],
)
def test_a_database_is_the_same_from_every_folder(
    given: str, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    monkeypatch.chdir(tmp_path)
    assert mlflow_client.default_tracking_uri() == expected.format(here=tmp_path)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "mlflow.db"
    connect(f"sqlite:///{path}")
    return path


@contextmanager
def locked(path: Path, how: str) -> Iterator[Any]:
    """Another connection that holds the database."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute(f"BEGIN {how}")
        yield other


def test_a_locked_database_is_told_soon(
    database: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mlflow_client, "LOCKED_S", 1.5)
    with locked(database, "EXCLUSIVE"):
        started = time.monotonic()
        for create in (False, True):
            with pytest.raises(
                UnreachableError, match=rf"{database} has been locked for 2 s: another process is writing"
            ):
                connect(f"sqlite:///{database}", create=create)
        assert time.monotonic() - started < 15, "MLflow waits for 20 s, each time"
    assert capsys.readouterr().err.count(f"waiting for the MLflow database {database}") == 2
    connect(f"sqlite:///{database}", create=False)


def test_a_writer_keeps_nobody_from_reading(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_client, "LOCKED_S", 0.5)
    with locked(database, "IMMEDIATE"):
        connect(f"sqlite:///{database}", create=False)
        with pytest.raises(UnreachableError, match="has been locked"):
            connect(f"sqlite:///{database}")


def test_a_database_that_is_released_is_used(database: Path) -> None:
    with locked(database, "EXCLUSIVE") as other:
        timer = threading.Timer(0.5, lambda: other.execute("ROLLBACK"))
        timer.start()
        assert connect(f"sqlite:///{database}", create=False).search_experiments()
        timer.join()


def test_what_else_is_wrong_with_a_database_is_left_to_mlflow(tmp_path: Path) -> None:
    file = tmp_path / "text.db"
    file.write_text("no database " * 100)
    with pytest.raises(UnreachableError, match="damaged or of another kind"):
        connect(f"sqlite:///{file}", create=False)
