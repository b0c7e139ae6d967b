"""Server processes of the system tests: started with a log, awaited until they answer, stopped by their own pid."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import psutil

Found = TypeVar("Found")
HOST = "127.0.0.1"
BIN = Path(sys.executable).parent


class ServerError(RuntimeError):
    """A server did not start or stopped on its own; the message carries the end of its log."""


def free_port() -> int:
    """A TCP port of the loopback that nothing listens on now (from the system's ephemeral range)."""
    with socket.socket() as s:
        s.bind((HOST, 0))
        return s.getsockname()[1]


def listens(port: int, host: str = HOST) -> bool:
    """Whether something accepts connections on this port of a loopback address."""
    with socket.socket() as s:
        s.settimeout(1)
        return s.connect_ex((host, port)) == 0


def wait_for(
    condition: Callable[[], Found | None], process: subprocess.Popen[bytes], log: Path, timeout_s: float = 300
) -> Found:
    """The first true value of `condition`, while the command `process` runs. It fails with the end of the log."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.1)
    return found


class Process:
    """One server as a process group of its own. `log` collects its stdout and stderr."""

    def __init__(self, command: Sequence[str | Path], log: Path, env: Mapping[str, str], cwd: Path) -> None:
        self.log, self.name = log, Path(command[0]).name
        with log.open("wb") as out:
            self.popen = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=dict(env),
                cwd=cwd,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    def wait_until(self, is_ready: Callable[[], bool], timeout_s: float = 60) -> None:
        """Return once `is_ready()`. Raises: ServerError if the process ends or the time runs out first."""
        deadline = time.monotonic() + timeout_s
        while not is_ready():
            if self.popen.poll() is not None:
                raise ServerError(f"{self.name} ended with {self.popen.returncode}\n{self.tail()}")
            if time.monotonic() > deadline:
                raise ServerError(f"{self.name} did not answer within {timeout_s} s\n{self.tail()}")
            time.sleep(0.1)

    def tail(self, num_bytes: int = 3000) -> str:
        return self.log.read_bytes()[-num_bytes:].decode(errors="replace")

    def stop(self, grace_s: float = 10) -> None:
        """End this process and everything it started, and nothing else."""
        family = self.family()
        self.popen.terminate()
        _, alive = psutil.wait_procs(family, timeout=grace_s)
        for process in alive:
            process.kill()
        self.popen.wait(grace_s)

    def family(self) -> list[psutil.Process]:
        """This process and its descendants, as far as they are still alive."""
        try:
            parent = psutil.Process(self.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """End this process and its descendants at once (-9), as a lost machine would."""
        for process in self.family():
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        self.popen.wait(10)


def clean_environment(home: Path) -> dict[str, str]:
    """An environment with a home of its own and without addresses or secrets of the caller's."""
    unwanted = ("AWS_", "MLFLOW_", "RAY_", "REDRESS_", "S3_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    home.mkdir(parents=True, exist_ok=True)
    return kept | {"HOME": str(home), "PATH": f"{BIN}{os.pathsep}{kept.get('PATH', os.defpath)}"}
