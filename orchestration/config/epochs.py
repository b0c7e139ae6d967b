"""The epochs that a run trains: from its first, or from behind a stage that another run trained, to its last."""

from __future__ import annotations

from collections.abc import Sequence

from methods.method import Stage, stage_of
from orchestration.addresses import split_stage
from orchestration.config.settings import Experiment


def first_epoch(experiment: Experiment, stages: Sequence[Stage]) -> int:
    """0, or where `init_from: RUN@STAGE` goes on: the first epoch behind that stage."""
    stage = split_stage(experiment.init_from)[1] if experiment.init_from else None
    return end_of(stages, stage, experiment.epochs) if stage else 0


def end_epoch(experiment: Experiment, stages: Sequence[Stage]) -> int:
    """The epoch behind the last: `epochs`, or where `until` ends."""
    return end_of(stages, experiment.until, experiment.epochs) if experiment.until else experiment.epochs


def end_of(stages: Sequence[Stage], name: str, epochs: int) -> int:
    """The epoch behind the last of a stage."""
    last = max(number for number, stage in enumerate(stages) if stage.name == name)
    return min(stages[last + 1].first_epoch, epochs) if last + 1 < len(stages) else epochs


def scored_epochs(stages: Sequence[Stage], first: int, end: int) -> list[int]:
    """The epochs from `first` to before `end` that change what a model is scored by."""
    return [epoch for epoch in range(first, end) if stage_of(stages, epoch).changes_embedding]
