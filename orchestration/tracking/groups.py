"""The groups of workers that trained a run, one after another: how many workers, from which step, and why a new group.

The list is a file in the run's storage. Tags and the marks on the training curve follow from it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import pairwise

from datasets.storage.store import Store

FILE = "groups.json"


class After(StrEnum):
    """What came before a group."""

    START = "start"  # of a command: `redress train`, also with --resume
    LOSS = "loss"
    PREEMPTION = "pre-emption"
    GROWTH = "growth"


RESTARTS = (After.LOSS, After.PREEMPTION)


@dataclass(frozen=True)
class Group:
    """workers: how many. step: the first one it trained. began: ms since the epoch."""

    workers: int
    step: int
    after: After
    began: int


def read(store: Store) -> list[Group]:
    """The groups that have trained, in order; none for runs of older versions."""
    if not store.exists(FILE):
        return []
    return [Group(**entry | {"after": After(entry["after"])}) for entry in json.loads(store.read(FILE))]


def add(store: Store, workers: int, step: int, after: After) -> list[Group]:
    """Note a group that trains now; returns all."""
    groups = [*read(store), Group(workers, step, after, time.time_ns() // 1_000_000)]
    store.write(FILE, json.dumps([asdict(group) for group in groups]).encode())
    return groups


def tags(groups: Sequence[Group]) -> dict[str, int]:
    """workers: of the newest group. restarts: groups after a loss or a pre-emption. resizes: changes of size."""
    return {
        "workers": groups[-1].workers,
        "restarts": sum(group.after in RESTARTS for group in groups),
        "resizes": sum(before.workers != now.workers for before, now in pairwise(groups)),
    }


def marks(groups: Sequence[Group]) -> list[tuple[int, str]]:
    """(step, text) wherever a group followed another: what happened, and the sizes where they differ."""
    found = []
    for before, now in pairwise(groups):
        sizes = f" {before.workers} → {now.workers}" if before.workers != now.workers else ""
        found.append((now.step, f"{now.after}{sizes}"))
    return found
