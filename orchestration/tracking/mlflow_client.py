"""Connecting to MLflow: a client of a reachable server or of a SQLite file, and the MLflow experiment of runs."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import sqlite3
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from orchestration.addresses import tracking_address
from orchestration.errors import RequestError, UnreachableError, first_line, without_secret
from orchestration.progress import Progress

ANSWER_S = 10.0
LOCKED_S = 10.0


def default_tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, else a SQLite file in the current folder. Raises: AddressError.

    The path of a SQLite file is made absolute: a worker's current folder is a different one.
    """
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        address = tracking_address(uri, "MLFLOW_TRACKING_URI")
        relative = re.fullmatch(r"(sqlite(?:\+\w+)?:///)([^/:?][^?]*)(\?.*)?", address)
        return f"{relative[1]}{Path.cwd() / relative[2]}{relative[3] or ''}" if relative else address
    return f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def connect(tracking_uri: str | None = None, *, create: bool = True) -> MlflowClient:
    """A client of a reachable tracking server, which the fluent API then uses, too. A new SQLite file is initialised.

    create: whether a new run may be the first thing in a new database. False where the request is about something in it,
    so that a missing database is an error.

    Raises: AddressError; RequestError with the address and the remedy; UnreachableError where the server cannot be reached
    or the database stays locked.
    """
    uri = tracking_address(tracking_uri, "tracking_uri") if tracking_uri else default_tracking_uri()
    quieten()
    if not create:
        check_database(uri)
    try:
        if uri.startswith(("http://", "https://")):
            check_health(uri)
        with initialisation_lock(uri):
            if path := sqlite_file(uri):
                wait_while_locked(path, for_writing=create)
            mlflow.set_tracking_uri(uri)
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)
    except UnreachableError:
        raise
    except Exception as error:
        status = error.get_http_status_code() if isinstance(error, MlflowException) else None
        if status in (401, 403):
            raise RequestError(unauthorised(uri, error)) from error
        raise UnreachableError(
            f"MLflow at {without_secret(uri)} cannot be used: {first_line(error)}. Start it (`mlflow "
            "server`), correct MLFLOW_TRACKING_URI, or unset that to keep runs in ./mlflow.db."
        ) from error
    return client


def check_database(uri: str) -> None:
    """Check that what is at a local address exists: MLflow would create it, and its folders. Raises: RequestError."""
    path = sqlite_file(uri)
    is_there = path is None or (path.is_file() and path.stat().st_size > 0)
    if path is None and (folder := local_folder(uri)):
        path, is_there = folder, folder.is_dir()
    if not is_there:
        raise RequestError(
            f"there is no MLflow database at {path}. It was deleted or moved, or this is another folder than that of the "
            "earlier commands. Restore it, or set MLFLOW_TRACKING_URI."
        )


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite address; None for other addresses and for a database in memory."""
    found = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]+)(?:\?.*)?", uri)
    return Path(found[1]) if found and found[1] != ":memory:" else None


def local_folder(uri: str) -> Path | None:
    """The folder of an MLflow that keeps files in place of a database; None for other addresses."""
    if uri.startswith("file:"):
        return Path(unquote(urlsplit(uri).path))
    return Path(uri) if uri.startswith(("/", ".")) else None


def wait_while_locked(path: Path, *, for_writing: bool) -> None:
    """Wait for the process that has locked a SQLite file. MLflow would wait much longer, and say nothing.

    Raises: UnreachableError after LOCKED_S seconds.
    """
    deadline = time.monotonic() + LOCKED_S
    is_told = False
    while is_locked(path, for_writing=for_writing):
        now = time.monotonic()
        if now > deadline:
            raise UnreachableError(
                f"the MLflow database {path} has been locked for {LOCKED_S:.0f} s: another process is writing to it. Try "
                "again, or end that process."
            )
        if not is_told and now > deadline - LOCKED_S + 1:
            Progress().say(f"waiting for the MLflow database {path}: another process is writing to it")
            is_told = True
        time.sleep(0.1)


def is_locked(path: Path, *, for_writing: bool) -> bool:
    """Whether another process keeps this one from reading (or from writing). Other failures are MLflow's to report."""
    if not path.is_file():
        return False
    address = f"file:{quote(str(path.absolute()))}?mode={'rw' if for_writing else 'ro'}"
    try:
        with closing(sqlite3.connect(address, uri=True, timeout=0, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE" if for_writing else "SELECT count(*) FROM sqlite_master")
            return False
    except sqlite3.Error as error:
        return "locked" in str(error)


def unauthorised(uri: str, error: Exception) -> str:
    """The message about a server that answers 401 or 403."""
    names = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN)"
    given = (
        "wrong" if os.environ.get("MLFLOW_TRACKING_USERNAME") or os.environ.get("MLFLOW_TRACKING_TOKEN") else "missing"
    )
    return (
        f"MLflow at {without_secret(uri)} denied access ({first_line(error)}). Credentials are {given}: set {names} in the "
        "environment of this process. The server's administrator creates users."
    )


def check_health(uri: str) -> None:
    """Check quickly that a server answers: MLflow's client would retry for minutes."""
    address = without_secret(uri).rstrip("/")
    try:
        urllib.request.urlopen(f"{address}/health", timeout=ANSWER_S).close()
    except urllib.error.HTTPError:
        return  # it answers; the client checks access


@contextmanager
def initialisation_lock(uri: str) -> Iterator[None]:
    """One process at a time creates the tables of a SQLite file: two at once would corrupt it."""
    if not uri.startswith("sqlite:"):
        yield
        return
    name = f"redress-{os.getuid()}-{hashlib.sha256(uri.encode()).hexdigest()[:16]}.lock"
    path = Path(tempfile.gettempdir(), name)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)  # other users may write to that folder
    with open(descriptor, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def quieten() -> None:
    """Silence MLflow's messages on migrations, retries and addresses: redress reports what matters."""
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # a retry would repeat a call that reached the server although its answer was lost
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("mlflow.store").setLevel(logging.CRITICAL)  # it logs a traceback for each error that it raises


def experiment_id(client: MlflowClient, name: str, uri: str) -> str:
    """The id of the MLflow experiment `name`, created if missing; beside a SQLite file its artifacts go to ./mlartifacts.

    Raises: RequestError where it was deleted or cannot be created.
    """
    for _ in range(2):
        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                return client.create_experiment(name, artifact_location=artifact_location(uri))
            except MlflowException:
                continue  # another process was first
        if found.lifecycle_stage != "active":
            raise RequestError(
                f"the MLflow experiment {name!r} was deleted. Restore it in the UI, or set `experiment` to another name."
            )
        return found.experiment_id
    raise RequestError(f"MLflow at {without_secret(uri)} can neither find nor create the experiment {name!r}.")


def artifact_location(uri: str) -> str | None:
    path = sqlite_file(uri)
    return (path.absolute().parent / "mlartifacts").as_uri() if path else None  # else the server decides
