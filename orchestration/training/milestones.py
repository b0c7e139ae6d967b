"""The epochs at whose end training pauses for validation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def milestones(scored: Sequence[int], every: int, end: int) -> list[int]:
    """The epochs, counted from 1, after which a trial is scored: each `every`-th of the epochs `scored` (from 0, those that
    change a score), and the last of the training, `end`."""
    return sorted({*(epoch + 1 for epoch in scored[every - 1 :: every]), end})


def candidates(scored: Sequence[int], every: int, end: int) -> list[int]:
    """The epochs, counted from 1, whose checkpoints `select: best` chooses from: the multiples of `every` among the epochs
    `scored`, and the last of the training."""
    return sorted({*(epoch + 1 for epoch in scored if (epoch + 1) % every == 0), end})


def remaining(all_of_them: Iterable[int], epoch: int, batch: int) -> list[int]:
    """The milestones after (epoch, batch). A trial at the very end of one is scored there again: it may have stopped before."""
    return [at for at in all_of_them if at > epoch or (at == epoch and batch == 0)]
