"""One trial of a sweep as Ray Tune runs it: a training of one point from one seed, kept in MLflow as a run of its own.

A step of the trial ends where it is scored. With one worker the Tune actor trains itself, and takes the next trial when it
is done; with several it starts a Ray Train job and waits for what that finds.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from ray.tune import Trainable

from datasets.shards import Dataset
from datasets.store import open_store
from orchestration import tracking, train, verdicts
from orchestration.experiment import Experiment
from orchestration.patience import persist
from orchestration.points import Trial
from orchestration.progress import Progress
from orchestration.scoring import locate
from orchestration.sweep_runs import end_tags, take_up
from orchestration.validation import PREFIX, Scores
from orchestration.worker import FAILURE, FINAL_ERRORS, Assignment, Scoring, Training

POLL_S = 0.2
AWAY_S = 3600.0  # that MLflow may be away before a trial begins: one that does not wait is lost, and the next in turn
ATTEMPTS = "attempts.json"


@dataclass(frozen=True)
class Job:
    """What all trials of a sweep have in common. process: a name of the process that drives it. scored_every: epochs.
    waits: whether scouts may be stopped. retries: after the first attempt at a trial."""

    sweep: str
    process: str
    tracking_uri: str
    has_password: bool
    fingerprint: str
    facts: dict[str, Any]
    objective: str
    scored_every: int
    waits: bool
    retries: int
    gpu: bool

    def point_at_tracking(self) -> None:
        """This process's MLflow is the sweep's. Tune writes a job to storage, so an address with a password in it is no part
        of it: then the node's own environment has it, as it has the keys of the object store."""
        if not self.has_password:
            os.environ["MLFLOW_TRACKING_URI"] = self.tracking_uri
        os.environ.setdefault("MLFLOW_TRACKING_URI", self.tracking_uri)


class SweepTrial(Trainable):
    """What both kinds share: a tracked run from its beginning, or from where an earlier attempt left it, to its end."""

    job: ClassVar[Job]

    def setup(self, config: dict[str, Any]) -> None:
        self.job.point_at_tracking()
        self.run: tracking.TrackedRun | None = None
        self.begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.end()
        self.begin(new_config)
        return True

    def cleanup(self) -> None:
        self.end()

    def begin(self, config: Mapping[str, Any]) -> None:
        """Open the run and start training. What another attempt cannot mend is kept for the first step."""
        trial = Trial(config["values"], config["seed"], config["is_scout"])
        self.failure: str | None = None
        self.stack = ExitStack()
        self.experiment = Experiment.from_resolved(config["experiment"])
        self.run = persist(
            lambda: take_up(self.job.sweep, self.experiment, self.job.fingerprint, trial),
            f"trial {trial.name} was to begin",
            deadline_s=AWAY_S,
        )
        self.run.set_tags({"sweep.process": f"{platform.node()}:{os.getpid()}"})
        self.store = open_store(self.run.storage)
        self.store.delete(FAILURE)
        self.scores = Scores(self.store)
        self.earlier = self.scores.read_new()
        self.curve = {record["epoch"]: record["metrics"][self.job.objective] for record in self.earlier}
        self.metrics: dict[str, float] = self.earlier[-1]["metrics"] if self.earlier else {}
        if verdicts.stopped(self.store) is not None:
            return
        try:
            self.start(
                Assignment(
                    experiment=self.experiment.resolved(),
                    run=self.run.storage,
                    facts=self.job.facts,
                    init_from=self.initial_weights(),
                    weights=self.fetch_weights(),
                    trial=Scoring(self.job.scored_every, waits=self.job.waits and trial.is_scout),
                )
            )
        except FINAL_ERRORS as error:
            self.failure = told(error)

    def fetch_weights(self) -> str | None:
        if not self.experiment.weights:
            return None
        backbone = train.fetch_backbone(self.prepared())
        assert backbone is not None
        self.store.write(train.WEIGHTS, backbone)
        return train.WEIGHTS

    def initial_weights(self) -> str | None:
        """The checkpoint that is meant by a run, an address or a registered version."""
        return locate(self.experiment.init_from).checkpoint.address if self.experiment.init_from else None

    def prepared(self) -> train.Prepared:
        return train.Prepared(self.experiment, Dataset.open(self.experiment.data), self.job.facts, 0)

    def start(self, assignment: Assignment) -> None:
        raise NotImplementedError

    def next_score(self) -> dict[str, Any]:
        """Train on to where the trial is scored next: epoch, step, metrics.

        Raises: one of FINAL_ERRORS, or FinalError, where another attempt would end in the same way.
        """
        raise NotImplementedError

    def stop_training(self) -> bool:
        """End what trains. False where it goes on, and only the end of this actor will end it."""
        raise NotImplementedError

    def step(self) -> dict[str, Any]:
        assert self.run is not None
        if (reason := verdicts.stopped(self.store)) is not None:  # by an earlier process, which did not tell MLflow
            return self.done("stopped", reason)
        if self.failure is None:
            try:
                found = self.next_score()
            except (*FINAL_ERRORS, FinalError) as error:
                self.failure = told(error)
            except Exception as error:
                if self.may_try_again():
                    self.let_go()
                    raise
                self.failure = told(error)
        if self.failure is not None:
            return self.done("failed", self.failure)
        epoch, metrics = found["epoch"], found["metrics"]
        self.metrics = metrics
        self.curve[epoch] = metrics[self.job.objective]
        self.run.log_evaluation({f"{PREFIX}{name}": value for name, value in metrics.items()}, step=found["step"])
        return self.done("finished") if epoch >= self.experiment.epochs else self.reached()

    def reached(self) -> dict[str, Any]:
        """Where the trial stands, as Tune's searcher and scheduler are told: Tune flattens what is nested, so that is text."""
        assert self.run is not None
        epoch = max(self.curve, default=0)
        return {
            "run_id": self.run.run_id,
            "storage": self.run.storage,
            "epoch": epoch,
            "score": self.curve.get(epoch),
            "metrics": json.dumps(self.metrics),
            "curve": json.dumps(self.curve),
            "state": "running",
            "done": False,
        }

    def done(self, state: str, reason: str | None = None) -> dict[str, Any]:
        reached = self.reached()
        self.finish(state, reason)
        return reached | {"done": True, "state": state, "reason": reason}

    def end(self) -> None:
        """Close the run of a trial that is left before its end: it was stopped, or the sweep itself ends."""
        if self.run is None:
            return
        if (reason := verdicts.stopped(self.store)) is not None:
            self.finish("stopped", reason)
        else:
            self.close("KILLED")

    def finish(self, state: str, reason: str | None = None) -> None:
        """The trial came to an end of its own, which its tags tell a sweep that goes on."""
        assert self.run is not None
        if not self.stop_training():
            return self.close("KILLED")
        if state != "failed":
            self.run.log_training_curves()
        self.run.set_tags(end_tags(state, self.curve, reason))
        return self.close("FAILED" if state == "failed" else "FINISHED")

    def close(self, status: str) -> None:
        assert self.run is not None
        if self.stop_training():
            self.stack.close()
            self.run.finish(status)
        self.run = None

    def may_try_again(self) -> bool:
        """Whether this process of the sweep has attempts left for the trial; they are counted in its run's storage."""
        found = json.loads(self.store.read(ATTEMPTS)) if self.store.exists(ATTEMPTS) else {}
        failed = 1 + (found["failed"] if found.get("process") == self.job.process else 0)
        self.store.write(ATTEMPTS, json.dumps({"process": self.job.process, "failed": failed}).encode())
        return failed <= self.job.retries

    def let_go(self) -> None:
        """Leave the run as it is: another attempt takes it up."""
        assert self.run is not None
        self.stop_training()
        self.stack.close()
        self.run = None


class FinalError(RuntimeError):
    """Another attempt would end in the same way."""


class OneWorker(SweepTrial):
    """Trains in the actor itself: the loop of every run, to one milestone a step."""

    training: Training | None = None

    def start(self, assignment: Assignment) -> None:
        assert self.run is not None
        self.stack.enter_context(self.run.forward())
        device = torch.device("cuda" if self.job.gpu else "cpu")
        self.training = Training(assignment, self.store, device)
        self.milestones = iter(self.training.milestones())

    def next_score(self) -> dict[str, Any]:
        assert self.training is not None
        epoch = next(self.milestones)
        self.training.advance(epoch)
        metrics = self.training.validate(epoch)
        return {"epoch": epoch, "metrics": metrics, "step": self.training.position.step}

    def stop_training(self) -> bool:
        training, self.training = self.training, None
        if training is not None:
            training.close()
        return True


class SeveralWorkers(SweepTrial):
    """Starts a Ray Train job, whose rank 0 leaves the scores in the run's storage."""

    thread: threading.Thread | None = None

    def start(self, assignment: Assignment) -> None:
        self.waiting = self.earlier[-1:]  # again: what the earlier attempt told nobody may have heard
        self.epoch = 0
        self.error: Exception | None = None
        run, prepared = self.run, self.prepared()
        assert run is not None

        def work() -> None:
            try:
                train.fit(prepared, run, assignment, Progress())
            except Exception as error:
                self.error = error

        self.thread = threading.Thread(target=work, name="Ray Train", daemon=True)
        self.thread.start()

    def next_score(self) -> dict[str, Any]:
        """Raises: TrainingFailedError where another attempt may mend it."""
        assert self.thread is not None
        if self.epoch:
            verdicts.go_on(self.store, self.epoch)
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

    def stop_training(self) -> bool:
        """Workers that were stopped read so themselves."""
        if self.thread is None:
            return True
        ends = self.failure is not None or self.epoch >= self.experiment.epochs
        if not ends and verdicts.stopped(self.store) is None:
            return not self.thread.is_alive()
        self.thread.join()
        return True


def told(error: Exception) -> str:
    """A failure that was told already carries its type."""
    return str(error) if isinstance(error, FinalError) else f"{type(error).__name__}: {error}"


def trainable(job: Job, workers: int) -> type[SweepTrial]:
    """The class that Tune makes actors of. It carries the job, so that no trial's configuration has to."""
    base = OneWorker if workers == 1 else SeveralWorkers
    return type(base.__name__, (base,), {"job": job, "__module__": __name__})
