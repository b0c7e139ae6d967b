"""When a trial is scored: epochs of a run at which training pauses for validation."""

from __future__ import annotations

from collections.abc import Iterable


def milestones(epochs: int, every: int) -> list[int]:
    """The epochs after which a trial is scored: every so many, and the last."""
    return sorted({*range(every, epochs, every), epochs})


def remaining(all_of_them: Iterable[int], epoch: int, batch: int) -> list[int]:
    """Those that a trial at this position has still to be scored at; at the end of one, perhaps that one again."""
    return [at for at in all_of_them if at > epoch or (at == epoch and batch == 0)]
