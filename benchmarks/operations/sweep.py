"""What a sweep costs beyond its trainings, and what its driver keeps in memory.

Targets: at most 5 s per trial of one worker, at most 35 s per trial of several (a Ray Train job each), and at most 1 GiB in
the driver of a sweep of 200 trials, Ray and torch included. Overhead is the sweep's wall time minus the trials' own training
steps, over the trials, one at a time; the start of Ray and the last evaluation and registration are left out, the first
actor's start is not. The trials of the 200 train for one step.

    python -m benchmarks.operations.sweep              (--quick: 6, 2 and 16 trials)
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from datasets.conversion.holdout import holdout
from datasets.storage.store import open_store
from datasets.synthetic.dataset import render_dataset
from orchestration import cluster
from orchestration.config.load import Experiment, load
from orchestration.sweeps.settings import SweepSettings
from orchestration.tracking import mlflow_client
from orchestration.tracking.journal import read_steps
from orchestration.tuning import sweep_runs
from orchestration.tuning.tune import tune

SMALL = [
    "epochs=1", "resources.cpus=1", "batch.people=4", "batch.images=4", "batch.lanes=2", "augment.height=64",
    "augment.width=32", "method.width=0.125", "optimizers.model.schedule=null",
]  # fmt: skip


def swept(experiment: Experiment, trials: int) -> tuple[dict[str, Any], float]:
    """A sweep of so many trials one at a time, and its seconds."""
    started = time.monotonic()
    over = (f"optimizers.model.lr=log(1e-4, 1e-2, {trials})",)
    answer = tune(experiment, SweepSettings(over=over, concurrent=1, register=None))
    return answer, time.monotonic() - started


def training_seconds(answer: dict[str, Any]) -> list[float]:
    """The seconds of the steps of each trial."""
    found = []
    for child in sweep_runs.children(mlflow_client.connect(), answer["sweep"]):
        steps = read_steps(open_store(child.data.tags["storage"]))
        found.append(sum(record["metrics"]["speed/step-s"] for _, record in steps))
    return found


def overhead(name: str, experiment: Experiment, trials: int, target: float) -> None:
    answer, seconds = swept(experiment, trials)
    trained = training_seconds(answer)
    each = (seconds - sum(trained)) / trials
    print(
        f"{name}: {each:.1f} s per trial beyond its training of {sum(trained) / trials:.1f} s, {trials} trials "
        f"(target: at most {target:g}): {'holds' if each <= target else 'MISSED'}"
    )


def main() -> None:
    quick = "--quick" in sys.argv
    one, several, many = (6, 2, 16) if quick else (20, 4, 200)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{root}/mlflow.db"
        print("rendering", file=sys.stderr)
        render_dataset(f"{root}/data", preset="tiny")
        holdout(f"{root}/data", f"{root}/held", persons=2)
        overrides = [f"data={root}/held", f"storage={Path(root, 'runs')}", *SMALL]
        cluster.connect()
        mlflow_client.connect()
        before = psutil.Process().memory_info().rss
        overhead("one worker", load("baseline-demo", [*overrides, "workers=1"]), one, 5)
        overhead("two workers", load("baseline-demo", [*overrides, "workers=2"]), several, 35)
        swept(load("baseline-demo", [*overrides, "workers=1"]), many)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        print(
            f"driver's peak memory in a sweep of {many} trials: {peak / 2**30:.2f} GiB, of which {before / 2**30:.2f} were "
            f"there before (target: at most 1): {'holds' if peak <= 2**30 else 'MISSED'}"
        )


if __name__ == "__main__":
    main()
