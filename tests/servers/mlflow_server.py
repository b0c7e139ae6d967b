"""An MLflow tracking server over HTTP: SQLite or PostgreSQL for runs and registry, artifacts in a folder or on S3."""

from __future__ import annotations

import secrets
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers.process import BIN, HOST, Process, clean_environment, free_port

QUIET = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its job runner outlives a SIGTERM
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@dataclass(frozen=True)
class Backing:
    """Where a server keeps things, and who may come in. By default a SQLite file, a folder, and everybody."""

    tables: str | None = None
    artifacts: str | None = None
    admin: tuple[str, str] | None = None  # name and password: the server then asks everybody for theirs
    environment: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def mlflow_server(home: Path, port: int | None = None, backing: Backing = Backing()) -> Iterator[str]:
    """Run a server that keeps its state below `home` (or in `backing`) and yield its address (for MLFLOW_TRACKING_URI).

    The same `home` and `port` bring back a server that was stopped, with all it held.
    """
    home.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    server = start(home, port, backing)
    try:
        server.wait_until(lambda: is_healthy(f"http://{HOST}:{port}"), timeout_s=120)
        yield f"http://{HOST}:{port}"
    finally:
        server.stop()


def start(home: Path, port: int, backing: Backing = Backing()) -> Process:
    """The process of `mlflow_server`, which need not answer yet."""
    command = [
        str(BIN / "mlflow"),
        "server",
        f"--host={HOST}",
        f"--port={port}",
        "--workers=1",
        f"--artifacts-destination={backing.artifacts or f'{home}/artifacts'}",
    ]
    tables = backing.tables or f"sqlite:///{home}/mlflow.db"
    env = clean_environment(home / "home") | QUIET | dict(backing.environment)
    env["MLFLOW_BACKEND_STORE_URI"] = tables  # not among the words, which every process of the machine can read
    if backing.admin:
        command.append("--app-name=basic-auth")
        env |= with_users(home, tables, *backing.admin)
    return Process(command, home / "mlflow.log", env, home)


def with_users(home: Path, tables: str, name: str, password: str) -> dict[str, str]:
    """As infra/compose.yaml sets up MLflow's users."""
    settings = home / "auth.ini"
    settings.write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {tables}\n"
        f"admin_username = {name}\nadmin_password = {password}\n"
    )
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
        "MLFLOW_AUTH_ADMIN_USERNAME": name,
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
    }


def is_healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False
