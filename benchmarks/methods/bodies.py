"""What each body costs beside ResNet-50, as far as Table III of pixel sampling compares them.

    python -m benchmarks.methods.bodies [--bodies global pcb mgn hpm ...] [--backbone resnet50] [--size 384 128]
        [--batch 8] [--steps 3]

Each body trains the baseline for a few steps on noise, one thread, in a process of its own; time is the CPU's, of the median
step, memory the peak above what there was before the network. "pcb refined" is PCB with refined part pooling in its last
phase. Parameters are counted without the classifiers, as they are used at test time. Expected: MGN, which has most of a
ResNet three times, at most three times the baseline's time; the others, which add heads only, at most a fifth more. The table
itself is `benchmarks.papers.bodies`.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch

from methods.baseline import Baseline, BaselineSettings
from methods.method import Batch, DataFacts

BODIES: dict[str, dict[str, Any]] = {
    "global": {},
    "pcb": {"body": "pcb"},
    "pcb refined": {"body": "pcb", "refine_from_epoch": 0, "finetune_from_epoch": 0},
    "mgn": {"body": "mgn"},
    "hpm": {"body": "hpm"},
}
PERSONS = 150  # of PRCC
AT_MOST = {"pcb": 1.2, "pcb refined": 1.2, "hpm": 1.2, "mgn": 3.0}


def cost(args: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = torch.randn(args.batch, 3, *args.size)
    person = torch.arange(args.batch) // 2
    before = peak_mib()
    facts = DataFacts(PERSONS, torch.zeros(0, dtype=torch.int64))
    method = Baseline(BaselineSettings(backbone=args.backbone, **BODIES[args.body]), facts)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.01, momentum=0.9)
    method.begin_epoch(0)
    seconds = []
    for _ in range(args.steps + 1):
        began = time.process_time()
        for update in method.updates(Batch(images, person, person)):
            optimizer.zero_grad()
            update.loss.backward()
            optimizer.step()
        seconds.append(time.process_time() - began)
    return {
        "parameters": sum(p.numel() for p in method.encoder.parameters()),
        "dim": method.encoder.dim,
        "step_s": statistics.median(seconds[1:]),
        "mib": peak_mib() - before,
    }


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def cost_in_child(body: str, args: argparse.Namespace) -> dict[str, Any]:
    """`cost` in a process of its own: a peak of memory is a process's."""
    options = ["--body", body, "--backbone", args.backbone, "--size", *map(str, args.size)]
    options += ["--batch", str(args.batch), "--steps", str(args.steps)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.methods.bodies", *options], stdout=subprocess.PIPE, text=True, check=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def report_costs(args: argparse.Namespace) -> None:
    print(f"{args.backbone}, {args.batch} images {args.size[0]} × {args.size[1]}, one thread")
    first: dict[str, Any] = {}
    for body in dict.fromkeys(["global", *args.bodies]):
        found = cost_in_child(body, args)
        first = first or found
        times, memory = found["step_s"] / first["step_s"], found["mib"] / first["mib"]
        over = "  more than expected" if times > AT_MOST.get(body, times) else ""
        print(
            f"{body:12s}{found['parameters'] / 1e6:8.2f} M parameters{found['dim']:7d} numbers"
            f"{found['step_s']:8.2f} s of CPU a step ({times:.2f} ×){found['mib']:8.0f} MiB ({memory:.2f} ×){over}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bodies", nargs="+", choices=BODIES, default=list(BODIES))
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--size", nargs=2, type=int, default=[384, 128], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--body", choices=BODIES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.body:
        print(json.dumps(cost(args)))
    else:
        report_costs(args)


if __name__ == "__main__":
    main()
