"""A run's speed while it is under way, for Prometheus: Ray exports each gauge of rank 0 as ray_<name>.

The journal has the same numbers, of every step and for good. A set gauge costs 8 µs.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch

from datasets.storage.address import parse_address
from orchestration.engine.loop import StepReport

RUN, EXPERIMENT = "run", "experiment"  # the tags of every gauge: MLflow's id of the run, and the experiment's name
STARTED, GPU_MEMORY = "redress_started_timestamp_seconds", "redress_gpu_memory_bytes"
# Gauge → the metric of a step that it shows.
OF_A_STEP = {
    "redress_images_per_second": "speed/images-per-s",
    "redress_data_wait_seconds": "speed/data-wait-s",
    "redress_step_seconds": "speed/step-s",
}
HELP = {
    "redress_images_per_second": "Images of all workers in a second of the last step.",
    "redress_data_wait_seconds": "Seconds that rank 0 waited for the last step's data.",
    "redress_step_seconds": "Seconds of the last step.",
    STARTED: "When rank 0 began or resumed the run, in seconds since 1970: it grows with each restart.",
    GPU_MEMORY: "Most memory that torch has reserved on rank 0's GPU.",
}


class LiveMetrics:
    """The gauges of a run. Outside a Ray cluster there are none, and nothing is shown."""

    def __init__(self, run: str, experiment: str) -> None:
        """run: the address of the run's storage, whose last part is the run's id."""
        self.gauges = build_gauges({RUN: parse_address(run).name, EXPERIMENT: experiment}) if is_in_cluster() else {}
        self.set(STARTED, time.time())

    def show(self, report: StepReport) -> None:
        for name, metric in OF_A_STEP.items():
            self.set(name, report.metrics.get(metric))
        self.set(GPU_MEMORY, gpu_memory())

    def set(self, name: str, value: float | None) -> None:
        """None, as of a stage that reads no images: the gauge stays as it is."""
        if name in self.gauges and value is not None:
            self.gauges[name].set(value)


def build_gauges(tags: dict[str, str]) -> dict[str, Any]:
    from ray.util.metrics import Gauge

    gauges = {name: Gauge(name, description=text, tag_keys=tuple(tags)) for name, text in HELP.items()}
    for gauge in gauges.values():
        gauge.set_default_tags(tags)
    return gauges


def is_in_cluster() -> bool:
    ray = sys.modules.get("ray")  # a worker has imported it; a training without Ray does without
    return ray is not None and bool(ray.is_initialized())


def gpu_memory() -> int | None:
    """Bytes; None without a GPU."""
    return torch.cuda.max_memory_reserved() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
