"""Whether a sweep's trial continues after it was scored: files in the run's storage, which its workers read.

A stop signal in the storage outlives the process that sent it: a stopped trial stays stopped, however the sweep ends.
"""

from __future__ import annotations

import json
import time

import torch
import torch.distributed as dist

from datasets.storage.store import Store

STOPPED, GO_ON = "stopped.json", "go-on.json"
POLL_S = 0.2


def send_stop(store: Store, epoch: int, reason: str) -> None:
    store.write(STOPPED, json.dumps({"epoch": epoch, "reason": reason}).encode())


def send_continue(store: Store, epoch: int) -> None:
    """Let a trial train on that was scored after `epoch` epochs."""
    store.write(GO_ON, json.dumps({"epoch": epoch}).encode())


def stop_reason(store: Store) -> str | None:
    """Why the trial was stopped; None if it was not."""
    return str(json.loads(store.read(STOPPED))["reason"]) if store.exists(STOPPED) else None


def should_continue(store: Store, epoch: int, *, wait: bool) -> bool:
    """Whether a trial continues after `epoch` epochs; the same answer on every worker.

    wait: until the sweep has sent a signal for this epoch. Otherwise the trial continues unless it was stopped.
    """
    answer = torch.ones(1)
    if not dist.is_initialized() or dist.get_rank() == 0:
        answer[0] = float(wait_for_signal(store, epoch) if wait else stop_reason(store) is None)
    if dist.is_initialized():
        answer = answer.cuda() if dist.get_backend() == "nccl" else answer
        dist.broadcast(answer, src=0)
    return bool(answer.item())


def wait_for_signal(store: Store, epoch: int) -> bool:
    while True:
        if stop_reason(store) is not None:
            return False
        if store.exists(GO_ON) and json.loads(store.read(GO_ON))["epoch"] >= epoch:
            return True
        time.sleep(POLL_S)
