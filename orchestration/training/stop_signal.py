"""Whether a sweep's trial goes on after it was scored: files in the run's storage, which its workers wait for.

A verdict in the storage outlives whoever gave it: a trial that was stopped is known to be, however the sweep ends.
"""

from __future__ import annotations

import json
import time

import torch
import torch.distributed as dist

from datasets.storage.store import Store

STOPPED, GO_ON = "stopped.json", "go-on.json"
POLL_S = 0.2


def stop(store: Store, epoch: int, reason: str) -> None:
    store.write(STOPPED, json.dumps({"epoch": epoch, "reason": reason}).encode())


def go_on(store: Store, epoch: int) -> None:
    store.write(GO_ON, json.dumps({"epoch": epoch}).encode())


def stopped(store: Store) -> str | None:
    """Why the trial was stopped; None where it was not."""
    return str(json.loads(store.read(STOPPED))["reason"]) if store.exists(STOPPED) else None


def goes_on(store: Store, epoch: int, *, wait: bool) -> bool:
    """What the sweep says of a trial that has come to the end of `epoch`; every worker of it gets the same answer."""
    answer = torch.ones(1)
    if not dist.is_initialized() or dist.get_rank() == 0:
        answer[0] = float(wait_for(store, epoch) if wait else stopped(store) is None)
    if dist.is_initialized():
        answer = answer.cuda() if dist.get_backend() == "nccl" else answer
        dist.broadcast(answer, src=0)
    return bool(answer.item())


def wait_for(store: Store, epoch: int) -> bool:
    while True:
        if stopped(store) is not None:
            return False
        if store.exists(GO_ON) and json.loads(store.read(GO_ON))["epoch"] >= epoch:
            return True
        time.sleep(POLL_S)
