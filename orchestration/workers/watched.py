"""What training does counts as progress for the watch: batches that are read, steps, surveys, checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from datasets.streaming.stream import HostBatch
from methods.method import Stage
from methods.separation import Separation
from orchestration.engine.loop import Callbacks, Feed, StepReport, TrainingProgress
from orchestration.workers.watch import Watch


def watched_feed(feed: Feed, watch: Watch) -> Feed:
    def batches(epoch: int, first_batch: int) -> Iterator[HostBatch]:
        return told(lambda: feed.batches(epoch, first_batch), watch, "in a step")

    return replace(feed, batches=batches, survey=lambda: told(feed.survey, watch, "looking at the training set"))


def told(batches: Callable[[], Iterator[HostBatch]], watch: Watch, phase: str) -> Iterator[HostBatch]:
    watch.progress("reading a batch")
    for batch in batches():
        watch.progress(phase)
        yield batch
        watch.progress("reading a batch")


class WatchedCallbacks:
    """Callbacks of the loop, with the watch told of them."""

    def __init__(self, callbacks: Callbacks, watch: Watch) -> None:
        self.callbacks, self.watch = callbacks, watch

    def on_step(self, report: StepReport) -> None:
        self.callbacks.on_step(report)
        self.watch.progress(step=report.step + 1)

    def on_progress(self, progress: TrainingProgress, end_of_epoch: bool) -> None:
        with self.watch.during("writing a checkpoint where one is due", is_long=True):
            self.callbacks.on_progress(progress, end_of_epoch)

    def on_survey(self, stage: Stage, images: int) -> None:
        self.callbacks.on_survey(stage, images)
        self.watch.progress()

    def on_stage_end(self, stage: Stage, found: Mapping[str, Separation]) -> None:
        self.callbacks.on_stage_end(stage, found)
