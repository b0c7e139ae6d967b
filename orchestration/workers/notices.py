"""What each rank says of itself while it trains, and what it last heard of the others, through a store of torch.

This is no collective. Rank 0's process serves the store: where that process stands still, calls do not return.
"""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

ATTEMPT = "watch/attempt"


@dataclass(frozen=True)
class Notice:
    """left: the seconds without progress after which this rank stands still, from now on. node: the same for two processes that
    see each other's process ids. thread: the system's id of the thread that trains. step: the number of finished steps."""

    rank: int
    host: str
    node: str
    pid: int
    thread: int
    step: int
    phase: str
    left: float


class Heard(NamedTuple):
    """A rank's last notice, and when it came by `time.monotonic()` of this process: clocks of machines differ."""

    notice: Notice
    at: float


class Board:
    """The notices of a group. store: a c10d store that only this object uses; None: of a process alone."""

    def __init__(self, store: Any | None, rank: int, workers: int) -> None:
        self.store, self.rank, self.workers = store, rank, workers
        self.attempt = time.strftime("%Y%m%dT%H%M%S", time.gmtime())  # names this start of the group; rank 0's counts
        self.heard: dict[int, Heard] = {}
        self.exchanged = time.monotonic()
        self.count = 0
        self._raw: dict[int, bytes] = {}
        if store is not None and rank == 0:
            store.set(ATTEMPT, self.attempt)

    def exchange(self, notice: Notice) -> None:
        """Post this rank's notice and read the others'. May never return."""
        self.count += 1
        if self.store is None:
            self.heard[self.rank] = Heard(notice, time.monotonic())
            return
        self.store.set(key(self.rank), json.dumps([self.count, asdict(notice)]))
        for rank in range(self.workers):
            if rank not in self._raw and not self.store.check([key(rank)]):
                continue
            raw = self.store.get(key(rank))
            if raw != self._raw.get(rank):
                self._raw[rank] = raw
                self.heard[rank] = Heard(Notice(**json.loads(raw)[1]), time.monotonic())
        self.attempt = self.store.get(ATTEMPT).decode() if self.store.check([ATTEMPT]) else self.attempt
        self.exchanged = time.monotonic()

    def all_stand(self, silent_s: float) -> bool:
        """Whether no rank has time left. One that was silent for `silent_s` seconds has none, whatever it was about to do."""
        now = time.monotonic()
        return all(min(one.notice.left, silent_s) <= now - one.at for one in list(self.heard.values()))

    def silent(self, after_s: float) -> set[int]:
        """Ranks that said nothing for `after_s` seconds: their process is stopped or gone.

        Where the store does not answer, that is rank 0, and of the others nothing is known.
        """
        now = time.monotonic()
        if now - self.exchanged > after_s:
            return {0} - {self.rank}
        return {r for r in range(self.workers) if r not in self.heard or now - self.heard[r].at > after_s} - {self.rank}


def key(rank: int) -> str:
    return f"watch/{rank}"


def this_node() -> str:
    """The machine and its namespace of process ids, where the system tells them; else this process alone."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()} {os.getpid()}"
