"""The seam between stages: what a stage came to tell apart, as a line, and as a picture in MLflow."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from orchestration import figures
from orchestration.engine.loop import AUC
from orchestration.tracking import kept_stages
from orchestration.tracking.segments import Record
from orchestration.tracking.tracked_run import TrackedRun

log = logging.getLogger(__name__)


def report(run: TrackedRun, records: Sequence[Record], say: Callable[[str], None]) -> None:
    """Say of each stage whose last step is among the journal's records how well it tells own from others, and log the
    picture. A failure is logged: the figures are in the journal."""
    for record in records:
        if not any(name.startswith(AUC) for name in record["metrics"]):
            continue
        say(line(record))
        try:
            for name, data in pictures(run, record).items():
                run.log_picture(data, name)
        except Exception as error:  # of any kind: training does not depend on it
            log.warning("no picture of stage %r: %s: %s", record["stage"], type(error).__name__, error)


def line(record: Record) -> str:
    """One line of the last step of a stage."""
    found = {name.removeprefix(AUC): value for name, value in record["metrics"].items() if name.startswith(AUC)}
    told = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
    return f"stage {record['stage']!r} ended after epoch {record['epoch'] + 1}; AUC of own against others: {told}"


def pictures(run: TrackedRun, record: Record) -> dict[str, bytes]:
    """{file name: PNG} of a stage that ended with the record."""
    stage = record["stage"].partition(",")[0]
    found = list(kept_stages.read(run.store, stage).values())
    title = f"Similarities at the end of stage {stage!r}, epoch {record['epoch'] + 1}"
    return {f"stage-{stage}.png": figures.separations(title, found)} if found else {}
