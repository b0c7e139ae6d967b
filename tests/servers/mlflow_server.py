"""An MLflow tracking server over HTTP: SQLite for runs and registry, artifacts served from a folder."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.process import BIN, HOST, Process, clean_environment, free_port

QUIET = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its job runner outlives a SIGTERM
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@contextmanager
def mlflow_server(home: Path, port: int | None = None) -> Iterator[str]:
    """Run a server that keeps its state below `home` and yield its address (for MLFLOW_TRACKING_URI).

    The same `home` and `port` bring back a server that was stopped, with all it held.
    """
    home.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    command = [
        str(BIN / "mlflow"),
        "server",
        f"--host={HOST}",
        f"--port={port}",
        "--workers=1",
        f"--backend-store-uri=sqlite:///{home}/mlflow.db",
        f"--artifacts-destination={home}/artifacts",
    ]
    env = clean_environment(home / "home") | QUIET
    server = Process(command, home / "mlflow.log", env, home)
    try:
        server.wait_until(lambda: is_healthy(f"http://{HOST}:{port}"), timeout_s=120)
        yield f"http://{HOST}:{port}"
    finally:
        server.stop()


def is_healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False
