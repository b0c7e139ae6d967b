"""Errors that a command reports in one message, and the text of that message."""

from __future__ import annotations

import re
from typing import Any


class RequestError(ValueError):
    """The request was wrong, and nothing was started: one message that says what to do, exit status 2."""


class UnreachableError(RequestError):
    """The tracking server does not answer, and nothing was started."""


class ServiceUnavailableError(RuntimeError):
    """MLflow was unavailable for longer than a command waits. The same request can succeed later."""


def first_line(error: Any) -> str:
    """The first line of an error's message, without secrets: clients quote the addresses that they were given."""
    text = without_secret(str(error)).strip()
    return text.splitlines()[0] if text else type(error).__name__


def without_secret(text: str) -> str:
    """`scheme://user:password@host` → `scheme://host`."""
    return re.sub(r"://[^/\s]*@", "://", text)
