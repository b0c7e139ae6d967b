"""A command under attack: its process, those below it, its answer, and what it leaves running."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.campaign import launch
from tests.campaign.arena import Arena

TITLES = {"raylet": r"^raylet$", "gcs": r"^gcs_server$", "controller": r"^ray::.*TrainController"}
END_S = 900.0  # a command ends, whatever struck it; machines are shared
GONE_S = 90.0  # so long after its end nothing of it is alive; two of Ray's processes try for 60 s to reach a GCS


class Running:
    """A command that was started. name: of its log, its answer and the notes of its writes in the arena's place of work."""

    def __init__(
        self,
        arena: Arena,
        words: Sequence[str],
        name: str,
        strike: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.arena, self.words = arena, words
        self.log, self.out, self.writes = (arena.work / f"{name}.{kind}" for kind in ("log", "json", "writes"))
        self.writes.touch()
        told = {launch.WRITES: str(self.writes), launch.STRIKE: json.dumps(strike)} | dict(environment or {})
        with self.out.open("wb") as out, self.log.open("wb") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "tests.campaign.launch", *words, "--json"],
                cwd=arena.work, stdin=subprocess.DEVNULL, stdout=out, stderr=log, start_new_session=True,
                env=arena.environment() | told,
            )  # fmt: skip
        self.seen: dict[int, psutil.Process] = {}
        self.ended: float | None = None
        self.look()

    def is_alive(self) -> bool:
        return self.popen.poll() is None

    def look(self) -> list[psutil.Process]:
        """The processes below this one. They are remembered: their parent may end before they do."""
        try:
            process = psutil.Process(self.popen.pid)
            found = [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            found = []
        self.seen |= {process.pid: process for process in found}
        return found

    def find(self, pattern: str) -> list[psutil.Process]:
        """Those of them whose name or title matches, by pid."""
        return sorted((p for p in self.look() if re.search(pattern, title(p))), key=lambda p: int(p.pid))

    def wait(self, limit_s: float = END_S) -> int | None:
        """The exit status, negative after a signal; None where it did not end in time: then it is killed."""
        deadline = time.monotonic() + limit_s
        while self.is_alive() and time.monotonic() < deadline:
            self.look()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(0.3)
        is_late = self.is_alive()
        if is_late:
            kill(self.look())
        self.popen.wait()
        self.ended = time.monotonic()
        return None if is_late else int(self.popen.returncode)

    def survivors(self, limit_s: float = GONE_S) -> list[str]:
        """Titles of processes that are alive so long after the command's end. They are killed."""
        deadline = (self.ended or time.monotonic()) + limit_s
        while (alive := self.alive()) and time.monotonic() < deadline:
            time.sleep(0.1)
        told = [f"{process.pid} {title(process)}" for process in alive]
        kill(alive)
        return told

    def alive(self) -> list[psutil.Process]:
        mine = {process.pid: process for process in self.seen.values() if is_alive(process)}
        return list(mine.values())

    def answer(self) -> dict[str, Any] | None:
        """The object on stdout, if there is exactly one."""
        try:
            return dict(json.loads(self.out.read_text()))
        except ValueError:
            return None

    def tail(self, num_bytes: int = 1500) -> str:
        return self.log.read_bytes()[-num_bytes:].decode(errors="replace")

    def num_writes(self) -> int:
        return len(self.writes.read_bytes().splitlines())

    def last_write(self) -> str:
        lines = self.writes.read_text(errors="replace").splitlines()
        if not lines:
            return "before its first write"
        return re.sub(r"[0-9a-f]{16,}", "…", lines[-1].replace(f"{self.arena.work}/", ""))


def title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        words = process.cmdline()
        return words[0] if words and words[0].startswith("ray::") else str(process.name())
    return ""


def is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def using(folder: Path) -> Iterable[psutil.Process]:
    """Processes that have a file below a folder open, as Ray's have their logs."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError, psutil.NoSuchProcess):
            if any(os.readlink(file).startswith(f"{folder}/") for file in (entry / "fd").iterdir()):
                yield psutil.Process(int(entry.name))


def send(processes: Iterable[psutil.Process], number: int) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def kill(processes: Iterable[psutil.Process]) -> None:
    send(processes, signal.SIGKILL)
