"""Trial runners: training in the Tune actor itself, or in a Ray Train job of several workers."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from typing import Any, Protocol

import torch

from datasets.storage.store import open_store
from orchestration.config.load import Experiment
from orchestration.progress import Progress
from orchestration.tracking.tracked_run import TrackedRun
from orchestration.training import preparation, stop_signal, train
from orchestration.training.validation import Scores
from orchestration.training.worker import FAILURE, Training, WorkerConfig
from orchestration.workers.watch import watch_of

POLL_S = 0.2


class FinalError(RuntimeError):
    """The trial failed, and another attempt would fail in the same way."""


class TrialRunner(Protocol):
    def next_score(self) -> dict[str, Any]:
        """Train to the next validation and return its epoch, step and metrics.

        Raises: one of FINAL_ERRORS, or FinalError, if another attempt would fail in the same way. Other errors may not
        occur again.
        """

    def stop(self, *, failed: bool) -> bool:
        """Stop training; idempotent. Returns False if training continues until this actor ends."""


class InProcessRunner:
    """Trains in this process, one milestone per call. A trial that stands still ends its process, and Tune starts another."""

    def __init__(self, config: WorkerConfig, run: TrackedRun, *, gpu: bool) -> None:
        self.store, self.hang_s = run.store, Experiment.from_resolved(config.experiment).hang_s
        with ExitStack() as stack:
            stack.enter_context(run.forward())
            with closing(watch_of(self.store, self.hang_s)) as watch:
                self.training = Training(config, self.store, torch.device("cuda" if gpu else "cpu"), watch)
            stack.callback(self.training.close)
            self.milestones = iter(self.training.milestones())
            self.stack = stack.pop_all()

    def next_score(self) -> dict[str, Any]:
        epoch = next(self.milestones)
        with closing(watch_of(self.store, self.hang_s)) as self.training.watch:
            self.training.advance(epoch)
            metrics = self.training.validate(epoch)
        return {"epoch": epoch, "metrics": metrics, "step": self.training.progress.step}

    def stop(self, *, failed: bool) -> bool:
        self.stack.close()
        return True


class RayTrainRunner:
    """Trains in a Ray Train job, whose rank 0 writes scores to the run's storage."""

    def __init__(
        self,
        config: WorkerConfig,
        run: TrackedRun,
        prepared: preparation.Prepared,
        scores: Scores,
        earlier: Sequence[dict[str, Any]],
    ) -> None:
        """scores: read up to `earlier`, which an attempt before this one left."""
        self.store, self.scores = open_store(run.storage), scores
        self.waiting = list(earlier[-1:])  # again: the sweep may not have received it
        self.last, self.epoch = prepared.experiment.epochs, 0
        self.error: Exception | None = None

        def work() -> None:
            try:
                train.fit(prepared, run, config, Progress())
            except Exception as error:
                self.error = error

        self.thread = threading.Thread(target=work, name="Ray Train", daemon=True)
        self.thread.start()

    def next_score(self) -> dict[str, Any]:
        if self.epoch:
            stop_signal.send_continue(self.store, self.epoch)
        while not self.waiting:
            was_alive = self.thread.is_alive()
            self.waiting += self.scores.read_new()
            if not self.waiting and not was_alive:
                self.explain()
            if not self.waiting:
                time.sleep(POLL_S)
        found = self.waiting.pop(0)
        self.epoch = found["epoch"]
        return found

    def explain(self) -> None:
        """Raise why the job ended without a score."""
        if self.error is not None and not self.store.exists(FAILURE):
            raise self.error
        raise FinalError(str(self.error or "training ended without a score"))

    def stop(self, *, failed: bool) -> bool:
        """Workers of a stopped trial end by themselves."""
        if not failed and self.epoch < self.last and stop_signal.stop_reason(self.store) is None:
            return not self.thread.is_alive()
        self.thread.join()
        return True
