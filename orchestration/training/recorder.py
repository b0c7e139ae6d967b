"""What a worker notes while it trains: the journal's steps, checkpoints, what stages tell apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from datasets.storage.store import Store
from methods.method import Stage, ended_stage
from methods.separation import Separation
from orchestration.config.epochs import end_epoch
from orchestration.config.load import Experiment
from orchestration.engine import checkpoint, row_files
from orchestration.engine.checkpoint_writer import CheckpointWriter
from orchestration.engine.loop import StepReport, TrainingProgress
from orchestration.engine.snapshot import Snapshot
from orchestration.engine.strategies.strategy import Strategy
from orchestration.tracking import kept_stages
from orchestration.tracking.journal import Journal
from orchestration.training.activity import SurveyReport
from orchestration.training.live_metrics import LiveMetrics


class Recorder:
    """What a worker notes of its training: rank 0 writes each step to the journal, and checkpoints as often as the experiment
    asks for them. The other ranks take part where a checkpoint gathers what they hold, and write the rows of classifiers that
    they alone hold.

    A step waits for the snapshot alone. A thread writes it, and an error of that thread is raised by the next call but
    `close`."""

    def __init__(
        self,
        store: Store,
        experiment: Experiment,
        facts: dict[str, Any],
        stages: Sequence[Stage],
        strategy: Strategy,
        journal: Journal | None,
        share: int,
    ) -> None:
        """store: the run's. facts: `build.describe_data`. journal: of rank 0.
        share: the number of rows of the training set that a survey shows this worker.
        """
        self.store, self.experiment, self.facts, self.stages = store, experiment, facts, stages
        self.strategy, self.journal = strategy, journal
        self.report_survey = SurveyReport(self.store, share)
        self.live = LiveMetrics(store.address, experiment.name) if journal else None
        self.end = end_epoch(experiment, stages)
        self.snapshot, self.writer = Snapshot(), CheckpointWriter()
        self.own_rows = row_files.OwnSnapshot()

    def on_step(self, report: StepReport) -> None:
        self.writer.check()
        if self.journal:
            self.journal.record(report)
        if self.live:
            self.live.show(report)

    def on_progress(self, progress: TrainingProgress, end_of_epoch: bool) -> None:
        settings = self.experiment.checkpoint
        stage = None
        if end_of_epoch:
            stage = ended_stage(self.stages, progress.epoch, self.experiment.epochs)
            due = progress.epoch % settings.every_epochs == 0 or progress.epoch == self.end or stage is not None
        else:
            due = settings.every_batches is not None and progress.batch % settings.every_batches == 0
        if due:
            self.save(progress, end_of_epoch=end_of_epoch, ends_stage=stage)
        if stage is not None:
            self.drain()

    def on_survey(self, stage: Stage, images: int) -> None:
        if self.journal:
            self.report_survey(stage, images)

    def on_stage_end(self, stage: Stage, found: Mapping[str, Separation]) -> None:
        if self.journal:
            kept_stages.keep(self.store, stage.name, found)

    def save(
        self,
        progress: TrainingProgress,
        *,
        end_of_epoch: bool,
        folder: str | None = None,
        ends_stage: str | None = None,
    ) -> None:
        """Take a snapshot and begin to write it, once the one before is written. Called on all ranks together.

        folder: of a state that is no checkpoint to go on from.
        """
        self.writer.drain()  # it reads the memory that the snapshot is about to fill
        state, own = self.strategy.full_state(), self.strategy.own_rows()
        attempt = row_files.common_id() if own.model else None
        if attempt:
            self.own_rows.take(own)
        if self.journal:
            self.snapshot.take(state)
            self.writer.start(partial(self.write, self.journal, progress, end_of_epoch, folder, ends_stage, attempt))
        elif attempt:
            self.writer.start(partial(self.write_rows, folder or checkpoint.folder_of(progress), attempt))

    def write(
        self,
        journal: Journal,
        progress: TrainingProgress,
        end_of_epoch: bool,
        folder: str | None,
        ends_stage: str | None,
        attempt: str | None,
    ) -> None:
        """Write the snapshot. Every step before it is in the journal by then.

        attempt: of a checkpoint with rows of all workers.
        """
        into = folder or checkpoint.folder_of(progress)
        journal.flush()
        written = checkpoint.save(
            self.store,
            self.snapshot,
            progress,
            end_of_epoch=end_of_epoch,
            experiment=self.experiment.resolved(),
            facts=self.facts,
            folder=into,
            ends_stage=ends_stage,
            chain=journal.chain,
            own_rows=partial(self.rows_of_all, into, attempt) if attempt else None,
        )
        if attempt:
            row_files.clear_notes(self.store, into, self.strategy.workers)
        if folder is None:
            self.prune(written)

    def rows_of_all(self, folder: str, attempt: str) -> row_files.Written:
        """Write rank 0's rows, and wait for those of the others."""
        own = self.own_rows.write(self.store, folder, checkpoint.FILES, 0)
        others = row_files.collect(self.store, folder, self.strategy.workers, attempt)
        return row_files.Written(own.digests | others.digests, own.rows | others.rows)

    def write_rows(self, folder: str, attempt: str) -> None:
        """Write the rows of another rank than 0."""
        rank = self.strategy.rank
        written = self.own_rows.write(self.store, folder, checkpoint.FILES, rank)
        row_files.announce(self.store, folder, rank, attempt, written)

    def prune(self, newest: str) -> None:
        is_selecting = self.experiment.select != "last"
        checkpoint.prune(self.store, newest, self.experiment.checkpoint.keep, keep_best=is_selecting)

    def record_score(self, progress: TrainingProgress, score: checkpoint.Score) -> None:
        """Of the checkpoint that was written last, by rank 0, after `drain`."""
        folder = checkpoint.folder_of(progress)
        checkpoint.record_score(self.store, folder, score)
        self.prune(folder)

    def drain(self) -> None:
        """Wait until all that was noted is in the store."""
        self.writer.drain()
        if self.journal:
            self.journal.flush()

    def close(self) -> None:
        """Wait for the checkpoint that is being written. Its error is logged, for that of training matters more."""
        self.writer.close()
