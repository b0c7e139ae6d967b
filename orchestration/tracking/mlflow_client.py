"""Connecting to MLflow: a client of a reachable server or of a SQLite file, and the MLflow experiment of runs."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from orchestration.addresses import tracking_address
from orchestration.errors import RequestError, UnreachableError, first_line, without_secret

ANSWER_S = 10.0


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

    create: False where the request is about something in it, so that a missing SQLite file is an error.

    Raises: AddressError; RequestError with the address and the remedy; UnreachableError where the server cannot be reached.
    """
    uri = tracking_address(tracking_uri, "tracking_uri") if tracking_uri else default_tracking_uri()
    quieten()
    if not create:
        check_database(uri)
    try:
        if uri.startswith(("http://", "https://")):
            check_health(uri)
        with initialisation_lock(uri):
            mlflow.set_tracking_uri(uri)
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)
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
    """Check that the file of a SQLite address exists: SQLite would create an empty one. Raises: RequestError."""
    path = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    if uri.startswith("sqlite:///") and not (path.is_file() and path.stat().st_size):
        raise RequestError(
            f"there is no MLflow database at {path}. It was deleted or moved, or this is another folder than that of the "
            "earlier commands. Restore it, or set MLFLOW_TRACKING_URI."
        )


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
    if not uri.startswith("sqlite:///"):
        return None  # the server decides
    return (Path(uri.removeprefix("sqlite:///")).absolute().parent / "mlartifacts").as_uri()
