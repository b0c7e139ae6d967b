"""Batches, steps, surveys and checkpoints of the loop are progress for the watch, and pass through unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch

from datasets.images.augment import Augmentation
from datasets.streaming.stream import HostBatch
from methods.method import Stage
from orchestration.engine.loop import Feed, StepReport, TrainingProgress
from orchestration.workers.watch import Watch
from orchestration.workers.watched import WatchedCallbacks, watched_feed

NONE = torch.empty(0, dtype=torch.int64)
SMALL = Augmentation(height=8, width=8, pad=0)
STAGE = Stage("identity", 0, ("model",))


class Notes:
    """A watch that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def progress(self, phase: str | None = None, *, step: int | None = None) -> None:
        self.told.append(phase if step is None else step)

    @contextmanager
    def during(self, phase: str, *, is_long: bool = False) -> Iterator[None]:
        self.told.append((phase, is_long))
        yield


class Heard:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_step(self, report: StepReport) -> None:
        self.calls.append("step")

    def on_progress(self, progress: TrainingProgress, end_of_epoch: bool) -> None:
        self.calls.append("progress")

    def on_survey(self, stage: Stage, images: int) -> None:
        self.calls.append("survey")

    def on_stage_end(self, stage: Stage, found: Any) -> None:
        self.calls.append("stage end")


def batches(*numbers: int) -> list[HostBatch]:
    return [HostBatch(NONE, None, NONE, NONE, NONE, NONE, number, 0.0) for number in numbers]


def test_every_batch_of_an_epoch_and_of_a_survey_is_progress() -> None:
    notes = Notes()
    feed = Feed(
        lambda epoch, first: iter(batches(first, 9)),
        lambda epoch: 2,
        lambda: iter(batches(4)),
        SMALL,
        1,
        0,
    )
    watched = watched_feed(feed, cast("Watch", notes))
    assert [batch.number for batch in watched.batches(0, 3)] == [3, 9]
    assert notes.told == ["reading a batch", "in a step", "reading a batch", "in a step", "reading a batch"]
    notes.told.clear()
    assert [batch.number for batch in watched.survey()] == [4]
    assert notes.told == ["reading a batch", "looking at the training set", "reading a batch"]
    assert watched.num_batches(0) == 2


def test_steps_surveys_and_checkpoints_are_progress_and_reach_the_callbacks() -> None:
    notes, heard = Notes(), Heard()
    callbacks = WatchedCallbacks(heard, cast("Watch", notes))
    callbacks.on_step(StepReport(6, 0, 6, "identity", {}))
    callbacks.on_progress(TrainingProgress(0, 7, 7), end_of_epoch=False)
    callbacks.on_survey(STAGE, 5)
    callbacks.on_stage_end(STAGE, {})
    assert heard.calls == ["step", "progress", "survey", "stage end"]
    assert notes.told == [7, ("writing a checkpoint where one is due", True), None]
