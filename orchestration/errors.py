"""Errors that a command reports in one message, and the text of that message."""

from __future__ import annotations

import errno
import tempfile
from typing import Any

from datasets.storage.address import without_secret

__all__ = ["RequestError", "ServiceUnavailableError", "UnreachableError", "cause", "first_line", "without_secret"]


class RequestError(ValueError):
    """The request was wrong, and nothing was started: one message that says what to do, exit status 2."""


class UnreachableError(RequestError):
    """The tracking server does not answer, and nothing was started."""


class ServiceUnavailableError(RuntimeError):
    """MLflow was unavailable for longer than a command waits. The same request can succeed later."""


def first_line(error: Any) -> str:
    """The first line of an error's message, without secrets: clients quote the addresses that they were given."""
    text = without_secret(cause(error)).strip()
    return text.splitlines()[0] if text else type(error).__name__


# What SQLite says → what it means for a user. SQLAlchemy puts the statement and its parameters around it.
DATABASE = {
    "database is locked": "another process is writing to it. Try again, or end that process",
    "readonly database": "its file was deleted, replaced or write-protected. Restore it",
    "no such table": "its file was deleted, or is no MLflow database. Restore it",
    "unable to open database file": "its folder is missing or cannot be read. Check the address",
    "disk is full": "its disk is full. Free space there",
    "disk I/O error": "its file was deleted, or its disk fails. Restore it",
    "malformed": "its file is damaged. Restore it",
    "not a database": "its file is damaged or of another kind. Restore it",
}


def cause(error: Any) -> str:
    """The message of an error: of the database behind it, with its meaning; of a full disk, with what to do."""
    at = error
    while type(at).__module__.partition(".")[0] in ("mlflow", "sqlalchemy"):  # ours have their own words
        if (database := getattr(at, "orig", None)) is not None:
            meaning = next((meaning for text, meaning in DATABASE.items() if text in str(database)), None)
            return f"{database} ({meaning})" if meaning else str(database)
        at = at.__cause__ or at.__context__
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):  # the storage names its own address
        where = error.filename or f"probably the folder for temporary files ({tempfile.gettempdir()}) or the database's"
        return f"{error.strerror}: {where}. Free space there, then give the same command again"
    return str(error)
