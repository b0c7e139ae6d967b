"""Retries of MLflow calls while the tracking server is unavailable."""

from __future__ import annotations

import logging
import re
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
        # A proxy's answer is no JSON, and MLflow calls each an internal error: 413, too large, stays so however often.
        status = re.search(r"failed with error code (\d{3})\b", str(error))
        return may_pass(int(status[1])) if status else error.error_code in UNAVAILABLE
    if isinstance(error, HTTPError) and error.response is not None:
        return may_pass(error.response.status_code)
    return isinstance(error, OSError) and not isinstance(error, FileNotFoundError | PermissionError)


def may_pass(status: int) -> bool:
    """Whether the same HTTP request can succeed later."""
    return status >= 500 or status in (408, 425, 429)


def is_unauthenticated(error: Exception) -> bool:
    """Whether the credentials are wrong or missing: no call will be accepted before they change."""
    return isinstance(error, MlflowException) and error.get_http_status_code() == 401


def is_denied(error: Exception) -> bool:
    """Whether the server knows the user and forbids the call, or does not know the user."""
    return isinstance(error, MlflowException) and error.get_http_status_code() in (401, 403)
