"""What a step of each row of IFD's Table II costs: CPU time on one thread, and memory beside the baseline's.

    python -m benchmarks.methods.ifd [--rows baseline IFD ...] [--data FOLDER]

Renders the preset `default` below build/ifd unless --data names it. The table itself is `benchmarks.papers.ifd`.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from pathlib import Path

import torch

from benchmarks.papers.ablation import in_child, plan, prepare_data
from benchmarks.papers.ifd import ABLATION, ROWS
from datasets.shards.dataset import Dataset
from methods.method import Batch
from orchestration.config import build

MODULE = "benchmarks.methods.ifd"
COST_STEPS = 11


def cost(row: str, data: Path) -> dict[str, float]:
    """CPU seconds of a step of the last stage, and the peak of memory above what there was before the first one."""
    torch.set_num_threads(1)
    wanted = plan(ABLATION, row, 1, data, [], validation=False).experiment
    dataset = Dataset.open(str(data))
    facts = build.describe_data(dataset, dataset.index("train"))
    size = (wanted.augment.height, wanted.augment.width)
    images = torch.randn(wanted.batch.people * wanted.batch.images, 3, *size)
    person = torch.arange(wanted.batch.people).repeat_interleave(wanted.batch.images)
    batch = Batch(images, person, person, torch.randint(0, 20, (len(images), *size), dtype=torch.uint8))
    before = peak_mib()
    method = build.build_method(wanted, facts)
    method.begin_epoch(wanted.epochs - 1)
    (optimizer,) = build.build_optimization(wanted, method).optimizers.values()
    seconds = []
    for _ in range(COST_STEPS):
        started = time.process_time()
        for update in method.updates(batch):
            optimizer.zero_grad()
            update.loss.backward()
            optimizer.step()
        seconds.append(time.process_time() - started)
    return {"step_s": statistics.median(seconds), "mib": peak_mib() - before}


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def report_cost(rows: list[str], data: Path) -> None:
    """Each row's step and memory beside the baseline's."""
    costs = {row: in_child(MODULE, ["--cost", row, "--data", str(data)]) for row in dict.fromkeys(["baseline", *rows])}
    for row, found in costs.items():
        times = {key: found[key] / costs["baseline"][key] for key in found}
        print(
            f"{row:10s}{1000 * found['step_s']:8.0f} ms of CPU a step ({times['step_s']:.2f} ×)"
            f"{found['mib']:8.0f} MiB ({times['mib']:.2f} ×)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--data", type=Path, help="people rendered before; otherwise they are rendered")
    parser.add_argument("--cost", metavar="ROW", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cost:
        print(json.dumps(cost(args.cost, args.data)))
    else:
        report_cost(args.rows, args.data or prepare_data(ABLATION.build, validation=False))


if __name__ == "__main__":
    main()
