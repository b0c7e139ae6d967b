"""One Ray Train worker: build, restore the newest checkpoint, run the loop, write the journal and checkpoints."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from datasets.images.decode import DecodeError
from datasets.shards.dataset import CorruptData, DataError, Dataset
from datasets.storage.store import Store, open_store
from datasets.streaming.stream import survey_rows
from methods.method import Method, MethodError
from orchestration import numerics
from orchestration.config import build
from orchestration.config.epochs import end_epoch, first_epoch, scored_epochs
from orchestration.config.load import Experiment
from orchestration.config.meta import per_class_tensors
from orchestration.engine import checkpoint, loop, weights
from orchestration.engine.arithmetic import slowness
from orchestration.engine.chain import continued
from orchestration.engine.loop import NonFiniteLossError, TrainingProgress
from orchestration.engine.restore import hand_over, load_initial_state
from orchestration.engine.shared_checkpoint import read_for_all
from orchestration.errors import RequestError
from orchestration.tracking.journal import FOLDER as JOURNAL
from orchestration.tracking.journal import Journal, JournalError, ReplayMismatch, environment
from orchestration.training import stop_signal
from orchestration.training.interrupt import Listener
from orchestration.training.milestones import candidates, milestones, remaining
from orchestration.training.recorder import Recorder
from orchestration.workers.watch import Watch, limit_collectives, watch_of
from orchestration.workers.watched import WatchedCallbacks, watched_feed

log = logging.getLogger(__name__)

FAILURE = "failure.json"
LAST_STATES = "stopped"  # the folder of states that a failed run ended in
# Restarts cannot fix these errors: the run stops at once, however many restarts the experiment allows.
FINAL_ERRORS = (
    CorruptData,
    DataError,
    DecodeError,
    MethodError,
    RequestError,
    ReplayMismatch,
    JournalError,
    NonFiniteLossError,
    loop.OutOfMemoryError,
    checkpoint.CorruptCheckpointError,
)


@dataclass(frozen=True)
class ValidationSchedule:
    """A sweep's trial is validated after every `every` epochs; if `waits`, it then waits for a signal to continue or stop."""

    every: int
    waits: bool


@dataclass(frozen=True)
class WorkerConfig:
    """What the driver passes to every worker.

    facts: `build.describe_data` of the training set, without its tables, which each worker reads from the index.
    run: address of the run's storage. Training starts from the checkpoint at `init_from`, or with the backbone at `weights`
    (`weights.keep`), or from random weights. Where the experiment's `init_from` names a stage, `init_from` is
    the checkpoint at its end, and training goes on behind it. validation: of a sweep's trial; None for a plain run.
    """

    experiment: dict[str, Any]
    run: str
    facts: dict[str, Any]
    init_from: str | None = None
    weights: str | None = None
    validation: ValidationSchedule | None = None


def train_worker(loop_config: dict[str, Any]) -> dict[str, Any]:
    """Ray Train's entry point. Returns the progress reached, or `failure` if an earlier attempt failed for good."""
    schedule = loop_config.get("validation")
    config = WorkerConfig(**loop_config | {"validation": ValidationSchedule(**schedule) if schedule else None})
    store = open_store(config.run)
    if store.exists(FAILURE):
        return {"failure": json.loads(store.read(FAILURE))}
    try:
        return asdict(run(config, store, worker_device()))
    except FINAL_ERRORS as error:
        failure = {"type": type(error).__name__, "message": str(error)}
        store.write(FAILURE, json.dumps(failure).encode())
        raise


def run(config: WorkerConfig, store: Store, device: torch.device) -> TrainingProgress:
    """Train to the last epoch in this process, together with the other processes of its group, if any.

    Where the experiment selects the best checkpoint, each is scored at the end of its epoch. A sweep's trial is validated at
    its milestones and ends early if the sweep stops it.
    """
    hang_s = Experiment.from_resolved(config.experiment).hang_s
    with closing(watch_of(store, hang_s)) as watch, closing(Training(config, store, device, watch)) as training:
        for epoch in training.milestones():
            if not training.advance(epoch):
                break
            if training.experiment.select != "last":
                training.score(epoch)
            if config.validation is not None:
                training.validate(epoch)
                wait = config.validation.waits and epoch < training.last
                if not stop_signal.should_continue(store, epoch, wait=wait, on_poll=watch.progress):
                    break
        return training.progress


class Training:
    """A run's training in this process, resumed from its newest checkpoint. Rank 0 writes the journal and checkpoints."""

    def __init__(self, config: WorkerConfig, store: Store, device: torch.device, watch: Watch | None = None) -> None:
        """watch: told of each progress; None where nobody watches."""
        self.config, self.store, self.device = config, store, device
        self.watch = watch or watch_of(store, None)
        self.experiment = experiment = Experiment.from_resolved(config.experiment)
        numerics.use(experiment.numerics)
        torch.set_num_threads(experiment.threads)
        self.dataset = build.open_data(experiment)
        index = self.dataset.index("train")
        self.facts = build.describe_same_data(self.dataset, index, config.facts)
        self.method = method = build.build_method(experiment, self.facts)
        self.last = end_epoch(experiment, method.stages())
        begin = first_epoch(experiment, method.stages())
        found = common_checkpoint(store)
        self.resumed = found and replace(found, tensors={})  # their memory is free once they are loaded
        if found is None and not begin:
            load_initial_weights(config, method)
        method.to(device)
        build.save_memory(experiment, method)
        self.optimization = build.build_optimization(experiment, method)
        self.progress = found.progress if found else TrainingProgress(epoch=begin)
        if found is None and begin:
            found = initial_checkpoint(config, checkpoint.FILES)
        self.strategy = build.build_chosen_strategy(experiment)
        limit_collectives(experiment.hang_s)
        hand_over(method, self.optimization.optimizers, self.strategy, found)
        rank, workers = self.strategy.rank, self.strategy.workers
        self.feed, self.stream = build.build_feed(experiment, self.dataset, rank, workers, method.stages(), index)
        self.journal, self.listener = None, None
        if rank == 0:
            self.listener = Listener(store)
            if warning := slowness(experiment.precision, device):
                log.warning(warning)
            before = self.resumed.chain if self.resumed else None
            chain = continued(before, environment(experiment, self.strategy), self.progress.step)
            self.journal = Journal(store, chain)
        share = len(survey_rows(index.group, rank, workers))
        self.recorder = Recorder(store, experiment, self.facts, method.stages(), self.strategy, self.journal, share)

    def milestones(self) -> list[int]:
        """The epochs, counted from 1, at whose ends training is to pause: those still to come, and the last."""
        scored = scored_epochs(self.method.stages(), 0, self.last)
        if self.config.validation is not None:
            found = milestones(scored, self.config.validation.every, self.last)
        elif self.experiment.select != "last":
            found = candidates(scored, self.experiment.checkpoint.every_epochs, self.last)
            if self.resumed and self.resumed.end_of_epoch:  # it may have been written and not scored
                found = sorted({*found, self.progress.epoch})
        else:
            return [self.last]
        return remaining(found, self.progress.epoch, self.progress.batch)

    def advance(self, epochs: int) -> bool:
        """Train to the end of epoch `epochs`, counted from 1. Returns False if the driver asked to stop, after a checkpoint."""
        try:
            self.progress = loop.train(
                self.method,
                watched_feed(self.feed, self.watch),
                self.optimization,
                self.strategy,
                WatchedCallbacks(self.recorder, self.watch),
                epochs=epochs,
                precision=self.experiment.precision,
                device=self.device,
                start=self.progress,
                last=self.experiment.epochs,
                is_asked_to_stop=self.listener.is_asked if self.listener else lambda: False,
            )
        except NonFiniteLossError as error:
            error.args = (f"{error} The batch: {', '.join(batch_keys(self.dataset, error.rows))}",)
            at = error.progress
            self.recorder.save(at, end_of_epoch=False, folder=f"{LAST_STATES}/{at.step:08d}")
            raise
        is_complete = self.progress.epoch >= epochs
        if not is_complete:
            self.recorder.save(self.progress, end_of_epoch=False)
        with self.watch.during("writing a checkpoint", is_long=True):
            self.recorder.drain()
        return is_complete

    def validate(self, epoch: int, *, on_test: bool = False) -> dict[str, float]:
        """Score the method as it is on the validation set, or `on_test`. The scores are also written to the run's storage."""
        from orchestration.training.validation import validate  # plots and ranking, which training alone does without

        step = self.progress.step
        return validate(
            self.method,
            self.experiment,
            self.store,
            epoch,
            step,
            self.strategy,
            self.device,
            on_test=on_test,
            watch=self.watch,
        )

    def score(self, epoch: int) -> None:
        """Add to the checkpoint at the end of `epoch` the metric that `select` names, unless it was there at the start."""
        from orchestration.training.selection import measured_by, selection

        split, metric = selection(self.experiment)
        by = measured_by(self.experiment)
        at = self.resumed
        if at is not None and at.progress == self.progress and at.score is not None and at.score.by == by:
            return
        metrics = self.validate(epoch, on_test=not split.startswith("val_"))
        if self.journal:
            self.recorder.record_score(self.progress, checkpoint.Score(metrics[metric], by))

    def close(self) -> None:
        if self.listener:
            self.listener.close()
        self.recorder.close()
        if self.journal:
            self.journal.close()
        self.stream.close()
        if self.dataset.store.stats.retries:
            log.warning("reads of %s needed retries: %s", self.dataset.address, self.dataset.store.stats)


def worker_device() -> torch.device:
    import ray.train.torch

    return ray.train.torch.get_device()


def common_checkpoint(store: Store) -> checkpoint.Checkpoint | None:
    """The newest whole checkpoint as rank 0 sees it, with its tensors: storage that lists late must not make workers start
    apart.

    Raises, on all ranks: CorruptCheckpointError where the run has checkpoints and none is whole.
    """

    def find() -> checkpoint.Checkpoint | None:
        for folder in (checkpoint.FOLDER, LAST_STATES, JOURNAL):
            store.clean_temp(folder)  # an earlier attempt may have been killed while it wrote there
        return checkpoint.latest_whole(store)

    return read_for_all(find)


def initial_checkpoint(config: WorkerConfig, files: Sequence[str]) -> checkpoint.Checkpoint:
    """The checkpoint at the configuration's `init_from`, with the tensors of these files."""
    address = config.init_from
    assert address is not None
    found = read_for_all(lambda: checkpoint.find(address), files)
    assert found is not None
    return found


def load_initial_weights(config: WorkerConfig, method: Method) -> None:
    if config.init_from:
        per_class = per_class_tensors(Experiment.from_resolved(config.experiment))
        found = initial_checkpoint(config, checkpoint.FILES[:1])
        load_initial_state(method, found, per_class, config.facts["fingerprint"])
    elif config.weights:
        method.load_backbone(weights.read_kept(config.weights))


def batch_keys(dataset: Dataset, rows: list[int]) -> list[str]:
    """Keys of the whole global batch: each worker adds its share."""
    shares = [rows]
    if dist.is_initialized():
        shares = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(shares, rows)
    return dataset.index("train").keys(np.array([row for share in shares for row in share], dtype=np.int64))
