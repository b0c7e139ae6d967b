"""The epochs of a trial at whose end training pauses for validation."""

from __future__ import annotations

from collections.abc import Iterable


def milestones(epochs: int, every: int) -> list[int]:
    """The epochs, counted from 1, after which a trial is scored: multiples of `every`, and the last."""
    return sorted({*range(every, epochs, every), epochs})


def remaining(all_of_them: Iterable[int], epoch: int, batch: int) -> list[int]:
    """The milestones after (epoch, batch). A trial at the very end of one is scored there again: it may have stopped before."""
    return [at for at in all_of_them if at > epoch or (at == epoch and batch == 0)]
