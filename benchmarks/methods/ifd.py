"""Table II of IFD on rendered people: what each part of the method adds, and what it costs.

    python -m benchmarks.methods.ifd [--rows baseline IFD ...]
    python -m benchmarks.methods.ifd --train [--seeds 1 2 3] [--rows baseline IKT CBD SupCon IFD]
        [--jobs 1] [--set key=value ...]

Renders the preset `default` and measures a step of each row: CPU time, one thread, and memory beside the baseline's. With
--train each row is trained with each seed by the recipe ifd-demo, one thread each, and scored on the test people by LTCC's
protocol. It can be stopped at any time: what is finished is kept below build/ifd, and a row in the middle goes on from its
last epoch. `--validation` trains on 90 of the 120 people and scores on the other 30 instead: for choosing settings (`--set`,
as for `redress train`) without looking at the test people. About 80 minutes of CPU in all.

Expected: IFD well above the baseline in clothes-changing rank-1. The paper's own numbers are no target.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from pathlib import Path

import torch

from benchmarks.papers.ablation import (
    Ablation,
    arguments,
    finish_trial,
    in_child,
    plan,
    prepare_data,
    report,
    train_rows,
)
from datasets.shards.dataset import Dataset
from methods.method import Batch
from orchestration.config import build

ATTENTION_EPOCHS, JOINT_EPOCHS = 10, 26
# A narrower network and more people in a batch than the recipe: more, and better, steps for the same time. A batch shows a
# person in four outfits, once each, so every positive of Eq. 5 weighs 1/T; --set batch.appearances=2 has both weights in it.
SHARED = [
    "method.width=0.25",
    "batch={people: 16, images: 4, sampler: appearance, appearances: 4, lanes: 1}",
    "workers=1",
    f"method.joint_from_epoch={ATTENTION_EPOCHS}",
]


def after(first: int) -> list[str]:
    """The main stream has the same number of epochs and the same schedule in every row, from epoch `first` on."""
    milestone = first + round(0.7 * JOINT_EPOCHS)
    return [*SHARED, f"epochs={first + JOINT_EPOCHS}", f"optimizers.model.schedule.milestones=[{milestone}]"]


ROWS = {
    "baseline": [*after(0), "method.knowledge_transfer=false", "method.clothing_loss=none"],
    "IKT": [*after(ATTENTION_EPOCHS), "method.clothing_loss=none"],
    "CBD": [*after(0), "method.knowledge_transfer=false"],
    "SupCon": [*after(ATTENTION_EPOCHS), "method.clothing_loss=supervised"],
    "IFD": after(ATTENTION_EPOCHS),
}
ABLATION = Ablation("benchmarks.methods.ifd", "ifd-demo", Path("build/ifd"), ROWS)
COST_STEPS = 11


def cost(row: str, data: Path) -> dict[str, float]:
    """CPU seconds of a step of the last stage, and the peak of memory above what there was before the first one."""
    torch.set_num_threads(1)
    wanted = plan(ABLATION, row, 1, data, [], validation=False).experiment
    dataset = Dataset.open(str(data))
    facts = build.describe_data(dataset.index("train"), dataset.manifest.label_map)
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


def report_gain(means: dict[str, dict[str, float]]) -> None:
    if {"baseline", "IFD"} <= means.keys():
        more = means["IFD"]["clothes-changing/rank-1"] - means["baseline"]["clothes-changing/rank-1"]
        print(f"clothes-changing rank-1, IFD above the baseline: {more:+.1f} points (expected: well above 0)")


def report_cost(rows: list[str], data: Path) -> None:
    """Each row's step and memory beside the baseline's."""
    costs = {
        row: in_child(ABLATION.module, ["--cost", row, "--data", str(data)])
        for row in dict.fromkeys(["baseline", *rows])
    }
    for row, found in costs.items():
        times = {key: found[key] / costs["baseline"][key] for key in found}
        print(
            f"{row:10s}{1000 * found['step_s']:8.0f} ms of CPU a step ({times['step_s']:.2f} ×)"
            f"{found['mib']:8.0f} MiB ({times['mib']:.2f} ×)"
        )


def main() -> None:
    parser = arguments(ABLATION, __doc__)
    parser.add_argument("--cost", metavar="ROW", help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.cost:
        print(json.dumps(cost(words.cost, words.data)))
    elif words.trial:
        finish_trial(ABLATION, words)
    elif words.train:
        report_gain(report(train_rows(ABLATION, words)))
    else:
        report_cost(words.rows, words.data or prepare_data(ABLATION.build, validation=False))


if __name__ == "__main__":
    main()
