"""Whether a sweep's trial continues after it was scored: files in the run's storage, which its workers read.

A stop signal in the storage outlives the process that sent it: a stopped trial stays stopped, however the sweep ends.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import torch
import torch.distributed as dist

from datasets.storage.store import Store

STOPPED, GO_ON = "stopped.json", "go-on.json"
POLL_S = 0.2
ROUND_S = 5.0


def send_stop(store: Store, epoch: int, reason: str) -> None:
    store.write(STOPPED, json.dumps({"epoch": epoch, "reason": reason}).encode())


def send_continue(store: Store, epoch: int) -> None:
    """Let a trial train on that was scored after `epoch` epochs."""
    store.write(GO_ON, json.dumps({"epoch": epoch}).encode())


def stop_reason(store: Store) -> str | None:
    """Why the trial was stopped; None if it was not."""
    return str(json.loads(store.read(STOPPED))["reason"]) if store.exists(STOPPED) else None


def should_continue(store: Store, epoch: int, *, wait: bool, on_poll: Callable[[], None] = lambda: None) -> bool:
    """Whether a trial continues after `epoch` epochs; the same answer on every worker.

    wait: until the sweep has sent a signal for this epoch. Otherwise the trial continues unless it was stopped.
    on_poll: called while the trial waits, at least every `ROUND_S` seconds on each worker.
    """
    while (answer := shared(answer_within(store, epoch, wait=wait))) is None:
        on_poll()
    return answer


def answer_within(store: Store, epoch: int, *, wait: bool) -> bool | None:
    """Rank 0's answer; None where none came within `ROUND_S`. On other ranks None."""
    if dist.is_initialized() and dist.get_rank() != 0:
        return None
    deadline = time.monotonic() + ROUND_S
    while True:
        if stop_reason(store) is not None:
            return False
        if not wait or (store.exists(GO_ON) and json.loads(store.read(GO_ON))["epoch"] >= epoch):
            return True
        if time.monotonic() >= deadline:
            return None
        time.sleep(POLL_S)


def shared(answer: bool | None) -> bool | None:
    """Rank 0's answer on every worker. The others wait for it in a collective, so none may take long."""
    if not dist.is_initialized():
        return answer
    coded = torch.tensor([-1.0 if answer is None else float(answer)])
    coded = coded.cuda() if dist.get_backend() == "nccl" else coded
    dist.broadcast(coded, src=0)
    return None if coded.item() < 0 else bool(coded.item())
