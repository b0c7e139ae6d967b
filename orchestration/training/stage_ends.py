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
    picture. A resumed run reads its journal from the beginning: what was logged is not told again. A failure is logged:
    the figures are in the journal."""
    for record in records:
        stage = str(record["stage"]).partition(",")[
            0
        ]  # the journal has its title, with a phase of the body behind the name
        name = f"stage-{stage}.png"
        if not any(metric.startswith(AUC) for metric in record["metrics"]) or run.has_logged(f"pictures/{name}"):
            continue
        say(line(record))
        try:
            if found := list(kept_stages.read(run.store, stage).values()):
                title = f"Similarities at the end of stage {stage!r}, epoch {record['epoch'] + 1}"
                run.log_picture(figures.separations(title, found), name)
        except Exception as error:  # of any kind: training does not depend on it
            log.warning("no picture of stage %r: %s: %s", record["stage"], type(error).__name__, error)


def line(record: Record) -> str:
    """One line of the last step of a stage."""
    found = {name.removeprefix(AUC): value for name, value in record["metrics"].items() if name.startswith(AUC)}
    told = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
    return f"stage {record['stage']!r} ended after epoch {record['epoch'] + 1}; AUC of own against others: {told}"
