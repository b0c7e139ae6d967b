"""Retries of MLflow calls while the tracking server is unavailable."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from mlflow.exceptions import MlflowException
from requests.exceptions import HTTPError

from orchestration.errors import ServiceUnavailableError, UnreachableError, first_line

RETRY_S = 60.0
LONGEST_PAUSE_S = 5.0
UNAVAILABLE = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED")

log = logging.getLogger(__name__)
T = TypeVar("T")


def retry_while_unavailable(act: Callable[[], T], what: str, *, deadline_s: float | None = None) -> T:
    """Call `act` until it succeeds, again after each failure of an unavailable MLflow; returns its result.

    act: idempotent. A call may have reached the server although its answer was lost.
    what: names the action in messages, such as "creating the run".
    deadline_s: seconds of retries, counted from the first failure; RETRY_S by default.
    Raises: ServiceUnavailableError after the deadline; any other error of `act` at once.
    """
    pause = 0.2
    deadline: float | None = None
    while True:
        try:
            return act()
        except Exception as error:
            if not is_unavailable(error):
                raise
            if deadline is None:  # not from the start: a long upload may have preceded the failure
                deadline = time.monotonic() + (RETRY_S if deadline_s is None else deadline_s)
                log.warning("MLflow is unavailable while %s, retrying: %s", what, first_line(error))
            if time.monotonic() + pause > deadline:
                raise ServiceUnavailableError(f"MLflow became unavailable while {what}: {first_line(error)}") from error
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)


def is_unavailable(error: Exception) -> bool:
    """Whether the server or its artifact store failed or could not be reached, as opposed to rejecting the request."""
    if isinstance(error, UnreachableError):
        return True
    if isinstance(error, MlflowException):
        return error.error_code in UNAVAILABLE
    if isinstance(error, HTTPError) and error.response is not None:
        return error.response.status_code >= 500
    return isinstance(error, OSError) and not isinstance(error, FileNotFoundError | PermissionError)
