"""What the loop says, kept for a test."""

from __future__ import annotations

from collections.abc import Mapping

from methods.method import Stage
from methods.separation import Separation
from orchestration.engine.loop import StepReport, TrainingProgress


class Recorder:
    """Keeps what the loop says; stops once `stop_after` steps are done, as a crash would."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.steps: list[StepReport] = []
        self.reached: list[TrainingProgress] = []
        self.surveyed: list[tuple[str, int]] = []
        self.ended: list[tuple[str, Mapping[str, Separation]]] = []
        self.stop_after = stop_after

    def on_step(self, report: StepReport) -> None:
        self.steps.append(report)

    def on_progress(self, progress: TrainingProgress, end_of_epoch: bool) -> None:
        self.reached.append(progress)
        if progress.step == self.stop_after and not end_of_epoch:
            raise KeyboardInterrupt

    def on_survey(self, stage: Stage, images: int) -> None:
        self.surveyed.append((stage.name, images))

    def on_stage_end(self, stage: Stage, found: Mapping[str, Separation]) -> None:
        self.ended.append((stage.name, found))
