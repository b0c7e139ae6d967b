"""Retries: only while MLflow is unavailable, with growing pauses, up to a deadline from the first failure."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import requests
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    DEADLINE_EXCEEDED,
    INVALID_PARAMETER_VALUE,
    PERMISSION_DENIED,
    REQUEST_LIMIT_EXCEEDED,
    RESOURCE_ALREADY_EXISTS,
    TEMPORARILY_UNAVAILABLE,
)

from orchestration.errors import RequestError, ServiceUnavailableError, UnreachableError
from orchestration.tracking import mlflow_retry
from orchestration.tracking.mlflow_retry import LONGEST_PAUSE_S, RETRY_S, is_unavailable, retry_while_unavailable


class Clock:
    """Stands in for `time`: sleeping takes no time and is remembered."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(mlflow_retry, "time", clock)
    return clock


def failing(errors: list[Exception], answer: str = "done") -> Callable[[], str]:
    """Raises the errors in turn, then answers."""

    def act() -> str:
        if errors:
            raise errors.pop(0)
        return answer

    return act


def test_a_call_is_repeated_until_it_succeeds_with_pauses_that_double(clock: Clock) -> None:
    errors: list[Exception] = [ConnectionError("no answer") for _ in range(7)]
    assert retry_while_unavailable(failing(errors), "counting") == "done"
    expected = [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert clock.pauses == pytest.approx(expected)
    assert max(clock.pauses) == LONGEST_PAUSE_S


def test_a_call_that_succeeds_is_made_once(clock: Clock) -> None:
    calls: list[int] = []
    retry_while_unavailable(lambda: calls.append(1), "counting")
    assert calls == [1]
    assert clock.pauses == []


@pytest.mark.parametrize(
    "error",
    [
        MlflowException("no such name", error_code=INVALID_PARAMETER_VALUE),
        FileNotFoundError("a file to upload"),
        KeyError("a mistake"),
        RequestError("the request was wrong"),
    ],
)
def test_other_errors_are_raised_at_once(clock: Clock, error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        retry_while_unavailable(failing([error]), "counting")
    assert raised.value is error
    assert clock.pauses == []


@pytest.mark.parametrize(("deadline_s", "seconds"), [(None, RETRY_S), (7.0, 7.0)])
def test_after_the_deadline_the_error_names_the_action_and_no_secret(
    clock: Clock, deadline_s: float | None, seconds: float, caplog: pytest.LogCaptureFixture
) -> None:
    def act() -> None:
        raise ConnectionError("no answer from http://me:secret@host/api\nand more")

    with pytest.raises(ServiceUnavailableError) as raised:
        retry_while_unavailable(act, "counting", deadline_s=deadline_s)
    assert str(raised.value) == "MLflow became unavailable while counting: no answer from http://host/api"
    assert seconds - LONGEST_PAUSE_S <= sum(clock.pauses) <= seconds
    assert [record.getMessage() for record in caplog.records] == [
        "MLflow is unavailable while counting, retrying: no answer from http://host/api"
    ], "once, not for every attempt"


def test_the_deadline_counts_from_the_first_failure(clock: Clock) -> None:
    calls: list[int] = []

    def act() -> str:
        calls.append(1)
        if len(calls) == 1:
            clock.now += 10 * RETRY_S  # a long upload, and then the connection breaks
            raise ConnectionError("broken")
        return "done"

    assert retry_while_unavailable(act, "uploading") == "done"


def status(code: int) -> requests.exceptions.HTTPError:
    response = requests.Response()
    response.status_code = code
    return requests.exceptions.HTTPError("answer", response=response)


@pytest.mark.parametrize(
    ("error", "unavailable"),
    [
        (UnreachableError("nobody answers"), True),
        (MlflowException("a failure in the server"), True),  # INTERNAL_ERROR
        (MlflowException("later", error_code=TEMPORARILY_UNAVAILABLE), True),
        (MlflowException("too many", error_code=REQUEST_LIMIT_EXCEEDED), True),
        (MlflowException("too slow", error_code=DEADLINE_EXCEEDED), True),
        (MlflowException("wrong", error_code=INVALID_PARAMETER_VALUE), False),
        (MlflowException("not yours", error_code=PERMISSION_DENIED), False),
        (MlflowException("there already", error_code=RESOURCE_ALREADY_EXISTS), False),
        (status(500), True),
        (status(503), True),
        (status(404), False),
        (status(403), False),
        (requests.exceptions.ConnectionError("broken"), True),
        (requests.exceptions.HTTPError("without an answer"), True),
        (TimeoutError("too slow"), True),
        (FileNotFoundError("a local file"), False),
        (PermissionError("a local folder"), False),
        (RequestError("the request was wrong"), False),
        (ValueError("a mistake"), False),
    ],
)
def test_unavailable_is_a_server_that_fails_or_cannot_be_reached(error: Exception, unavailable: bool) -> None:
    assert is_unavailable(error) is unavailable
