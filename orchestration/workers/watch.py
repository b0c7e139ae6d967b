"""The watch of one worker: where no rank of its group makes progress any more, it tells why and ends its process.

Ray then restarts the group from the newest checkpoint. Two threads do this, because a call of the store may never return. A
thread of Python does not run while other code holds the interpreter's lock: a timer of the interpreter ends the process then.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch._C._distributed_c10d import _dump_fr_trace_json

from datasets.storage.store import Store
from orchestration.workers import hang, stacks
from orchestration.workers.hang import EXIT_STATUS, Report
from orchestration.workers.notices import Board, Notice, this_node

log = logging.getLogger(__name__)

LONG_S = 900.0  # without progress before the first step, in a checkpoint, and while rank 0 ranks what was embedded
TELL_S = 60.0  # for all that is told of a hang: storage may be what does not answer
STDERR = 2


@dataclass(frozen=True)
class Patience:
    """Seconds without progress after which a rank stands still: in a step, and in what takes longer."""

    step_s: float
    long_s: float

    @property
    def interval_s(self) -> float:
        """Between two notices of a rank."""
        return min(5.0, max(0.1, self.step_s / 20))

    @property
    def silence_s(self) -> float:
        """After which a process counts as stopped. A busy machine delays its notices."""
        return 4 * self.interval_s + 1


def patience_of(hang_s: float) -> Patience:
    return Patience(hang_s, max(hang_s, LONG_S))


def limit_collectives(hang_s: float | None) -> None:
    """Give all groups of this process the same limit: torch gives a further group one of its own, for NCCL of 600 s."""
    if dist.is_initialized():
        for group in list(dist.distributed_c10d._world.pg_map):
            dist.set_timeout(timedelta(seconds=timeout_s(hang_s)), group)


def timeout_s(hang_s: float | None) -> int:
    """Of the collectives of a group: behind the watch, which tells more. None: torch's own for gloo."""
    return 1800 if hang_s is None else math.ceil(patience_of(hang_s).long_s + 60)


class Watch:
    """Told of each progress by the thread that makes it, which is the one that creates the watch."""

    def __init__(
        self,
        store: Store,
        patience: Patience,
        board: Board | None = None,
        *,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        """store: the run's. board: of the group; by default of this process alone."""
        self.store, self.patience, self.board, self.end = store, patience, board or Board(None, 0, 1), end
        self.thread, self.native = threading.get_ident(), threading.get_native_id()
        self.host, self.node = socket.gethostname(), this_node()
        self.step, self.phase, self.limit = 0, "starting", patience.long_s
        self.last = time.monotonic()
        self.closed = threading.Event()
        self.threads = [
            threading.Thread(target=work, name=name, daemon=True)
            for work, name in ((self._exchange, "notices of the watch"), (self._watch, "watch"))
        ]
        if math.isfinite(patience.step_s):
            for thread in self.threads:
                thread.start()

    def progress(self, phase: str | None = None, *, step: int | None = None) -> None:
        """Something was finished. phase: what begins. step: the number of finished steps."""
        if step is not None:
            self.step, self.limit = step, self.patience.step_s
        self.phase = phase or self.phase
        self.last = time.monotonic()

    @contextmanager
    def during(self, phase: str, *, is_long: bool = False) -> Iterator[None]:
        before, limit = self.phase, self.limit
        self.limit = self.patience.long_s if is_long else limit
        self.progress(phase)
        try:
            yield
        finally:
            self.limit = limit
            self.progress(before)

    def close(self) -> None:
        self.closed.set()
        if math.isfinite(self.patience.step_s):
            self.threads[0].join(1)  # its call of the store may not return
            self.threads[1].join()
            faulthandler.cancel_dump_traceback_later()

    def left(self) -> float:
        return self.limit - (time.monotonic() - self.last)

    def notice(self) -> Notice:
        rank, pid = self.board.rank, os.getpid()
        return Notice(rank, self.host, self.node, pid, self.native, self.step, self.phase, self.left())

    def _exchange(self) -> None:
        while not self.closed.is_set():
            try:
                self.board.exchange(self.notice())
            except dist.DistNetworkError:  # the process of rank 0 ended: silent from now on
                return
            except RuntimeError as error:
                log.debug("the watch's store: %s", error)
            self.closed.wait(self.patience.interval_s)

    def _watch(self) -> None:
        while not self.closed.wait(self.patience.interval_s):
            faulthandler.dump_traceback_later(self.limit + self.patience.silence_s, exit=True, file=STDERR)
            if self.left() <= 0 and self.board.all_stand(self.patience.step_s):
                self._end_group()
                return

    def _end_group(self) -> None:
        faulthandler.dump_traceback_later(2 * TELL_S, exit=True, file=STDERR)
        limit = threading.Timer(TELL_S, self.end, [EXIT_STATUS])
        limit.daemon = True
        limit.start()
        try:
            self._tell()
        except Exception:  # whatever it is, the group has to end
            log.exception("the hang of rank %d could not be reported", self.board.rank)
        limit.cancel()
        self.end(EXIT_STATUS)

    def _tell(self) -> None:
        """Report this rank, and those of its machine that cannot; the first rank that reports sums up. Others wait for that."""
        board, attempt = self.board, self.board.attempt
        seconds = time.monotonic() - self.last
        silent = board.silent(self.patience.silence_s)
        self._report_this()
        spied = {r for r in silent if r in board.heard and board.heard[r].notice.node == self.node}
        if self._is_first_of_node(silent):
            for rank in spied:
                self._report_other(rank)
        expected = {*range(board.workers)} - silent | spied
        deadline = time.monotonic() + 2 * self.patience.silence_s + (stacks.DUMP_S if spied else 0)
        while not expected <= (reports := hang.read(self.store, attempt)).keys() and time.monotonic() < deadline:
            time.sleep(0.1)
        if board.rank == min(rank for rank, report in reports.items() if report.by is None):
            place = self.store.join(hang.FOLDER, attempt)
            summary = hang.summarise(attempt, reports, board.workers, seconds, place)
            log.error(summary.message)
            self.store.write(hang.SUMMARY, json.dumps(summary.__dict__).encode())
        while time.monotonic() < deadline + self.patience.silence_s and not self._is_summed_up(attempt):
            time.sleep(0.1)

    def _is_first_of_node(self, silent: set[int]) -> bool:
        heard = self.board.heard.items()
        here = [rank for rank, one in heard if one.notice.node == self.node and rank not in silent]
        return self.board.rank <= min(here, default=self.board.rank)

    def _is_summed_up(self, attempt: str) -> bool:
        found = hang.read_summary(self.store)
        return found is not None and found.attempt == attempt

    def _report_this(self) -> None:
        found, one = stacks.of_this_process(self.thread), self.notice()
        report = Report(one.rank, one.host, one.pid, one.step, one.phase, found.where, collectives=collectives())
        hang.write(self.store, self.board.attempt, report, found.text)

    def _report_other(self, rank: int) -> None:
        one, trouble = self.board.heard[rank].notice, ""
        try:
            found = stacks.of_process(one.pid, one.thread)
        except stacks.NoStackError as error:
            found, trouble = stacks.Stacks("", ""), str(error)
        report = Report(rank, one.host, one.pid, one.step, one.phase, found.where, by=self.board.rank, trouble=trouble)
        if rank not in hang.read(self.store, self.board.attempt):
            hang.write(self.store, self.board.attempt, report, found.text)


def collectives() -> dict[str, int]:
    """Of each process group the number of collectives that this process entered, by torch's flight recorder."""
    if not dist.is_initialized():
        return {}
    try:
        status: dict[str, Any] = json.loads(_dump_fr_trace_json(False, False))["pg_status"]
    except (AttributeError, KeyError, ValueError):
        return {}
    return {group: int(counts["last_enqueued_collective"]) for group, counts in status.items()}


def watch_of(store: Store, hang_s: float | None) -> Watch:
    """The watch of this process in its group, if any. hang_s: None for one that waits for ever."""
    if hang_s is None:
        return Watch(store, Patience(math.inf, math.inf))
    if not dist.is_initialized():
        return Watch(store, patience_of(hang_s))
    shared = dist.distributed_c10d._get_default_store().clone()  # a call of the group's own may block for minutes
    return Watch(store, patience_of(hang_s), Board(shared, dist.get_rank(), dist.get_world_size()))
