"""Which rows of a tensor with one row for each class a worker holds, and how they start."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from methods.distributed import rank, world_size

BLOCK = 1 << 20  # numbers that are drawn at once; a multiple of the 16 that torch turns from uniform to normal together


@dataclass(frozen=True)
class Rows:
    """The rows `first` … `first + count − 1` of a tensor of `total` rows."""

    first: int
    count: int
    total: int

    @property
    def end(self) -> int:
        return self.first + self.count

    @property
    def is_part(self) -> bool:
        return self.count < self.total

    def numbers(self, device: torch.device | str | None = None) -> Tensor:
        """int64 [count]: the numbers of the rows, ascending."""
        return torch.arange(self.first, self.end, device=device)


class Share(NamedTuple):
    """A worker's share of all classes: the one numbered `part` of `parts`. With 0 parts it has no class."""

    part: int
    parts: int

    def of(self, total: int) -> Rows:
        """Its rows of a tensor of `total`; those of two workers differ by one at most.

        Raises: ValueError where there are more parts than rows.
        """
        if self.parts > total:
            raise ValueError(f"{self.parts} workers cannot share {total} classes. Set workers to at most {total}")
        if not self.parts:
            return Rows(0, 0, total)
        first, end = (total * part // self.parts for part in (self.part, self.part + 1))
        return Rows(first, end - first, total)


WHOLE, NONE = Share(0, 1), Share(0, 0)


def own_share() -> Share:
    """This worker's."""
    return Share(rank(), world_size())


class HoldsRows(nn.Module):
    """A module that may hold a part of the rows of some of its parameters and buffers.

    held_rows: which, by the tensor's name in the module. Gradients of such a parameter stay with the worker, optimizers
    step its rows alone, and checkpoints hold each worker's rows.
    """

    held_rows: Mapping[str, Rows] = {}


def held_rows(module: nn.Module) -> dict[str, Rows]:
    """The parameters and buffers that are divided over workers, by name as in `state_dict`, and which rows are here."""
    return {
        f"{prefix}.{name}" if prefix else name: rows
        for prefix, child in module.named_modules()
        if isinstance(child, HoldsRows)
        for name, rows in child.held_rows.items()
    }


def parts_of(module: nn.Module) -> dict[str, Rows]:
    """As `held_rows`, without tensors that are here with all of their rows."""
    return {name: rows for name, rows in held_rows(module).items() if rows.is_part}


def filled(rows: Rows, width: int, fill: Callable[[Tensor], Tensor]) -> Tensor:
    """Own rows [count, width] of the tensor [total, width] that `fill` would fill with torch's random numbers as a whole.

    The bits are the same, and so is the state of the random generator afterwards, but a block at a time is in memory.
    Where no rows are held nothing is drawn. fill: changes a flat tensor in place, each number alike, and returns it.
    """
    own = torch.empty(rows.count * width)
    if own.is_meta or not own.numel():
        return own.view(rows.count, width)
    first = rows.first * width
    for start, end in blocks(rows.total * width):
        block = fill(torch.empty(end - start))
        low, high = max(start, first), min(end, first + own.numel())
        if low < high:
            own[low - first : high - first] = block[low - start : high - start]
    return own.view(rows.count, width)


def blocks(total: int, size: int = BLOCK) -> Iterator[tuple[int, int]]:
    """(start, end) of blocks of `size` numbers. The last is longer: torch draws a tensor's last 16 normal numbers anew where
    its length is no multiple of 16."""
    start = 0
    while total - start >= 2 * size:
        yield start, start + size
        start += size
    yield start, total
