"""One line for a foreign error: its cause, with what it means and what to do, and without secrets."""

from __future__ import annotations

import errno
import sqlite3
import tempfile

import pytest
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError

from orchestration.errors import DATABASE, cause, first_line


def through_mlflow(text: str) -> Exception:
    """An error of SQLite as it arrives: SQLAlchemy's statement around it, then MLflow's text."""
    try:
        raise OperationalError("SELECT run_uuid FROM runs", {}, sqlite3.OperationalError(text))
    except OperationalError as error:
        try:
            raise MlflowException(f"(sqlite3.OperationalError) {text}\n[SQL: SELECT run_uuid FROM runs]") from error
        except MlflowException as wrapped:
            return wrapped


@pytest.mark.parametrize(("text", "meaning"), DATABASE.items())
def test_a_database_s_error_is_told_with_its_meaning(text: str, meaning: str) -> None:
    told = first_line(through_mlflow(text))
    assert told == f"{text} ({meaning})"


def test_another_error_of_a_database_is_told_as_it_is() -> None:
    assert first_line(through_mlflow("no such column: x")) == "no such column: x"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_with_its_place_and_the_fix(number: int) -> None:
    assert "/data/x. Free space there" in cause(OSError(number, "No space left", "/data/x"))
    assert tempfile.gettempdir() in cause(OSError(number, "No space left"))


def test_other_errors_keep_their_first_line_without_secrets() -> None:
    assert first_line(ValueError("http://joe:s3cret@host/x failed\nmore")) == "http://host/x failed"
    assert first_line(ValueError()) == "ValueError"
    assert cause(OSError(errno.ENOENT, "No such file", "/x")) == "[Errno 2] No such file: '/x'"


def test_an_error_of_ours_keeps_its_words() -> None:
    ours = RuntimeError("ours")
    ours.__cause__ = through_mlflow("database is locked")
    assert cause(ours) == "ours"
