"""The steps of a training while a checkpoint of 270 MiB is written to a slow store, against steps without.

Target: the longest of all steps until a checkpoint is complete takes at most 5 times the median of the others. Beside it
stands how checkpoints were written before: `safetensors.torch.save` and the writes in the step itself. ResNet-50 with Adam
in one process on one thread; the store sleeps before each write.

    python -m benchmarks.operations.checkpoints
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from benchmarks import report
from datasets.shards.dataset import Dataset
from datasets.storage.store import Store
from datasets.synthetic.dataset import render_dataset
from orchestration.config import build
from orchestration.config.load import Experiment, load
from orchestration.engine import checkpoint
from orchestration.engine.loop import StepReport, TrainingProgress
from orchestration.training.recorder import Recorder
from orchestration.training.worker import Training, WorkerConfig

SLEEP_S = 0.5  # before each of the three writes of a checkpoint
LONGEST = "longest step until a checkpoint is complete / median"
BEFORE = "the same, written in the step"
TARGETS = {LONGEST: ("<=", 5.0)}
SETTINGS = [
    "workers=1", "threads=1", "numerics=native", "epochs=2", "weights=null", "method.backbone=resnet50", "method.width=1",
    "batch={people: 2, images: 2, lanes: 2}", "augment.height=256", "augment.width=128",
    "checkpoint={every_batches: 10, every_epochs: 100, keep: 1}",
]  # fmt: skip


class Slow(Store):
    """A store that takes its time to write a checkpoint."""

    def write(self, path: str, data: bytes | memoryview) -> None:
        if path.startswith(checkpoint.FOLDER):
            time.sleep(SLEEP_S)
        super().write(path, data)


class InThread(Recorder):
    """Sorts the seconds of steps: `during` the writing of a checkpoint, its snapshot included, and the `others`."""

    during: list[float]
    others: list[float]
    saved_before: int | None = None  # the first step after a snapshot

    def on_step(self, report: StepReport) -> None:
        is_writing = self.writer.pending is not None and not self.writer.pending.done()
        steps = self.during if is_writing or report.step == self.saved_before else self.others
        steps.append(report.metrics["speed/step-s"])
        super().on_step(report)

    def save(self, progress: TrainingProgress, **words: Any) -> None:
        self.saved_before = progress.step
        super().save(progress, **words)


class InStep(InThread):
    """Writes checkpoints as redress 0.1.0 did."""

    def save(self, progress: TrainingProgress, **words: Any) -> None:
        self.saved_before, folder = progress.step, checkpoint.folder_of(progress)
        copies = ({name: t.detach().clone() for name, t in tensors.items()} for tensors in self.strategy.full_state())
        contents = dict(zip(checkpoint.FILES, map(safetensors.torch.save, copies), strict=True))
        for name, data in contents.items():
            self.store.write(f"{folder}/{name}", data)
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
        self.store.write(f"{folder}/{checkpoint.DESCRIPTION}", json.dumps(asdict(progress) | digests).encode())
        checkpoint.prune(self.store, folder, 1)


def trained(experiment: Experiment, folder: Path, side: type[InThread]) -> InThread:
    dataset = Dataset.open(experiment.data)
    facts = build.describe_data(dataset, dataset.index("train"))
    config = WorkerConfig(experiment.resolved(), str(folder), facts)
    with closing(Training(config, Slow(str(folder)), torch.device("cpu"))) as training:
        recorder = side(
            training.store, experiment, facts, training.method.stages(), training.strategy, training.journal, 0
        )
        recorder.during, recorder.others = [], []
        training.recorder = recorder
        training.advance(training.last)
        return recorder


def measure(options: argparse.Namespace) -> Mapping[str, float]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root:
        render_dataset(f"{root}/data", preset="tiny")
        experiment = load("baseline-demo", [f"data={root}/data", f"storage={root}/runs", *SETTINGS])
        now, before = (trained(experiment, Path(root, side.__name__), side) for side in (InThread, InStep))
    return {
        "a checkpoint, MiB": (len(now.snapshot.model.content) + len(now.snapshot.optimizers.content)) / 2**20,
        "a step without, median, s": statistics.median(now.others),
        "steps until a checkpoint is complete": len(now.during),
        LONGEST: max(now.during) / statistics.median(now.others),
        BEFORE: max(before.during) / statistics.median(before.others),
    }


if __name__ == "__main__":
    report.run(report.options(__doc__), TARGETS, measure)
