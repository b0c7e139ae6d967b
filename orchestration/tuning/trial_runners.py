"""What trains a sweep's trial: the loop in the Tune actor itself, or a Ray Train job of several workers that it starts."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Protocol

import torch

from datasets.storage.store import open_store
from orchestration.progress import Progress
from orchestration.tracking.tracked_run import TrackedRun
from orchestration.training import stop_signal, train
from orchestration.training.validation import Scores
from orchestration.training.worker import FAILURE, Training, WorkerConfig

POLL_S = 0.2


class FinalError(RuntimeError):
    """Another attempt would end in the same way."""


class TrialRunner(Protocol):
    def next_score(self) -> dict[str, Any]:
        """Train on to where the trial is scored next: epoch, step, metrics.

        Raises: one of FINAL_ERRORS, or FinalError, where another attempt would end in the same way; what else goes wrong
        another attempt may mend.
        """

    def stop(self, *, failed: bool) -> bool:
        """End what trains; again, it does nothing. False where it goes on, and only the end of this actor will end it."""


class InProcessRunner:
    """The loop of every run in this process, to one milestone a step."""

    def __init__(self, config: WorkerConfig, run: TrackedRun, *, gpu: bool) -> None:
        with ExitStack() as stack:
            stack.enter_context(run.forward())
            self.training = Training(config, run.store, torch.device("cuda" if gpu else "cpu"))
            stack.callback(self.training.close)
            self.milestones = iter(self.training.milestones())
            self.stack = stack.pop_all()

    def next_score(self) -> dict[str, Any]:
        epoch = next(self.milestones)
        self.training.advance(epoch)
        metrics = self.training.validate(epoch)
        return {"epoch": epoch, "metrics": metrics, "step": self.training.progress.step}

    def stop(self, *, failed: bool) -> bool:
        self.stack.close()
        return True


class RayTrainRunner:
    """A Ray Train job, whose rank 0 leaves the scores in the run's storage."""

    def __init__(
        self,
        config: WorkerConfig,
        run: TrackedRun,
        prepared: train.Prepared,
        scores: Scores,
        earlier: Sequence[dict[str, Any]],
    ) -> None:
        """scores: read up to `earlier`, which an attempt before this one left."""
        self.store, self.scores = open_store(run.storage), scores
        self.waiting = list(earlier[-1:])  # again: what the earlier attempt told nobody may have heard
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
        """The job ended and there is no score: why."""
        if self.error is not None and not self.store.exists(FAILURE):
            raise self.error
        raise FinalError(str(self.error or "training ended without a score"))

    def stop(self, *, failed: bool) -> bool:
        """Workers that were stopped read so themselves."""
        if not failed and self.epoch < self.last and stop_signal.stop_reason(self.store) is None:
            return not self.thread.is_alive()
        self.thread.join()
        return True
