"""`python -m tests.campaign.launch ARGS` is `redress ARGS` that notes each of its writes and may strike itself at one of them.

A write is a file below the campaign's folder that is opened for writing, renamed or removed, or an SQL statement that
changes a database. The process is struck just before it, or some milliseconds later. Ray's workers are other processes and
note nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import runpy
import signal
import sys
import threading
from typing import Any

WRITES, FOLDERS, STRIKE, FILE_LIMIT = (
    f"REDRESS_CAMPAIGN_{name}" for name in ("WRITES", "FOLDERS", "STRIKE", "FILE_LIMIT")
)
ALTERS = os.O_WRONLY | os.O_RDWR | os.O_CREAT
TWO_PLACES = {"os.rename", "os.link"}  # the second argument is the place that changes
ONE_PLACE = {"os.remove", "os.mkdir", "os.rmdir", "os.truncate"}


def kill_tree(number: int) -> None:
    """Every process below this one, then this one."""
    import psutil

    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
    os.kill(os.getpid(), number)


class Notes:
    """A line for each write, in the file that WRITES names; the strike, given as JSON, happens at one of them."""

    def __init__(self, file: str, folders: list[str], strike: dict[str, Any] | None) -> None:
        self.descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        self.folders, self.strike, self.process = tuple(folders), strike, os.getpid()
        self.count, self.guard = 0, threading.Lock()

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """A hook of `sys.addaudithook`, which hears of every file that Python opens."""
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & ALTERS:
                return
        elif event in TWO_PLACES:
            path = arguments[1]
        elif event in ONE_PLACE:
            path = arguments[0]
        else:
            return
        path = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        if path.startswith(self.folders):
            self.note(f"{event} {path}")

    def statement(self, *arguments: Any) -> None:
        """SQLAlchemy calls it before each statement."""
        verb = str(arguments[2]).lstrip()[:20].split(" ", 1)[0].upper()
        if verb in ("INSERT", "UPDATE", "DELETE"):
            self.note(f"sql {verb}")

    def commit(self, *arguments: Any) -> None:
        self.note("sql COMMIT")

    def note(self, what: str) -> None:
        if os.getpid() != self.process:  # a fork
            return
        with self.guard:
            self.count += 1
            os.write(self.descriptor, f"{what}\n".encode(errors="replace"))
            is_moment = self.strike is not None and self.count == self.strike["write"]
        if is_moment and self.strike:
            number = self.strike["signal"]
            strike = (lambda: kill_tree(number)) if self.strike["tree"] else lambda: os.kill(self.process, number)
            if self.strike["delay_s"]:
                threading.Timer(self.strike["delay_s"], strike).start()
            else:
                strike()


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a process started in the background ignores it
    if limit := os.environ.get(FILE_LIMIT):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if file := os.environ.get(WRITES):
        from sqlalchemy import event
        from sqlalchemy.engine import Engine

        strike = json.loads(os.environ.get(STRIKE) or "null")
        notes = Notes(file, json.loads(os.environ[FOLDERS]), strike)
        event.listen(Engine, "before_cursor_execute", notes.statement)
        event.listen(Engine, "commit", notes.commit)
        sys.addaudithook(notes.audit)
    sys.argv = ["redress", *sys.argv[1:]]
    runpy.run_module("orchestration", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
