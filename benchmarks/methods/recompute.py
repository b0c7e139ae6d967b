"""What a step costs with activations kept, recomputed, and in micro-batches.

    python -m benchmarks.methods.recompute [--bodies global mgn clip-vit ...] [--batch 16] [--size 128 64] [--steps 2]

Each way trains the baseline on noise, in a process of its own with one thread. Time is the CPU's, of the median step, memory
the peak above what there was before the first step: activations, gradients and momenta. The digest of the weights after the
last step must be the same with and without recomputation. On a GPU (`--device cuda`), memory is the allocator's peak. A
micro-batch is a quarter of the batch, for bodies that compute each image by itself.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import time
from typing import Any

import torch

from benchmarks.report import options, peak_gib, show
from methods.backbones.bodies import BODIES
from methods.baseline import Baseline, BaselineSettings
from methods.distributed import synchronise
from methods.method import Batch, DataFacts
from methods.micro_batches import use_micro_batches
from methods.recompute import recompute_blocks

PERSONS = 150
WAYS = ("kept", "recomputed", "micro-batches")


def main() -> None:
    """Print each figure beside its target."""
    parser = options(__doc__)
    parser.add_argument(
        "--bodies", nargs="+", default=["global", "clip-vit"], choices=sorted(set(BODIES) - {"clip-cnn"})
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, nargs=2, default=[128, 64])
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(cost(args, *args.child)))
        return
    results: dict[str, float] = {}
    targets: dict[str, tuple[str, float]] = {}
    for body in args.bodies:
        ways = WAYS if BODIES[body].is_per_image else WAYS[:2]
        found = {way: in_child(body, way) for way in ways}
        for way in ways:
            results[f"{body}, {way}: memory of a step, MiB"] = found[way]["mib"]
            results[f"{body}, {way}: a step, s"] = found[way]["step_s"]
        for way in ways[1:]:
            results[f"{body}, {way}: memory, share"] = found[way]["mib"] / found["kept"]["mib"]
            results[f"{body}, {way}: time, factor"] = found[way]["step_s"] / found["kept"]["step_s"]
            targets[f"{body}, {way}: time, factor"] = ("<=", 1.5)
        results[f"{body}: weights that differ"] = float(found["kept"]["digest"] != found["recomputed"]["digest"])
        targets[f"{body}: weights that differ"] = ("<=", 0)
    show(results, targets, as_json=args.json)


def in_child(body: str, way: str) -> dict[str, Any]:
    words = [sys.executable, "-m", "benchmarks.methods.recompute", *sys.argv[1:], "--child", body, way]
    done = subprocess.run(words, stdout=subprocess.PIPE, check=True, text=True)
    return dict(json.loads(done.stdout))


def cost(args: argparse.Namespace, body: str, way: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    settings = BaselineSettings.model_validate({"body": body})
    method = (
        synchronise(Baseline(settings, DataFacts(PERSONS, torch.zeros(0, dtype=torch.int64)))).to(args.device).train()
    )
    assert isinstance(method, Baseline)
    if way == "recomputed":
        recompute_blocks(method)
    elif way == "micro-batches":
        use_micro_batches(method, max(1, args.batch // 4))
    images = torch.randn(args.batch, 3, *args.size).to(args.device)
    person = (torch.arange(args.batch) // 2).to(args.device)
    optimizer = torch.optim.SGD([p for _, p in method.parameters_of()["model"]], lr=0.01, momentum=0.9)
    method.begin_epoch(0)
    before, seconds = peak_mib(args.device), []
    for _ in range(args.steps + 1):
        began = clock(args.device)
        for update in method.updates(Batch(images, person, person)):
            optimizer.zero_grad()
            update.loss.backward()
            optimizer.step()
        seconds.append(clock(args.device) - began)
    digest = hashlib.sha256()
    for tensor in method.state_dict().values():
        digest.update(tensor.cpu().numpy().tobytes())
    return {
        "step_s": statistics.median(seconds[1:]),
        "mib": peak_mib(args.device) - before,
        "digest": digest.hexdigest(),
    }


def clock(device: str) -> float:
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def peak_mib(device: str) -> float:
    return peak_gib() * 1024 if device == "cpu" else torch.cuda.max_memory_allocated() / 2**20


if __name__ == "__main__":
    main()
