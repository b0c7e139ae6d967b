"""What the stages of the reviewed models' trainings came to tell apart, as pictures of the review page."""

from __future__ import annotations

import base64
import logging
from collections.abc import Mapping

from datasets.storage.store import Store, open_store
from orchestration import figures
from orchestration.review.thumbnails import Picture
from orchestration.tracking import kept_stages

log = logging.getLogger(__name__)


def render_stages(runs: Mapping[str, str]) -> dict[str, list[Picture]]:
    """By model, a picture for each of its stages that told something apart; models without any are left out.

    runs: the address of each model's run. A failure is logged: it does not fail the comparison.
    """
    found: dict[str, list[Picture]] = {}
    for label, address in runs.items():
        try:
            store = open_store(address)
            if pictures := [picture(store, stage) for stage in kept_stages.stages(store)]:
                found[label] = pictures
        except Exception as error:  # of any kind: the results are worth more than a picture
            log.warning("no picture of the stages of %s: %s: %s", label, type(error).__name__, error)
    return found


def picture(store: Store, stage: str) -> Picture:
    found = list(kept_stages.read(store, stage).values())
    png = figures.separations(f"End of stage {stage!r}", found)
    alt = f"Histograms at the end of stage {stage}: " + "; ".join(f"{one.title}, AUC {one.auc:.3f}" for one in found)
    return Picture(f"data:image/png;base64,{base64.b64encode(png).decode()}", alt)
