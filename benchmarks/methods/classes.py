"""A step of CAL with many persons and outfits whose classifiers are divided over workers, and the memory that it takes.

    python -m benchmarks.methods.classes [--persons 1000000 --outfits 2000000] [--workers 2] [--json]

A narrow network on small images, so that classifiers are nearly all there is: descriptors of 64 numbers, 16 images in a global
batch, Adam, the whole step of the loop with its backup for steps that are not finite. `whole` is the same with classifiers that
every worker holds; it is left out above a million classes. Memory is the peak of a worker beyond its imports. What a worker
holds are the numbers of classifiers, their gradients and their optimizer states. CPU time is that of a worker's last step.
"""

from __future__ import annotations

import tempfile
import time
from argparse import Namespace
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.optim import Adam, Optimizer

from benchmarks.report import Targets, options, peak_gib, run
from datasets.streaming.stream import HostBatch
from methods.cal import CAL, CALSettings
from methods.distributed import synchronise
from methods.method import Batch, DataFacts
from orchestration.engine.loop import Optimization, TrainingProgress, train_step
from orchestration.engine.strategies.choice import build_strategy

IMAGES, SIZE, STEPS = 16, (32, 16), 3
MOST_WHOLE = 1_000_000  # classes
HELD = "divided: workers × what one holds, against whole"
TARGETS: Targets = {HELD: ("<=", 1.001)}  # some hold a class more than others
NONE = torch.empty(0, dtype=torch.int64)
HOST = HostBatch(NONE, None, NONE, NONE, NONE, NONE, number=0, wait_s=0.0)


def steps(persons: int, outfits: int, *, shard_classes: bool) -> dict[str, float]:
    """A few steps in this process and its group."""
    before = peak_gib()
    torch.manual_seed(0)
    settings = CALSettings(backbone="resnet18", width=1 / 16, adversarial_from_epoch=0, shard_classes=shard_classes)
    method = CAL(settings, DataFacts(persons, torch.arange(outfits) * persons // outfits))
    synchronise(method)
    method.train().begin_epoch(0)
    optimizers: dict[str, Optimizer] = {
        name: Adam([p for _, p in pairs], lr=1e-3, fused=True) for name, pairs in method.parameters_of().items()
    }
    strategy = build_strategy()
    strategy.prepare(method, optimizers)
    share = IMAGES // strategy.workers
    random = torch.Generator().manual_seed(strategy.rank)
    clothes = torch.randint(0, outfits, (share,), generator=random)
    batch = Batch(torch.randn(share, 3, *SIZE, generator=random), method.clothes_owner[clothes], clothes)
    for step in range(STEPS):
        began = time.process_time()
        at = TrainingProgress(0, step, step)
        logs = train_step(method, batch, Optimization(optimizers, lambda *_: 1.0), strategy, "float32", at, HOST)
        seconds = time.process_time() - began
    held = 0
    for name, pairs in method.parameters_of().items():
        for parameter in (parameter for parameter_name, parameter in pairs if "classifier" in parameter_name):
            states = [state for state in optimizers[name].state[parameter].values() if state.ndim]
            held += sum(tensor.numel() for tensor in (parameter, parameter.grad, *states) if tensor is not None)
    return {"GiB": peak_gib() - before, "seconds": seconds, "held": held, "loss": logs["loss/model"]}


def worker(rank: int, folder: str, workers: int, persons: int, outfits: int, shard_classes: bool) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=workers)
    torch.save(steps(persons, outfits, shard_classes=shard_classes), Path(folder, f"{rank}.pt"))
    dist.barrier()
    dist.destroy_process_group()


def group(args: Namespace, *, shard_classes: bool) -> list[dict[str, float]]:
    """What each worker of a fresh group measured."""
    with tempfile.TemporaryDirectory() as folder:
        given = (folder, args.workers, args.persons, args.outfits, shard_classes)
        mp.spawn(worker, args=given, nprocs=args.workers)
        return [torch.load(Path(folder, f"{rank}.pt")) for rank in range(args.workers)]


def measure(args: Namespace) -> dict[str, float]:
    divided = group(args, shard_classes=True)
    whole_numbers = 4 * (args.persons * 65 + args.outfits * 64)  # each with its gradient and two moments
    largest = max(one["held"] for one in divided)
    results = {
        "million classes": (args.persons + args.outfits) / 1e6,
        "divided: peak memory of a worker, GiB": max(one["GiB"] for one in divided),
        "divided: CPU of a step, s": max(one["seconds"] for one in divided),
        HELD: largest * args.workers / whole_numbers,
    }
    if args.persons + args.outfits <= MOST_WHOLE:
        whole = group(args, shard_classes=False)
        results |= {
            "whole: peak memory of a worker, GiB": max(one["GiB"] for one in whole),
            "whole: CPU of a step, s": max(one["seconds"] for one in whole),
            "loss of the last step, divided − whole": abs(divided[0]["loss"] - whole[0]["loss"]),
        }
    return results


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--persons", type=int, default=100_000)
    parser.add_argument("--outfits", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=2)
    run(parser, TARGETS, measure)


if __name__ == "__main__":
    main()
