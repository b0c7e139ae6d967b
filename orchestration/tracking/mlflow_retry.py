"""Calls that outlast a tracking server which goes away for a while."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from mlflow.exceptions import MlflowException
from requests.exceptions import HTTPError

from orchestration.errors import ServerAwayError, UnreachableError, first_line

PATIENCE_S = 60.0
LONGEST_PAUSE_S = 5.0
AWAY = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED")

log = logging.getLogger(__name__)
T = TypeVar("T")


def persist(act: Callable[[], T], what: str, *, deadline_s: float | None = None) -> T:
    """What `act` returns, called again while MLflow is away (for `deadline_s` seconds from its first failure, else PATIENCE_S).

    act: can be called again after any failure, also of a call that arrived and whose answer was lost.
    what: what is being done, for people. Raises: ServerAwayError; at once whatever a server that is there refuses.
    """
    patience, pause = PATIENCE_S if deadline_s is None else deadline_s, 0.2
    deadline: float | None = None
    while True:
        try:
            return act()
        except Exception as error:
            if not is_away(error):
                raise
            if deadline is None:  # counted from here: what went before may have been a long upload
                deadline = time.monotonic() + patience
                log.warning("MLflow is away while %s; trying again: %s", what, first_line(error))
            if time.monotonic() + pause > deadline:
                raise ServerAwayError(f"MLflow went away while {what}: {first_line(error)}") from error
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)


def is_away(error: Exception) -> bool:
    """Whether the server (or its store of artifacts) could not be reached or failed, rather than refused."""
    if isinstance(error, UnreachableError):
        return True
    if isinstance(error, MlflowException):
        return error.error_code in AWAY
    if isinstance(error, HTTPError) and error.response is not None:
        return error.response.status_code >= 500
    return isinstance(error, OSError) and not isinstance(error, FileNotFoundError | PermissionError)
