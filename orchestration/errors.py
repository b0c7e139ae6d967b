"""The errors that are told in one message, and how a message is told."""

from __future__ import annotations

import re
from typing import Any


class RequestError(ValueError):
    """The request was wrong, and nothing was started: one message that says what to do, exit status 2."""


class UnreachableError(RequestError):
    """The tracking server does not answer, and nothing was started."""


class ServerAwayError(RuntimeError):
    """The tracking server did not answer for longer than a command waits; what was to be done can be done later."""


def first_line(error: Any) -> str:
    """What an error says, in one line and without secrets: clients quote the addresses that they were given."""
    text = without_secret(str(error)).strip()
    return text.splitlines()[0] if text else type(error).__name__


def without_secret(text: str) -> str:
    """`scheme://user:password@host` → `scheme://host`."""
    return re.sub(r"://[^/\s]*@", "://", text)
