"""Checkpoints are written by a thread, one at a time, while training goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

log = logging.getLogger(__name__)


class CheckpointWriter:
    """One thread, and at most one write that has not ended. None is dropped: a second one waits for the first.

    An error of a write is raised, as it is, by the next call of any method but `close`, and never twice.
    """

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1, "redress-checkpoint")
        self.pending: Future[None] | None = None

    def start(self, write: Callable[[], None]) -> None:
        """Wait for the write before, then begin this one and return."""
        self.drain()
        self.pending = self.thread.submit(write)

    def check(self) -> None:
        """Raise the error of a write that has failed. It waits for nothing."""
        if self.pending is not None and self.pending.done():
            self.drain()

    def drain(self) -> None:
        """Wait for the write that has not ended, if any."""
        if self.pending is not None:
            wait([self.pending])  # where this is interrupted, the write is still pending
            ended, self.pending = self.pending, None
            ended.result()

    def close(self) -> None:
        """Wait as `drain`, and end the thread. An error is logged: that which ended the training, if any, matters more."""
        try:
            self.drain()
        except Exception as error:
            log.warning("the last checkpoint was not written: %s: %s", type(error).__name__, error)
        finally:
            self.thread.shutdown()
