"""Runs a function in several processes that share a gloo group, as Ray Train's workers do on CPU."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def in_processes(workers: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """`function(*arguments)` in `workers` processes; what each returned, by rank. With one, in a process as well."""
    with tempfile.TemporaryDirectory() as folder:
        # Imports take longer than most checks: a server makes them once, and every process is forked from it.
        multiprocessing.set_forkserver_preload(["torch", "torchvision", "numpy", "pydantic", "pytest", "methods"])
        mp.start_processes(
            _entry, args=(workers, folder, function, arguments), nprocs=workers, start_method="forkserver"
        )
        return [torch.load(Path(folder, f"{rank}.pt"), weights_only=False) for rank in range(workers)]


def _entry(rank: int, workers: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    if workers > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=workers)
    torch.save(function(*arguments), Path(folder, f"{rank}.pt"))
    if workers > 1:
        dist.barrier()
        dist.destroy_process_group()
