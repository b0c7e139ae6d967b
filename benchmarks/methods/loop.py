"""The loop under Ray Train against the same loop in one plain process, and the share of a step spent waiting for data.

Targets: at most 3 % slower per step at steps of 0.3 s or more; data wait at most 3 % of a step. Both sides run the same
worker code on one thread and keep a journal; the figures are medians of its steps, the first quarter left out. The two
take turns, so that a machine whose speed drifts is fair to both.

    python -m benchmarks.methods.loop
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch

from datasets.shards.dataset import Dataset
from datasets.storage.store import open_store
from datasets.synthetic.dataset import render_dataset
from orchestration import cluster
from orchestration.config import build
from orchestration.config.load import Experiment, load
from orchestration.tracking import journal
from orchestration.training.worker import WorkerConfig, run, train_worker

ROUNDS = 3
SETTINGS = ["workers=1", "threads=1", "epochs=2", "method.width=0.75", "checkpoint.every_epochs=100"]


def worker_config(experiment: Experiment, folder: Path) -> WorkerConfig:
    dataset = Dataset.open(experiment.data)
    facts = build.describe_data(dataset, dataset.index("train"))
    return WorkerConfig(experiment.resolved(), str(folder), facts)


def in_plain_process(config: WorkerConfig) -> None:
    torch.set_num_threads(1)
    run(config, open_store(config.run), torch.device("cpu"))


def under_ray(config: WorkerConfig) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    TorchTrainer(
        train_worker,  # type: ignore[arg-type]
        train_loop_config=asdict(config),
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(name="train", storage_path=f"{config.run}/ray"),
    ).fit()


def steps(folder: Path) -> tuple[list[float], list[float]]:
    """Seconds of each step, and of its waiting for data."""
    metrics = [record["metrics"] for _, record in journal.read_steps(open_store(str(folder)))]
    settled = metrics[len(metrics) // 4 :]
    return [m["speed/step-s"] for m in settled], [m["speed/data-wait-s"] for m in settled]


def main() -> None:
    sides = {"plain process": in_plain_process, "Ray Train": under_ray}
    times: dict[str, list[float]] = {side: [] for side in sides}
    waits: dict[str, list[float]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root:
        print("rendering", file=sys.stderr)
        render_dataset(f"{root}/data", preset="demo")
        experiment = load("baseline-demo", [f"data={root}/data", f"storage={root}/runs", *SETTINGS])
        cluster.connect()
        for n in range(ROUNDS):
            for side, train in sides.items():
                folder = Path(root, f"{side}-{n}".replace(" ", "-"))
                train(worker_config(experiment, folder))
                of_step, of_wait = steps(folder)
                times[side] += of_step
                waits[side] += of_wait
                print(f"round {n + 1}, {side}: {statistics.median(of_step):.3f} s a step", file=sys.stderr)
    for side in sides:
        step = statistics.median(times[side])
        wait = sum(waits[side]) / sum(times[side])
        print(f"{side}: {step:.3f} s a step (median of {len(times[side])}), waiting for data {100 * wait:.2f} %")
    ratio = statistics.median(times["Ray Train"]) / statistics.median(times["plain process"])
    print(f"Ray Train / plain process: {ratio:.3f} (target: at most 1.03)")


if __name__ == "__main__":
    main()
