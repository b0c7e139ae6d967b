"""Hedged reads: every attempt has a deadline, and a second read is sent after a straggler.

Most slow answers of an object store are slow by accident, and a repeated request is answered at once (Dean and
Barroso, "The Tail at Scale", CACM 2013). Two things keep this from doubling the load of a store that is slow for everybody:
the delay follows recent latencies, and second reads have a budget.

pyarrow cannot cancel a read. A late one stays in its thread, and its answer is discarded.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from datasets.storage.stats import StoreStats

T = TypeVar("T")

ATTEMPT = "redress-attempt"  # name of the threads
QUANTILE = 0.95  # a read is late after this quantile of recent latencies …
FACTOR = 1.5  # … times this factor
FLOOR_S = 0.2  # and never before this many seconds
RECENT = 200  # latencies kept
WARM = 12  # latencies needed before any read counts as late
BUDGET = 0.05  # second reads per read
BURST = 2.0  # second reads that the budget accumulates at most
IN_FLIGHT = 4  # second reads at once
LATENCY_BYTES = 8 << 20  # a store takes as long for these as for a first byte (0.1 s at 80 MB/s)


class Hedging:
    """The latencies and the budget of the reads of one store. Safe to use from several threads."""

    def __init__(self, stats: StoreStats) -> None:
        self.stats = stats
        self._lock = threading.Lock()
        self._recent: deque[float] = deque(maxlen=RECENT)  # seconds for a first byte
        self._budget = BURST
        self._in_flight = 0

    def delay_s(self, num_bytes: int) -> float:
        """Seconds after which a read of num_bytes is a straggler; infinite until WARM latencies are known."""
        with self._lock:
            if len(self._recent) < WARM:
                return math.inf
            usual = sorted(self._recent)[int(QUANTILE * (len(self._recent) - 1))]
        return max(FLOOR_S, FACTOR * usual * _weight(num_bytes))

    def read(self, operation: Callable[[], T], num_bytes: int, limit_s: float) -> T:
        """The result of `operation`, from the first of at most two runs that succeeds.

        operation: safe to run twice at once. Raises: its error when all runs have failed; TimeoutError after limit_s.
        """
        runs = _Runs(self._timed(operation, num_bytes))
        until = time.monotonic() + limit_s
        delay_s = self.delay_s(num_bytes)
        while True:
            answer = runs.wait(min(delay_s, until - time.monotonic()))
            if answer is not None:
                if answer.error is None:
                    self._budget_grows()
                    self.stats.count(hedges_won=answer.number)
                    return answer.value  # type: ignore[return-value]
                if runs.running == 0:
                    raise answer.error
            if time.monotonic() >= until:
                raise TimeoutError(f"no complete answer within {limit_s:.1f} s")
            if answer is None and self._take():
                delay_s = math.inf
                self.stats.count(hedges=1)
                runs.start(self._give_back)

    def _timed(self, operation: Callable[[], T], num_bytes: int) -> Callable[[], T]:
        def timed() -> T:
            began = time.monotonic()
            value = operation()
            with self._lock:
                self._recent.append((time.monotonic() - began) / _weight(num_bytes))
            return value

        return timed

    def _budget_grows(self) -> None:
        with self._lock:
            self._budget = min(BURST, self._budget + BUDGET)

    def _take(self) -> bool:
        with self._lock:
            if self._budget < 1 or self._in_flight >= IN_FLIGHT:
                return False
            self._budget -= 1
            self._in_flight += 1
            return True

    def _give_back(self) -> None:
        with self._lock:
            self._in_flight -= 1


def within(operation: Callable[[], T], limit_s: float) -> T:
    """The result of `operation`. Raises: its error; TimeoutError after limit_s."""
    answer = _Runs(operation).wait(limit_s)
    if answer is None:
        raise TimeoutError(f"no answer within {limit_s:.1f} s")
    if answer.error is not None:
        raise answer.error
    return answer.value  # type: ignore[return-value]


def _weight(num_bytes: int) -> float:
    """The time for num_bytes over the time for a first byte."""
    return 1 + num_bytes / LATENCY_BYTES


class _Answer:
    """The result or the error of a run. number: the run's, 0 for the first."""

    def __init__(self, number: int, value: object, error: BaseException | None) -> None:
        self.number, self.value, self.error = number, value, error


class _Runs:
    """Runs of one operation, each in a daemon thread; answers are delivered in the order in which they are ready."""

    def __init__(self, operation: Callable[[], object]) -> None:
        self.operation = operation
        self.running = self._started = 0
        self._answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
        self.start()

    def start(self, at_end: Callable[[], None] = lambda: None) -> None:
        number = self._started
        self._started += 1
        self.running += 1

        def run() -> None:
            try:
                answer = _Answer(number, self.operation(), None)
            except BaseException as error:
                answer = _Answer(number, None, error)
            at_end()
            self._answers.put(answer)

        threading.Thread(target=run, name=ATTEMPT, daemon=True).start()

    def wait(self, timeout_s: float) -> _Answer | None:
        """The next answer, None after timeout_s."""
        try:
            answer = self._answers.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            return None
        self.running -= 1
        return answer
