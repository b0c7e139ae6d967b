"""What fsdp and ZeRO cost a step beside data-parallel, and what they hold, on two workers of one thread each.

    python -m benchmarks.operations.strategies [--json]

CAL in its adversarial stage with Adam on 16 images of 128×64 in a global batch: the methods of this house with the strategies
that its workers use, without Ray, storage or decoding. The strategies take turns in the same two processes. CPU time is that of
a worker; what it holds are the numbers of weights, gradients and optimizer states on its own side after a step.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Adam, Optimizer

from benchmarks.report import Targets, options, run
from methods.cal import CAL, CALSettings
from methods.distributed import synchronise
from methods.method import Batch, DataFacts
from orchestration.engine.strategies.choice import build_strategy
from orchestration.engine.strategies.strategy import Strategy

PERSONS, IMAGES, SIZE = 8, 16, (128, 64)
ROUNDS, WARM = 9, 2
STRATEGIES: dict[str, dict[str, Any]] = {
    "data-parallel": {},
    "fsdp": {"name": "fsdp"},
    "zero-1": {"name": "zero", "stage": 1},
    "zero-2": {"name": "zero", "stage": 2},
}
TARGETS: Targets = {
    f"{name}: CPU of a step, against data-parallel": ("<=", 1.5) for name in STRATEGIES if name != "data-parallel"
}


class Training:
    """CAL under one strategy, in this process."""

    def __init__(self, chosen: dict[str, Any]) -> None:
        torch.manual_seed(0)
        settings = CALSettings(backbone="resnet50", width=0.5, adversarial_from_epoch=0)
        self.method = CAL(settings, DataFacts(PERSONS, torch.arange(PERSONS)))
        synchronise(self.method)
        self.method.train().begin_epoch(0)
        self.optimizers: dict[str, Optimizer] = {
            name: Adam([p for _, p in pairs], lr=1e-4) for name, pairs in self.method.parameters_of().items()
        }
        self.strategy: Strategy = build_strategy(**chosen)
        self.strategy.prepare(self.method, self.optimizers)
        share = IMAGES // self.strategy.workers
        each = torch.arange(share) % PERSONS
        self.batch = Batch(torch.randn(share, 3, *SIZE), each, each)

    def step(self) -> float:
        """CPU seconds."""
        dist.barrier()
        began = time.process_time()
        for update in self.method.updates(self.batch):
            self.strategy.backward(update.optimizer, update.loss)
            self.strategy.gradient_norm(update.optimizer)
            self.strategy.step(update.optimizer)
        return time.process_time() - began

    def held(self) -> int:
        """Bytes of weights and optimizer states that are this worker's own, each storage once."""
        owned = [p for one in self.optimizers.values() for group in one.param_groups for p in group["params"]]
        states = [value for one in self.optimizers.values() for state in one.state.values() for value in state.values()]
        tensors = [*self.method.parameters(), *owned, *(value for value in states if isinstance(value, Tensor))]
        local = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in local}
        return sum(storages.values())


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    trainings = {name: Training(chosen) for name, chosen in STRATEGIES.items()}
    seconds: dict[str, list[float]] = {name: [] for name in STRATEGIES}
    for index in range(ROUNDS + WARM):
        for name, training in trainings.items():
            spent = training.step()
            if index >= WARM:
                seconds[name].append(spent)
    found = {name: (statistics.median(seconds[name]), training.held()) for name, training in trainings.items()}
    if rank == 0:
        torch.save(found, Path(folder, "found.pt"))
    dist.barrier()
    dist.destroy_process_group()


def measure(args: Namespace) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(worker, args=(folder,), nprocs=2)
        found = torch.load(Path(folder, "found.pt"))
    plain, held = found["data-parallel"]
    results = {"data-parallel: CPU of a step, ms": 1000 * plain, "data-parallel: held by a worker, MiB": held / 2**20}
    for name, (seconds, own) in found.items():
        if name != "data-parallel":
            results |= {
                f"{name}: CPU of a step, against data-parallel": seconds / plain,
                f"{name}: held by a worker, against data-parallel": own / held,
            }
    return results


def main() -> None:
    run(options(__doc__), TARGETS, measure)


if __name__ == "__main__":
    main()
