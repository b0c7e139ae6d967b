"""One trial of a sweep as Ray Tune runs it: one configuration trained from one seed, an MLflow run of its own.

A step of the trial ends with a validation. `trial_runners` train: with one worker in the Tune actor itself, which is reused
for the next trial; with several workers in a Ray Train job.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ray.tune import Trainable

from datasets.shards.dataset import Dataset
from datasets.storage.store import open_store
from orchestration.addresses import split_stage
from orchestration.config import build
from orchestration.config.load import Experiment
from orchestration.engine import checkpoint, weights
from orchestration.errors import cause, origin
from orchestration.registry.locate import locate
from orchestration.sweeps.state import Trial
from orchestration.tracking import tracked_run
from orchestration.tracking.mlflow_retry import retry_while_unavailable
from orchestration.training import preparation, stop_signal
from orchestration.training.validation import PREFIX, Scores
from orchestration.training.worker import FAILURE, FINAL_ERRORS, ValidationSchedule, WorkerConfig
from orchestration.tuning.kept_weights import KeptWeights
from orchestration.tuning.sweep_runs import create_or_resume, end_tags
from orchestration.tuning.trial_runners import FinalError, InProcessRunner, RayTrainRunner, TrialRunner
from orchestration.workers.hang import read_summary

AWAY_S = 3600.0  # a trial waits so long for MLflow before it starts: else it fails, and every trial after it
ATTEMPTS = "attempts.json"


@dataclass(frozen=True)
class Job:
    """What all trials of a sweep have in common. process: a name of the process that drives it. validate_every: epochs.
    waits: whether first seeds may be stopped. retries: after the first attempt at a trial. weights: in the sweep's storage."""

    sweep: str
    process: str
    tracking_uri: str
    has_password: bool
    fingerprint: str
    facts: dict[str, Any]
    objective: str
    validate_every: int
    waits: bool
    retries: int
    gpu: bool
    weights: KeptWeights | None = None

    def point_at_tracking(self) -> None:
        """This process's MLflow is the sweep's. Tune writes a job to storage, so an address with a password in it is no part
        of it: then the node's own environment has it, as it has the keys of the object store."""
        if not self.has_password:
            os.environ["MLFLOW_TRACKING_URI"] = self.tracking_uri
        os.environ.setdefault("MLFLOW_TRACKING_URI", self.tracking_uri)


class SweepTrial(Trainable):
    """A tracked run from its start, or from where an earlier attempt ended, to its end."""

    job: ClassVar[Job]

    def setup(self, config: dict[str, Any]) -> None:
        self.job.point_at_tracking()
        self.run: tracked_run.TrackedRun | None = None
        self.begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.end()
        self.begin(new_config)
        return True

    def cleanup(self) -> None:
        self.end()

    def begin(self, config: Mapping[str, Any]) -> None:
        """Open the run and start training. Errors that another attempt cannot fix are kept for the first step."""
        trial = Trial(config["values"], config["seed"], config["is_first_seed"])
        self.failure: str | None = None
        self.runner: TrialRunner | None = None
        self.experiment = Experiment.from_resolved(config["experiment"])
        self.run = retry_while_unavailable(
            lambda: create_or_resume(self.job.sweep, self.experiment, self.job.fingerprint, trial),
            f"starting trial {trial.name}",
            deadline_s=AWAY_S,
        )
        self.store = open_store(self.run.storage)
        hung = read_summary(self.store)
        tags = {"sweep.process": f"{platform.node()}:{os.getpid()}"}
        self.run.set_tags(tags | ({"sweep.hang": hung.message} if hung else {}))
        self.store.delete(FAILURE)
        self.scores = Scores(self.store)
        self.earlier = self.scores.read_new()
        self.curve = {record["epoch"]: record["metrics"][self.job.objective] for record in self.earlier}
        self.metrics: dict[str, float] = self.earlier[-1]["metrics"] if self.earlier else {}
        if stop_signal.stop_reason(self.store) is not None:
            return
        try:
            self.runner = self.start(
                self.run,
                WorkerConfig(
                    experiment=self.experiment.resolved(),
                    run=self.run.storage,
                    facts=self.job.facts,
                    init_from=self.initial_weights(),
                    weights=self.fetch_weights(),
                    validation=ValidationSchedule(
                        self.job.validate_every, waits=self.job.waits and trial.is_first_seed
                    ),
                ),
            )
        except FINAL_ERRORS as error:
            self.failure = describe_failure(error)

    def start(self, run: tracked_run.TrackedRun, config: WorkerConfig) -> TrialRunner:
        if self.experiment.group_sizes() == (1,):
            return InProcessRunner(config, run, gpu=self.job.gpu)
        return RayTrainRunner(config, run, self.prepared(), self.scores, self.earlier)

    def fetch_weights(self) -> str | None:
        """The address of the backbone's weights: the sweep's, or the trial's own where it wants others."""
        if not self.experiment.weights:
            return None
        if self.job.weights is not None and self.job.weights.are_of(self.experiment):
            return self.job.weights.address
        backbone = preparation.fetch_backbone(self.prepared())
        assert backbone is not None
        return weights.keep(self.store, backbone)

    def initial_weights(self) -> str | None:
        """The checkpoint that is meant by a run, an address or a registered version."""
        if not self.experiment.init_from:
            return None
        address, stage = split_stage(self.experiment.init_from)
        return (checkpoint.find_stage_end(address, stage) if stage else locate(address).checkpoint).address

    def prepared(self) -> preparation.Prepared:
        dataset = Dataset.open(self.experiment.data)
        facts = build.describe_same_data(dataset, dataset.index("train"), self.job.facts)
        return preparation.Prepared(self.experiment, dataset, facts, 0)

    def step(self) -> dict[str, Any]:
        assert self.run is not None
        if (
            reason := stop_signal.stop_reason(self.store)
        ) is not None:  # by an earlier process, which did not report it to MLflow
            return self.done("stopped", reason)
        if self.failure is None:
            try:
                assert self.runner is not None
                found = self.runner.next_score()
            except (*FINAL_ERRORS, FinalError) as error:
                self.failure = describe_failure(error)
            except Exception as error:
                if self.may_try_again():
                    self.let_go()
                    raise
                self.failure = describe_failure(error)
        if self.failure is not None:
            return self.done("failed", self.failure)
        epoch, metrics = found["epoch"], found["metrics"]
        self.metrics = metrics
        self.curve[epoch] = metrics[self.job.objective]
        self.run.log_evaluation({f"{PREFIX}{name}": value for name, value in metrics.items()}, step=found["step"])
        return self.done("finished") if epoch >= self.experiment.epochs else self.reached()

    def reached(self) -> dict[str, Any]:
        """The trial's progress as reported to Tune. Tune flattens nested values, so these are JSON text."""
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
        """Close the run of a trial that ends early: it was stopped, or the sweep was interrupted."""
        if self.run is None:
            return
        if (reason := stop_signal.stop_reason(self.store)) is not None:
            self.finish("stopped", reason)
        else:
            self.close("KILLED")

    def finish(self, state: str, reason: str | None = None) -> None:
        """Record the trial's own end in tags, which a resumed sweep reads."""
        assert self.run is not None
        if not self.stop_runner():
            return self.close("KILLED")
        if state != "failed":
            self.run.log_training_curves()
        self.run.set_tags(end_tags(state, self.curve, reason))
        return self.close("FAILED" if state == "failed" else "FINISHED")

    def close(self, status: str) -> None:
        assert self.run is not None
        if self.stop_runner():
            self.run.finish(status)
        self.run = None

    def may_try_again(self) -> bool:
        """Whether this process of the sweep has attempts left for the trial; they are counted in its run's storage."""
        found = json.loads(self.store.read(ATTEMPTS)) if self.store.exists(ATTEMPTS) else {}
        failed = 1 + (found["failed"] if found.get("process") == self.job.process else 0)
        self.store.write(ATTEMPTS, json.dumps({"process": self.job.process, "failed": failed}).encode())
        return failed <= self.job.retries

    def let_go(self) -> None:
        """Leave the run open: another attempt resumes it."""
        assert self.run is not None
        self.stop_runner()
        self.run = None

    def stop_runner(self) -> bool:
        """Stop training; False if it continues until this actor ends."""
        return self.runner is None or self.runner.stop(failed=self.failure is not None)


def describe_failure(error: Exception) -> str:
    """The type and message of an error; the message of a FinalError names the type already."""
    return str(error) if isinstance(error, FinalError) else f"{type(origin(error)).__name__}: {cause(error)}"


def trainable(job: Job) -> type[SweepTrial]:
    """The class of Tune's actors. It carries the job, so that trial configurations need not."""
    return type(SweepTrial.__name__, (SweepTrial,), {"job": job, "__module__": __name__})
